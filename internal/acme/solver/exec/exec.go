// Package exec changes zones by a program of the operator.
//
// The program gets one JSON object on standard input for a whole batch:
//
//	{"zone": "example.com",
//	 "add": [{"name": "_acme-challenge.www.example.com", "type": "TXT", "value": "...", "ttl": 60}],
//	 "remove": []}
//
// and exits with 0 when the zone has all of add and none of remove. Any other
// exit is a failure; 75 (EX_TEMPFAIL) says that it passes. What it writes to
// standard error goes into the error.
package exec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider.
type Config struct {
	Command []string      `toml:"command" doc:"Program and its arguments. No shell is involved; the program is an absolute path."`
	Env     []string      `toml:"env" doc:"Variables of the program, NAME=VALUE. It gets PATH and nothing else beside them."`
	Timeout time.Duration `toml:"timeout" doc:"Longest run of the program; then it is killed."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "exec",
	Doc:    "A program of yours, which gets the changes of a batch as JSON.",
	Config: func() any { return &Config{Timeout: time.Minute} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct{ run *rest.Program }

func open(c *Config) (*provider, error) {
	run, err := rest.NewProgram(c.Command, c.Env, c.Timeout)
	if err != nil {
		return nil, err
	}
	return &provider{run}, nil
}

// Change is what the program reads, and what the webhook kind sends.
type Change struct {
	Zone   string   `json:"zone"`
	Add    []Record `json:"add"`
	Remove []Record `json:"remove"`
}

// Record is one record of a Change.
type Record struct {
	Name  string `json:"name"`
	Type  string `json:"type"` // "TXT"
	Value string `json:"value"`
	TTL   int    `json:"ttl"` // seconds
}

// NewChange makes the document of a change.
func NewChange(zone string, add, remove []solver.Record) Change {
	return Change{zone, records(add), records(remove)}
}

func records(list []solver.Record) []Record {
	out := make([]Record, len(list))
	for i, r := range list {
		out[i] = Record{r.Name, "TXT", r.Value, int(r.TTL / time.Second)}
	}
	return out
}

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	doc, err := json.Marshal(NewChange(zone, add, remove))
	if err != nil {
		return fmt.Errorf("encode change: %w", err)
	}
	_, err = p.run.Run(ctx, bytes.NewReader(doc))
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == rest.TempFail {
		return &issuer.Error{Class: issuer.Unavailable, Err: err}
	}
	return err
}
