package perspective

import (
	"context"
	"crypto/tls"
	"encoding/json/v2"
	"fmt"
	"net/http"
	"strings"
	"time"

	"chancery/internal/acme/challenge"
	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/httpd"
)

// AgentConfig is what an Agent needs.
type AgentConfig struct {
	Name       string              // of the perspective, as the other side configures it. Required
	Region     string              // where it is. Required
	Key        *Key                // by which the other side knows it. Required
	Primaries  []Pin               // who may ask. At least one
	Validators *challenge.Registry // Required
	Resolver   *dns.Resolver       // for CAA. Required
	CAATimeout time.Duration       // one CAA check, 10 s if 0
	Workers    int                 // most questions at once, 256 if 0; more are refused
}

// Agent is a remote perspective: it looks where it is told, from where it is.
// It keeps nothing.
type Agent struct {
	cfg  AgentConfig
	tls  *tls.Config
	free chan struct{}
}

// NewAgent returns an agent that serves nothing yet.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	if cfg.Name == "" || cfg.Region == "" || cfg.Key == nil || cfg.Validators == nil || cfg.Resolver == nil {
		return nil, fault.New(fault.Invalid, "a perspective needs a name, a region, a key, validators and a resolver")
	}
	if len(cfg.Primaries) == 0 {
		return nil, fault.New(fault.Invalid, "a perspective must know who may ask it: name the pin of the server's key")
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 256
	}
	conf, err := cfg.Key.tlsConfig(cfg.Primaries...)
	if err != nil {
		return nil, err
	}
	return &Agent{cfg, conf, make(chan struct{}, cfg.Workers)}, nil
}

// TLS returns what the agent's listener must speak.
func (a *Agent) TLS() *tls.Config { return a.tls }

// Routes registers the agent's one route.
func (a *Agent) Routes(mux *httpd.Mux) {
	mux.Group(httpd.OwnTypes, nil).Handle("POST "+path, a.observe)
}

// observe answers one question.
func (a *Agent) observe(r *httpd.Request) (*httpd.Reply, error) {
	if err := r.MediaType(contentType); err != nil {
		return nil, err
	}
	body, err := r.ReadBodyMax(maxMessage)
	if err != nil {
		return nil, err
	}
	q, err := parseQuestion(body)
	if err != nil {
		return nil, err
	}
	select {
	case a.free <- struct{}{}:
		defer func() { <-a.free }()
	default:
		return nil, fault.New(fault.Unavailable, "this perspective is busy").Retry(time.Second)
	}
	out, err := a.look(r.Context(), &q)
	if err != nil {
		return nil, err
	}
	out.Question, out.Perspective, out.Region = digest(body), a.cfg.Name, a.cfg.Region
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode observation: %w", err)
	}
	return &httpd.Reply{Status: http.StatusOK, ContentType: contentType, Body: text}, nil
}

// look validates and checks CAA at the same time, as the asking side does. The
// error is about this agent; what is wrong with the identifier is an answer.
func (a *Agent) look(ctx context.Context, q *Question) (*answer, error) {
	checker, err := challenge.NewCAA(challenge.CAAConfig{Resolver: a.cfg.Resolver, Domains: q.Issuers, Timeout: a.cfg.CAATimeout})
	if err != nil {
		return nil, err
	}
	out := &answer{Agrees: true}
	if q.CAAOnly {
		return out, out.caa(checker.Check(ctx, q.Request.Identifier, q.Method, q.Request.AccountURL))
	}
	type verdict struct {
		clearance challenge.Clearance
		err       error
	}
	caa := make(chan verdict, 1)
	go func() {
		clearance, err := checker.Check(ctx, q.Request.Identifier, q.Method, q.Request.AccountURL)
		caa <- verdict{clearance, err}
	}()
	proof, err := a.cfg.Validators.Validate(ctx, q.Method, q.Request)
	out.Steps = proof.Steps()
	if err != nil {
		out.Steps = challenge.StepsOf(err)
		return out, out.blame(err)
	}
	v := <-caa
	return out, out.caa(v.clearance, v.err)
}

// caa adds the result of a CAA check.
func (w *answer) caa(c challenge.Clearance, err error) error {
	if err != nil {
		return w.blame(err)
	}
	w.CAAFound, w.CAARecords = c.Found(), c.Records()
	if len(w.CAARecords) > maxLines {
		w.CAARecords = w.CAARecords[:maxLines]
	}
	return nil
}

// blame turns a refusal into the answer, and returns what is none.
func (w *answer) blame(err error) error {
	f := fault.As(err)
	if f.Status() >= http.StatusInternalServerError {
		return err
	}
	w.Agrees, w.Code, w.Problem = false, f.Code, printable(f.Detail)
	if w.Problem == "" {
		w.Problem = string(f.Code)
	}
	return nil
}

// printable shortens s to what an answer may hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), maxText)])
}
