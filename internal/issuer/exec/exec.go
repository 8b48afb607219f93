// Package exec is the issuer that asks a program of the operator.
//
// The program gets one JSON object on standard input:
//
//	{"op": "issue", "id": "...", "csr": "PEM", "identifiers": ["example.com"],
//	 "profile": "", "not_after": "", "token": ""}
//
// and writes one to standard output: {"chain": "PEM"}, or {"token": "..."} when
// it has to be asked again later with that token, or {"error": {"class":
// "permanent", "message": "...", "retry_after": 60}} with a class of the
// issuer package. "op": "revoke" has "certificate" (PEM) and "reason". An exit
// status other than 0 is a failure: permanent, or passing with 75.
package exec

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is an [issuer.NAME] section of kind "exec".
type Config struct {
	Command  []string      `toml:"command" doc:"Program, an absolute path, and its arguments. No shell is involved."`
	Env      []string      `toml:"env" doc:"Variables of the program, NAME=VALUE. It gets PATH and nothing else beside them."`
	Revokes  bool          `toml:"revokes" doc:"The program knows the operation revoke."`
	Deadline time.Duration `toml:"deadline" doc:"How long the program may answer with a token only. 0: that of all issuers, 10 minutes if there is none."`
	Timeout  time.Duration `toml:"timeout" doc:"Longest run of the program; then it is killed."`
}

// Kind is the plug-in.
var Kind = issuer.Kind{
	Name:   "exec",
	Doc:    "A program of yours, which gets the request as JSON.",
	Config: func() any { return &Config{Timeout: time.Minute} },
	Open:   func(env issuer.Env, config any) (issuer.Issuer, error) { return open(env, config.(*Config)) },
}

type program struct {
	c   *Config
	env issuer.Env
	run *rest.Program
}

func open(env issuer.Env, c *Config) (*program, error) {
	run, err := rest.NewProgram(c.Command, c.Env, c.Timeout)
	if err != nil {
		return nil, err
	}
	return &program{c, env, run}, nil
}

// input is what the program reads.
type input struct {
	Op          string   `json:"op"`
	ID          string   `json:"id,omitempty"`
	CSR         string   `json:"csr,omitempty"`
	Identifiers []string `json:"identifiers,omitempty"`
	Profile     string   `json:"profile,omitempty"`
	NotAfter    string   `json:"not_after,omitempty"`
	Token       string   `json:"token,omitempty"`
	Certificate string   `json:"certificate,omitempty"`
	Reason      int      `json:"reason,omitempty"`
}

// output is what the program writes.
type output struct {
	Chain string `json:"chain"`
	Token string `json:"token"`
	Error *struct {
		Class      issuer.Class `json:"class"`
		Message    string       `json:"message"`
		RetryAfter float64      `json:"retry_after"` // seconds
		Identifier string       `json:"identifier"`
	} `json:"error"`
}

// Issue implements issuer.Issuer. The same ID always goes with the same
// request, so the program can tell a repetition.
func (p *program) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	in := input{Op: "issue", ID: r.ID, CSR: rest.CSR(r), Profile: r.Profile}
	for _, id := range r.Identifiers {
		in.Identifiers = append(in.Identifiers, id.Value)
	}
	if !r.NotAfter.IsZero() {
		in.NotAfter = r.NotAfter.UTC().Format(time.RFC3339)
	}
	ask := func(ctx context.Context, token string) (string, [][]byte, error) {
		in.Token = token
		out, err := p.ask(ctx, in)
		if err != nil || out.Chain == "" {
			return out.Token, nil, err
		}
		chain, err := issuer.ReadChain([]byte(out.Chain))
		return "", chain, err
	}
	f := rest.Flow{Deadline: rest.Deadline(p.env, p.c.Deadline),
		Submit: func(ctx context.Context, _ *issuer.Request) (string, [][]byte, error) { return ask(ctx, "") },
		Collect: func(ctx context.Context, token string) ([][]byte, error) {
			_, chain, err := ask(ctx, token)
			if err == nil && chain == nil {
				err = rest.ErrPending
			}
			return chain, err
		}}
	return f.Issue(ctx, r)
}

// ask runs the program once.
func (p *program) ask(ctx context.Context, in input) (output, error) {
	doc, err := json.Marshal(in)
	if err != nil {
		return output{}, fmt.Errorf("encode request: %w", err)
	}
	text, err := p.run.Run(ctx, bytes.NewReader(doc))
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == rest.TempFail:
		return output{}, &issuer.Error{Class: issuer.Unavailable, Err: err}
	case errors.As(err, &exit):
		return output{}, &issuer.Error{Class: issuer.Permanent, Err: err}
	case err != nil:
		return output{}, &issuer.Error{Class: issuer.Unavailable, Err: err}
	}
	var out output
	if err := json.Unmarshal(text, &out); err != nil {
		return output{}, &issuer.Error{Class: issuer.Permanent, Err: errors.New("the program's output is not the JSON that was expected")}
	}
	if e := out.Error; e != nil {
		known := []issuer.Class{issuer.Throttled, issuer.Unavailable, issuer.Validation, issuer.Permanent}
		if !slices.Contains(known, e.Class) {
			e.Class = issuer.Permanent
		}
		return output{}, &issuer.Error{Class: e.Class, RetryAfter: time.Duration(min(max(e.RetryAfter, 0), 31*24*3600) * float64(time.Second)), Identifier: rest.Tidy(e.Identifier),
			Err: errors.New(rest.Tidy(e.Message))}
	}
	return out, nil
}

// Revoke implements issuer.Revoker.
func (p *program) Revoke(ctx context.Context, leaf *x509.Certificate, reason int) error {
	if !p.c.Revokes {
		return rest.Rejected("the program of this issuer does not revoke (revokes = false)")
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
	_, err := p.ask(ctx, input{Op: "revoke", Certificate: string(text), Reason: reason})
	return err
}
