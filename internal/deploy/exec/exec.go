// Package exec is the target for everything else: a program of the
// administrator's that is told about all certificates of a batch at once.
//
// The program gets a Call as JSON on its standard input, and CHANCERY_TARGET,
// CHANCERY_EVENT, CHANCERY_DIR and CHANCERY_COUNT in its environment. It ends
// with 0 when all is well. To blame single certificates it writes an Answer to
// its standard output.
package exec

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/pki"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// Program and arguments. No shell reads them.
	Command []string `toml:"command"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "exec",
	Doc:  "A program that is told about all certificates of a batch at once, as JSON on its standard input.",
	Config: func() any {
		return &Config{Config: live.Config{Files: []string{live.Fullchain, live.Privkey, live.Cert, live.Chain}, Timeout: live.DefaultTimeout}}
	},
	Open: open,
}

// Call is what the program reads.
type Call struct {
	Version      int           `json:"version"` // 1
	Event        string        `json:"event"`   // "deploy", or "rollback": use what is in the files again
	Target       string        `json:"target"`
	Dir          string        `json:"dir"` // below which the files are, as DIR/NAME/FILE
	Certificates []Certificate `json:"certificates"`
}

// Certificate is one certificate of a Call. After a crash only ID, Paths,
// New and Params are known.
type Certificate struct {
	ID        string            `json:"id"`
	Names     []string          `json:"names,omitempty"`
	Serial    string            `json:"serial,omitempty"` // hexadecimal
	SHA256    string            `json:"sha256,omitempty"` // of the leaf, hexadecimal
	NotBefore *time.Time        `json:"not_before,omitempty"`
	NotAfter  *time.Time        `json:"not_after,omitempty"`
	Paths     map[string]string `json:"paths"`         // "fullchain.pem": "/.../fullchain.pem"
	New       bool              `json:"new,omitempty"` // there was none under this name before; with "rollback": there is none any more
	Params    map[string]string `json:"params,omitempty"`
}

// Answer is what the program may write: which certificates it refused.
type Answer struct {
	Errors map[string]string `json:"errors"` // ID to reason
}

// hook runs the program.
type hook struct {
	env deploy.Env
	cfg *Config
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	if len(c.Command) == 0 || c.Command[0] == "" {
		return nil, errors.New("command: must be set")
	}
	if len(c.Reload) > 0 {
		return nil, errors.New("reload: is of no use here; command is run after every change")
	}
	if c.Dir == "" {
		c.Dir = filepath.Join(env.State, "files")
		if abs, err := filepath.Abs(c.Dir); err == nil {
			c.Dir = abs
		}
	}
	return live.Open(env, c.Config, live.Server{Reload: hook{env, c}.run})
}

// run tells the program about a change.
func (h hook) run(ctx context.Context, c live.Change) error {
	call := Call{Version: 1, Event: "deploy", Target: h.env.Name, Dir: h.cfg.Dir}
	if c.Back {
		call.Event = "rollback"
	}
	for i := range c.Items {
		call.Certificates = append(call.Certificates, h.describe(&c.Items[i]))
	}
	stdin, err := json.Marshal(call)
	if err != nil {
		return fmt.Errorf("encode call: %w", err)
	}
	out, err := deploy.Command{Argv: h.cfg.Command, Stdin: stdin, Timeout: h.cfg.Timeout, Env: []string{
		"CHANCERY_TARGET=" + h.env.Name, "CHANCERY_EVENT=" + call.Event, "CHANCERY_DIR=" + h.cfg.Dir, "CHANCERY_COUNT=" + strconv.Itoa(len(c.Items))}}.Run(ctx)
	if refused := answer(out, c.Items); refused != nil && !c.Back {
		return refused
	}
	return err
}

// describe says about an item what the program may want to know.
func (h hook) describe(item *live.Item) Certificate {
	c := Certificate{ID: item.ID, New: item.New, Params: item.Params, Paths: map[string]string{}}
	for _, f := range h.cfg.Files {
		name, _, _ := strings.Cut(f, "=")
		c.Paths[name] = filepath.Join(h.cfg.Dir, item.Name, name)
	}
	if item.Item == nil {
		return c
	}
	chain, err := deploy.ParseChain(item.Item.Chain)
	if err != nil {
		return c // it was checked before
	}
	sum := pki.Fingerprint(chain[0].Raw)
	c.Names, c.Serial, c.SHA256 = item.Item.Names, hex.EncodeToString(chain[0].SerialNumber.Bytes()), hex.EncodeToString(sum[:])
	c.NotBefore, c.NotAfter = &chain[0].NotBefore, &chain[0].NotAfter
	return c
}

// answer reads what the program wrote, if it is an Answer. Items that were not
// part of the call are ignored, as is any other text.
func answer(out []byte, items []live.Item) error {
	var a Answer
	if json.Unmarshal(out, &a) != nil {
		return nil
	}
	var refused []error
	for _, item := range items {
		if why, ok := a.Errors[item.ID]; ok {
			refused = append(refused, &deploy.ItemError{ID: item.ID, Err: fmt.Errorf("refused: %.500q", why)})
		}
	}
	return errors.Join(refused...)
}
