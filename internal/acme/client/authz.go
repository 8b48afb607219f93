package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// inParallel bounds the requests of one order that are sent at the same time.
const inParallel = 8

// task is an authorization that is still to be proved.
type task struct {
	url string // of the challenge
	res issuer.Response
}

// authorize proves what is not proved yet: all responses are made visible, all
// challenges are posted, and only then is the order looked at.
func (f *flow) authorize(ctx context.Context) (wait bool, err error) {
	zs, err := f.authorizations(ctx)
	if err != nil {
		return false, err
	}
	tasks, err := f.tasks(ctx, zs)
	if err != nil {
		return false, err
	}
	if len(tasks) == 0 {
		return f.await(ctx, acme.OrderPending) // all are proved: the order follows
	}
	if err := f.present(ctx, tasks); err != nil {
		return false, err
	}
	if err := f.save(ctx, StepPosted); err != nil {
		return false, err
	}
	done, err := f.respond(ctx, tasks)
	if err != nil {
		return false, err
	}
	if done {
		f.o.Status = acme.OrderReady // RFC 8555 section 7.1.6; finalize finds out if it is not
		return false, nil
	}
	return f.await(ctx, acme.OrderPending)
}

// authorizations reads those of the order.
func (f *flow) authorizations(ctx context.Context) ([]acme.Authorization, error) {
	out := make([]acme.Authorization, len(f.o.Authorizations))
	return out, each(ctx, len(out), func(ctx context.Context, i int) error {
		url, err := f.e.c.resolve(f.o.Authorizations[i])
		if err != nil {
			return err
		}
		res, err := f.e.cfg.Account.post(ctx, "authorization", url, nil)
		if err != nil {
			return err
		}
		if out[i], err = acme.Decode[acme.Authorization](res.body); err != nil {
			return fmt.Errorf("read authorization: %w", err)
		}
		return nil
	})
}

// each runs f for 0 to n-1, a few at a time. One is run where it is.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	if n == 1 {
		return f(ctx, 0)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inParallel)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

// tasks chooses a challenge for each authorization that is pending.
func (f *flow) tasks(ctx context.Context, zs []acme.Authorization) ([]task, error) {
	id, err := f.e.cfg.Account.identity(ctx)
	if err != nil {
		return nil, err
	}
	var out []task
	for i := range zs {
		z := &zs[i]
		switch z.Status {
		case acme.AuthorizationValid:
			continue
		case acme.AuthorizationPending:
		default:
			f.o.Error = nil
			return nil, f.forgetWith(ctx, problemOf(z))
		}
		t, err := f.choose(ctx, id, z)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// choose takes the challenge that the CA looks at already, or else the one
// that the solver likes best.
func (f *flow) choose(ctx context.Context, id *identity, z *acme.Authorization) (task, error) {
	name := pki.Identifier{Type: z.Identifier.Type, Value: z.Identifier.Value}
	full := name
	if z.Wildcard {
		full.Value = "*." + name.Value
	}
	var methods []string
	if f.e.cfg.Solver != nil {
		methods = f.e.cfg.Solver.Methods(full)
	}
	var best *acme.Challenge
	for _, m := range methods {
		i := slices.IndexFunc(z.Challenges, func(c acme.Challenge) bool { return c.Type == m })
		if i < 0 {
			continue
		}
		if ch := &z.Challenges[i]; best == nil || ch.Status == acme.ChallengeProcessing {
			best = ch
		}
	}
	if best == nil {
		return task{}, noMethod(full, z, methods)
	}
	res, err := f.response(ctx, id, full, best)
	if err != nil {
		return task{}, err
	}
	url, err := f.e.c.resolve(best.URL)
	return task{url, res}, err
}

// noMethod says why a name cannot be proved.
func noMethod(id pki.Identifier, z *acme.Authorization, methods []string) error {
	offered := make([]string, 0, len(z.Challenges))
	for _, c := range z.Challenges {
		offered = append(offered, c.Type)
	}
	can := strings.Join(methods, ", ")
	if can == "" {
		can = "none; configure a DNS provider for its zone, or the HTTP responder"
	}
	return &issuer.Error{Class: issuer.Permanent, Identifier: id.Value,
		Err: fmt.Errorf("%s cannot be proved: the CA offers %s, and what can be presented here is %s", id.Value, strings.Join(offered, ", "), can)}
}

// response returns what a challenge wants to be seen.
func (f *flow) response(ctx context.Context, id *identity, name pki.Identifier, ch *acme.Challenge) (issuer.Response, error) {
	thumb := id.signer.PublicKey().Thumbprint
	r := issuer.Response{Type: ch.Type, Identifier: name, Token: ch.Token, Urgent: f.r.Urgent}
	base := name.Base().Value
	if ch.Type == string(challenge.DNSPersist01) {
		dir, err := f.e.c.Directory(ctx)
		if err != nil {
			return r, err
		}
		r.Record, r.Value = "_validation-persist."+base, persistValue(dir, ch, name, thumb, id.url)
		return r, nil
	}
	if !tokenOK(ch.Token) {
		return r, &issuer.Error{Class: issuer.Unavailable, Err: errors.New("the CA sent a challenge with a malformed token")}
	}
	r.KeyAuthorization = acme.KeyAuthorization(ch.Token, thumb)
	switch ch.Type {
	case string(challenge.DNS01):
		r.Record, r.Value = "_acme-challenge."+base, challenge.DNS01Value(r.KeyAuthorization)
	case string(challenge.DNSAccount01):
		r.Record, r.Value = challenge.AccountLabel(id.url)+"._acme-challenge."+base, challenge.DNS01Value(r.KeyAuthorization)
	}
	return r, nil
}

// tokenOK checks RFC 8555 section 8.1: base64url, and at least 128 bits. The
// token becomes a file name, so nothing else may pass.
func tokenOK(t string) bool {
	if len(t) < 22 || len(t) > 256 {
		return false
	}
	return strings.IndexFunc(t, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

// persistValue lists the records that would do, one per line: for each issuer
// domain name, the account by its hash and, as drafts before 02 had it, by its
// URL.
func persistValue(dir *acme.Directory, ch *acme.Challenge, name pki.Identifier, thumb, account string) string {
	issuers := ch.IssuerDomainNames
	if len(issuers) == 0 {
		issuers = ch.IssuerDomainNamesOld
	}
	base, policy := name.Base().Value, ""
	if base != name.Value {
		policy = "; policy=wildcard"
	}
	var lines []string
	for _, i := range issuers[:min(len(issuers), challenge.MaxIssuers)] {
		if p := dir.Meta.AccountHashPrefix; p != "" {
			lines = append(lines, i+"; accounturi="+challenge.AccountHashURI(p, base, thumb, account)+policy,
				i+"; accounturi="+challenge.AccountHashURI(p, "*", thumb, account)+policy)
		}
		lines = append(lines, i+"; accounturi="+account+policy)
	}
	return strings.Join(lines, "\n")
}

// present makes all responses visible. What an earlier call presented stays.
func (f *flow) present(ctx context.Context, tasks []task) error {
	list := make([]issuer.Response, len(tasks))
	for i := range tasks {
		list[i] = tasks[i].res
	}
	clean, err := f.e.cfg.Solver.Present(ctx, list)
	if err != nil {
		return err
	}
	f.e.hold(f.p.Order, clean)
	return nil
}

// respond tells the CA to look. done says that it has seen everything. A
// challenge that is no longer pending was posted by an earlier call.
func (f *flow) respond(ctx context.Context, tasks []task) (done bool, err error) {
	valid := make([]bool, len(tasks))
	err = each(ctx, len(tasks), func(ctx context.Context, i int) error {
		res, err := f.e.cfg.Account.post(ctx, "challenge", tasks[i].url, []byte("{}"))
		var refused *Refusal
		if errors.As(err, &refused) && refused.Code() == fault.Malformed {
			return nil // Boulder's words for one that is decided; the order knows how
		}
		if err != nil {
			return err
		}
		ch, err := acme.Decode[acme.Challenge](res.body)
		if err != nil {
			return fmt.Errorf("read challenge: %w", err)
		}
		valid[i] = ch.Status == acme.ChallengeValid
		return nil
	})
	f.retry = 0 // was that of the order before anything happened
	return !slices.Contains(valid, false), err
}

// failed finds out why an order is invalid.
func (f *flow) failed(ctx context.Context) error {
	if p := f.o.Error; p != nil && (p.Identifier != nil || len(p.Subproblems) > 0 || len(f.o.Authorizations) == 0) {
		return f.forgetWith(ctx, p)
	}
	zs, err := f.authorizations(ctx)
	if err != nil {
		return err
	}
	for i := range zs {
		if zs[i].Status != acme.AuthorizationValid && zs[i].Status != acme.AuthorizationPending {
			return f.forgetWith(ctx, problemOf(&zs[i]))
		}
	}
	p := f.o.Error
	if p == nil {
		p = &acme.Problem{Type: "about:blank", Detail: "the CA gave the order up and does not say why"}
	}
	return f.forgetWith(ctx, p)
}

// problemOf returns what is wrong with an authorization.
func problemOf(z *acme.Authorization) *acme.Problem {
	for _, c := range z.Challenges {
		if p := c.Error; p != nil {
			p.Identifier = &z.Identifier
			return p
		}
	}
	return &acme.Problem{Type: acme.TypeURI(fault.Unauthorized), Detail: "the authorization is " + string(z.Status), Identifier: &z.Identifier}
}

// forgetWith ends the order: its failure is returned, and the next call with
// the saved state makes a new one.
func (f *flow) forgetWith(ctx context.Context, p *acme.Problem) error {
	f.e.release(f.p.Order)
	f.p = progress{NoReplace: f.p.NoReplace}
	r := &Refusal{Problem: p, Op: "validation", RetryAfter: f.retry}
	if err := f.save(ctx, StepOrdered); err != nil {
		return err
	}
	return refusalError(r, validationClass(r), f.e.now())
}

// profiles lists a directory's profiles for people.
func profiles(dir *acme.Directory) string {
	if len(dir.Meta.Profiles) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(maps.Keys(dir.Meta.Profiles)), ", ")
}
