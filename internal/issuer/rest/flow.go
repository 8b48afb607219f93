package rest

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Steps of a Flow, as State.Step names them.
const (
	StepSubmitting = "submitting" // the CA may or may not have the request
	StepPending    = "pending"    // the CA has it, and its token is known
)

// ErrPending is what Collect returns for a certificate that is not ready.
var ErrPending = errors.New("the certificate is not ready yet")

// Flow is an issuance at a CA with an API of its own: it takes a request, and
// returns the certificate at once or is asked for it later.
type Flow struct {
	// Deadline is how long the CA may take from the submission on. The request
	// stays submitted after it, and is asked for again when somebody wants it.
	Deadline time.Duration
	// Every is the first pause between looks; 15 s if 0. Later ones are longer.
	Every time.Duration
	// Find looks for a request whose answer was lost, by what the CA stored of
	// Request.ID, and returns its token or "". nil: the CA cannot be asked.
	Find func(ctx context.Context, r *issuer.Request) (token string, err error)
	// Submit hands the request in: it returns a chain, or a token to ask for it.
	Submit func(ctx context.Context, r *issuer.Request) (token string, chain [][]byte, err error)
	// Collect asks for the chain; ErrPending, perhaps wrapped: not yet. nil: the
	// CA always answers at once.
	Collect func(ctx context.Context, token string) (chain [][]byte, err error)
}

// pending is the State.Data of a Flow.
type pending struct {
	Token       string    `json:"token,omitempty"`
	SubmittedAt time.Time `json:"submittedAt"`
}

// Issue implements issuer.Issuer.Issue.
func (f *Flow) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	var p pending
	if len(r.State.Data) > 0 {
		if err := json.Unmarshal(r.State.Data, &p); err != nil {
			return issuer.Reply{}, errors.New("resume issuance: its state is damaged")
		}
	}
	var chain [][]byte
	if p.Token == "" {
		var err error
		if chain, err = f.submit(ctx, r, &p); err != nil {
			return issuer.Reply{}, Classify(ctx, err)
		}
	}
	if chain == nil {
		var err error
		if chain, err = f.Collect(ctx, p.Token); err != nil {
			return f.later(ctx, r, p, err)
		}
	}
	chain, err := issuer.Accept(r, chain)
	return issuer.Reply{Chain: chain}, err
}

// submit hands the request in, unless an earlier call did and did not hear of
// it.
func (f *Flow) submit(ctx context.Context, r *issuer.Request, p *pending) (chain [][]byte, err error) {
	if f.Find != nil && r.State.Step == StepSubmitting {
		if p.Token, err = f.Find(ctx, r); err != nil {
			return nil, err
		}
	}
	if p.Token == "" {
		p.SubmittedAt = time.Now().UTC()
		if err := save(ctx, r, StepSubmitting, *p); err != nil {
			return nil, err
		}
		if p.Token, chain, err = f.Submit(ctx, r); err != nil || chain != nil {
			return chain, err
		}
	}
	if p.Token == "" {
		return nil, &issuer.Error{Class: issuer.Unavailable, Err: errors.New("the CA took the request and named neither a certificate nor an order")}
	}
	return nil, save(ctx, r, StepPending, *p)
}

func save(ctx context.Context, r *issuer.Request, step string, p pending) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return r.Save(ctx, issuer.State{Step: step, Data: data})
}

// maxEvery bounds the pause between looks: an order that people look at takes
// days.
const maxEvery = 15 * time.Minute

// later decides after Collect failed.
func (f *Flow) later(ctx context.Context, r *issuer.Request, p pending, err error) (issuer.Reply, error) {
	var known *issuer.Error
	if errors.As(err, &known) && known.Class == issuer.Permanent {
		// The CA gave the order up. The next attempt is a new one.
		if err := r.Save(ctx, issuer.State{}); err != nil {
			return issuer.Reply{}, err
		}
	}
	if !errors.Is(err, ErrPending) {
		return issuer.Reply{}, Classify(ctx, err)
	}
	waited, deadline := time.Since(p.SubmittedAt), f.Deadline
	if waited >= deadline {
		return issuer.Reply{}, &issuer.Error{Class: issuer.Permanent, Pending: true,
			Err: fmt.Errorf("the CA has not issued order %s within %s (deadline); see there what it waits for, or allow more time", Tidy(p.Token), deadline)}
	}
	every := f.Every
	if every <= 0 {
		every = 15 * time.Second
	}
	pause := min(max(every, waited/4), maxEvery, deadline-waited)
	return issuer.Reply{PollAt: time.Now().Add(max(pause, time.Second))}, nil
}

// Deadline is the chain of who says how long a CA may take: the issuer's own
// configuration, that of all, the default.
func Deadline(env issuer.Env, own time.Duration) time.Duration {
	switch {
	case own > 0:
		return own
	case env.Deadline > 0:
		return env.Deadline
	}
	return issuer.DefaultDeadline
}

// CSR returns a request in PEM, as most APIs want it.
func CSR(r *issuer.Request) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: r.CSR}))
}

// Names splits the identifiers of a request. cn is the first DNS name that is
// not a wildcard, or the first name of all: APIs that price or file orders by a
// common name get it.
func Names(r *issuer.Request) (cn string, dns, ips []string) {
	for _, id := range r.Identifiers {
		if id.Type == pki.IP {
			ips = append(ips, id.Value)
			continue
		}
		dns = append(dns, id.Value)
		if cn == "" && id.Base() == id {
			cn = id.Value
		}
	}
	for _, n := range append(dns[:len(dns):len(dns)], ips...) {
		if cn == "" {
			cn = n
		}
	}
	return cn, dns, ips
}

// Or returns a, or b if a is empty.
func Or(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// Rejected is the error of an order that the CA gave up.
func Rejected(format string, args ...any) error {
	return &issuer.Error{Class: issuer.Permanent, Err: fmt.Errorf(format, args...)}
}
