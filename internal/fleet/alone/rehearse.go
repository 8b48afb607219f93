package alone

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/issuer"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// Rehearsal is what a dry run says about a certificate.
type Rehearsal struct {
	Name   string   `json:"name"`
	Names  []string `json:"names"`
	Due    string   `json:"due"`              // what a run would do now
	Issuer string   `json:"issuer,omitempty"` // where it was rehearsed; "" = nowhere
	Took   float64  `json:"took_s,omitempty"`
	Error  string   `json:"error,omitempty"` // what went wrong there, or at a target's own check
}

// Rehearse says what a run would do, orders each certificate at the staging
// issuer of its issuer and throws it away, and has each target check itself.
// Nothing of a certificate or a target is changed.
func (r *Runner) Rehearse(ctx context.Context) ([]Rehearsal, error) {
	lock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if err := r.respond(); err != nil {
		return nil, err
	}
	defer func() {
		if err := r.quiet(); err != nil {
			r.log.Warn("responder not closed", "error", err)
		}
	}()
	checked := map[string]error{}
	for _, name := range sorted(r.cfg.Targets) {
		if c, ok := r.cfg.Targets[name].Target.(deploy.Checker); ok {
			checked[name] = c.Check(ctx)
		}
	}
	var out []Rehearsal
	for _, it := range r.load() {
		out = append(out, r.rehearse(ctx, it, checked))
	}
	return out, nil
}

// rehearse is one certificate of Rehearse.
func (r *Runner) rehearse(ctx context.Context, it *item, checked map[string]error) Rehearsal {
	out := Rehearsal{Name: it.c.Name, Due: r.intent(it)}
	for _, n := range it.c.Names {
		out.Names = append(out.Names, n.Value)
	}
	if st := it.c.Issuers[0].Staging; st != nil {
		begin := time.Now()
		out.Issuer = st.Name
		if err := r.trial(ctx, it, st); err != nil {
			out.Error = err.Error()
		}
		out.Took = time.Since(begin).Seconds()
	}
	for _, t := range it.c.Targets {
		if err := checked[t]; err != nil && out.Error == "" {
			out.Error = "target " + t + ": " + err.Error()
		}
	}
	return out
}

// intent says what a run would do with a certificate.
func (r *Runner) intent(it *item) string {
	rec, now := &it.rec, r.cfg.Now()
	switch {
	case it.err != nil:
		return it.err.Error()
	case rec.Stopped != "":
		return "nothing: it failed for good"
	case rec.Work != nil:
		return "go on with an order at " + rec.Work.Issuer
	case rec.Live == nil:
		return "order it at " + it.c.Issuers[0].Name
	case !it.fits():
		return "order it anew at " + it.c.Issuers[0].Name + ": names, key or issuer have changed"
	case !rec.RenewAt.IsZero() && !rec.RenewAt.After(now):
		return "renew it at " + it.c.Issuers[0].Name
	case len(r.missing([]*item{it}, firstOr(it.c.Targets), nil)) > 0:
		return "deploy it"
	case rec.RenewAt.IsZero():
		return "plan its renewal"
	}
	return "nothing before " + rec.RenewAt.UTC().Format(time.RFC3339)
}

func firstOr(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// trial orders a certificate at a staging issuer.
func (r *Runner) trial(ctx context.Context, it *item, st *Issuer) error {
	key, err := keys.Generate(it.c.KeyType)
	if err != nil {
		return err
	}
	w := &work{ID: newID(), Issuer: st.Name}
	if w.CSR, err = pki.CreateRequest(key, it.c.Names); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, onceWait)
	defer cancel()
	req := r.request(it, w, nil)
	req.Save = func(_ context.Context, s issuer.State) error { req.State = s; return nil }
	for {
		reply, err := st.Issuer.Issue(ctx, req)
		if err != nil {
			return err
		}
		if len(reply.Chain) > 0 {
			return r.usable(it, req, reply.Chain, key)
		}
		if reply.PollAt.IsZero() || !sleep(ctx, time.Until(reply.PollAt)) {
			return fmt.Errorf("no certificate within %s: %w", onceWait, errNothing)
		}
	}
}

// usable reports whether a certificate could be deployed.
func (r *Runner) usable(it *item, req *issuer.Request, chain [][]byte, key any) error {
	chain, err := issuer.Accept(req, chain)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	p := Pair{Key: der, Chain: chain}
	signer, err := p.signer()
	if err != nil {
		return err
	}
	i := deploy.Item{ID: it.c.ID, Chain: chain, Key: signer}
	for _, n := range it.c.Names {
		i.Names = append(i.Names, n.Value)
	}
	return deploy.Check(&i, r.cfg.Now())
}
