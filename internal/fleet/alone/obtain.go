package alone

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/renew/rule"
)

// wish is what a section asks for: when it changes, another certificate is
// obtained, and one that failed for good is tried again.
func (c *Certificate) wish() string {
	parts := []string{string(c.KeyType), c.Profile}
	for _, i := range c.Issuers {
		parts = append(parts, i.Name)
	}
	for _, n := range c.Names {
		parts = append(parts, n.String())
	}
	return strings.Join(parts, " ")
}

// wanted decides whether a certificate is obtained now, and asks its issuer for
// its window when it is time for that.
func (r *Runner) wanted(ctx context.Context, it *item, horizon map[string]time.Time, forced bool) bool {
	now, rec := r.cfg.Now(), &it.rec
	if forced || rec.Stopped != "" && rec.Stopped != it.c.wish() {
		rec.Stopped, rec.RetryAt, rec.Attempts, rec.Error = "", time.Time{}, 0, ""
	}
	if w := rec.Work; w != nil && w.Wish != it.c.wish() {
		rec.Work = nil // for names or an issuer that nobody wants any more
	}
	switch {
	case rec.Stopped != "" || rec.RetryAt.After(now):
		return false
	case rec.Work != nil:
		return !rec.Work.PollAt.After(now) || forced
	case forced || rec.Live == nil || rec.Error != "" || !it.fits():
		return true
	}
	if r.ask(ctx, it) {
		if it.err = r.save(it); it.err != nil {
			return false
		}
	}
	if !rec.RenewAt.After(now) {
		return true
	}
	for _, t := range it.c.Targets {
		if until, ok := horizon[t]; ok && !rec.RenewAt.After(until) && !rec.WindowStart.After(now) {
			return true
		}
	}
	return false
}

// fits reports whether the certificate that is here is what the section asks
// for: names, kind of key, and one of its issuers.
func (it *item) fits() bool {
	leaf, err := it.rec.Live.parse()
	if err != nil {
		return false
	}
	kt, err := pki.KeyTypeOf(leaf.PublicKey)
	if err != nil || kt != it.c.KeyType {
		return false
	}
	if !slices.ContainsFunc(it.c.Issuers, func(i *Issuer) bool { return i.Name == it.rec.Live.Issuer }) {
		return false
	}
	var want []string
	for _, n := range it.c.Names {
		want = append(want, n.Value)
	}
	slices.Sort(want)
	return slices.Equal(pki.MetadataOf(leaf).Names, want)
}

// ask asks the issuer of a certificate for its window (RFC 9773) if it is time,
// and reports whether anything is new. An issuer that does not answer changes
// nothing but the date of the next question.
func (r *Runner) ask(ctx context.Context, it *item) bool {
	now, rec := r.cfg.Now(), &it.rec
	leaf, err := rec.Live.parse()
	if err != nil {
		return false
	}
	life := rule.Life{ID: rec.Live.leaf(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Before: it.c.RenewBefore}
	fresh := rec.RenewAt.IsZero()
	if fresh {
		rec.plan(rule.ByLife(life))
	}
	informer, ok := it.informer()
	// A date further away than any answer may put it came from a clock ahead of time.
	if !ok || rec.AskAt.After(now) && rec.AskAt.Sub(now) <= 2*rule.MaxAsk {
		return fresh
	}
	rec.AskAt = rule.NextAsk(now, time.Time{}, random())
	call, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	info, err := informer.RenewalInfo(call, leaf)
	if err != nil {
		r.log.Debug("renewal information not read", "certificate", it.c.Name, "error", err)
		return true
	}
	rec.AskAt = rule.NextAsk(now, info.RetryAfter, random())
	if p, ok := rule.ByIssuer(life, info); ok {
		rec.plan(p)
		rec.Explanation = info.Explanation
	}
	return true
}

func (rec *record) plan(p rule.Plan) {
	rec.RenewAt, rec.WindowStart, rec.WindowEnd, rec.Explanation = p.At, p.Start, p.End, ""
}

// informer is the issuer that made the certificate, if it knows windows.
func (it *item) informer() (issuer.Informer, bool) {
	for _, i := range it.c.Issuers {
		if i.Name == it.rec.Live.Issuer {
			inf, ok := i.Issuer.(issuer.Informer)
			return inf, ok
		}
	}
	return nil, false
}

// obtain drives the orders of certificates as far as they go, some at a time.
func (r *Runner) obtain(ctx context.Context, items []*item) {
	if err := r.respond(); err != nil {
		for _, it := range items {
			it.rec.Error, it.rec.RetryAt = err.Error(), r.cfg.Now().Add(retryStep)
			it.err = r.save(it)
		}
		return
	}
	var g errgroup.Group
	g.SetLimit(inParallel)
	for _, it := range items {
		g.Go(func() error {
			it.err = r.obtainOne(ctx, it)
			return nil
		})
	}
	_ = g.Wait() // each item has its own
	if !slices.ContainsFunc(items, func(it *item) bool { return it.rec.Work != nil && it.rec.Error == "" }) {
		if err := r.quiet(); err != nil {
			r.log.Warn("responder not closed", "error", err)
		}
	}
}

// obtainOne drives one order, and goes on to the next issuer when one has been
// down for long. The error is about the state directory only: what an issuer
// says is in the record.
func (r *Runner) obtainOne(ctx context.Context, it *item) error {
	issuers := it.c.Issuers
	if w := it.rec.Work; w != nil {
		issuers = issuers[max(slices.IndexFunc(issuers, func(i *Issuer) bool { return i.Name == w.Issuer }), 0):]
	}
	for n, iss := range issuers {
		if until, why := r.sleeping(iss); !until.IsZero() {
			it.rec.RetryAt, it.rec.Error = until, why
			return r.save(it)
		}
		it.down = false
		if err := r.begin(it, iss); err != nil {
			return err
		}
		if err := r.drive(ctx, it, iss); err != nil {
			return err
		}
		if n == len(issuers)-1 || !it.down || !r.leave(it, iss) {
			return nil
		}
		r.log.Warn("another issuer is asked", "certificate", it.c.Name, "down", iss.Name, "asked", issuers[n+1].Name)
		it.rec.Work = nil
	}
	return nil
}

// longestSleep is more than any CA may ask for: a later date is from a clock
// ahead of time.
const longestSleep = 32 * 24 * time.Hour

// sleeping says until when an issuer wants to be left alone; zero = it does not.
func (r *Runner) sleeping(iss *Issuer) (until time.Time, why string) {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.lane(iss.Name); l.SleepUntil.After(now) && l.SleepUntil.Sub(now) < longestSleep {
		return l.SleepUntil, l.Error
	}
	return time.Time{}, ""
}

// leave reports whether an issuer has been down for so long that another one is
// asked: sooner for a certificate that has little life left.
func (r *Runner) leave(it *item, iss *Issuer) bool {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(iss.Name)
	if l.DownSince.IsZero() {
		return false
	}
	down, left := now.Sub(l.DownSince), it.left(now)
	return down >= cmp.Or(iss.FallbackAfter, 15*time.Minute) || left > 0 && down >= left/8
}

// left is the life that the certificate has left.
func (it *item) left(now time.Time) time.Duration {
	if it.rec.Live == nil {
		return 0
	}
	leaf, err := it.rec.Live.parse()
	if err != nil {
		return 0
	}
	return max(leaf.NotAfter.Sub(now), 0)
}

// begin makes key and request of an order, and stores them, unless there is one
// under way.
func (r *Runner) begin(it *item, iss *Issuer) error {
	if it.rec.Work != nil {
		return nil
	}
	key, err := it.key()
	if err != nil {
		return err
	}
	w := &work{ID: newID(), Issuer: iss.Name, Wish: it.c.wish()}
	if w.CSR, err = pki.CreateRequest(key, it.c.Names); err != nil {
		return err
	}
	if w.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	// RFC 9773 section 5: only the CA that issued it can replace it.
	if live := it.rec.Live; live != nil && live.Issuer == iss.Name {
		w.Replaces = live.Chain[0]
	}
	it.rec.Work = w
	if err := r.save(it); err != nil {
		return err
	}
	fault.Point("alone.after_begin")
	return nil
}

// newID names an issuance.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// key is the key of the next certificate.
func (it *item) key() (crypto.Signer, error) {
	if it.c.ReuseKey && it.rec.Live != nil {
		key, err := it.rec.Live.signer()
		if err != nil {
			return nil, err
		}
		if kt, err := pki.KeyTypeOf(key.Public()); err == nil && kt == it.c.KeyType {
			return key, nil
		}
	}
	return keys.Generate(it.c.KeyType)
}

// errNothing is the answer of an issuer that breaks its contract.
var errNothing = errors.New("the issuer gave neither a certificate nor an instant to ask again")

// drive lets the issuer take its steps, each stored first.
func (r *Runner) drive(ctx context.Context, it *item, iss *Issuer) error {
	w := it.rec.Work
	call, cancel := context.WithTimeout(ctx, cmp.Or(iss.Timeout, 2*time.Minute))
	defer cancel()
	var lost error
	req := r.request(it, w, func(_ context.Context, s issuer.State) error {
		w.Step, w.Data = s.Step, s.Data
		lost = r.save(it)
		fault.Point("alone.after_save")
		return lost
	})
	reply, err := iss.Issuer.Issue(call, req)
	fault.Point("alone.after_issue")
	switch {
	case lost != nil:
		return lost
	case ctx.Err() != nil:
		return nil // told to stop: the next start goes on from here
	case err == nil && len(reply.Chain) > 0:
		return r.accept(it, iss, req, reply.Chain)
	case err == nil && !reply.PollAt.IsZero():
		w.PollAt, it.rec.Error, it.rec.RetryAt = reply.PollAt, "", time.Time{}
		return r.save(it)
	case err == nil:
		err = errNothing
	}
	return r.failed(it, iss, err)
}

func (r *Runner) request(it *item, w *work, save func(context.Context, issuer.State) error) *issuer.Request {
	return &issuer.Request{ID: w.ID, CSR: w.CSR, Identifiers: it.c.Names, Profile: it.c.Profile, Replaces: w.Replaces,
		State: issuer.State{Step: w.Step, Data: w.Data}, Save: save}
}

// accept stores a certificate that fits what was asked for: from now on it is
// what targets shall serve.
func (r *Runner) accept(it *item, iss *Issuer, req *issuer.Request, chain [][]byte) error {
	now := r.cfg.Now()
	chain, err := issuer.Accept(req, chain)
	if err != nil {
		return r.failed(it, iss, err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err == nil && !now.Before(leaf.NotAfter) {
		err = errors.New("the certificate that was issued has ended already; compare the clocks of this machine and of the CA")
	}
	if err != nil {
		return r.failed(it, iss, err)
	}
	r.editLane(iss.Name, func(l *lane) { *l = lane{} })
	rec := &it.rec
	rec.Live = &Pair{Issuer: iss.Name, Key: rec.Work.Key, Chain: chain, IssuedAt: now.UTC().Truncate(time.Second)}
	rec.Work, rec.Attempts, rec.Error, rec.RetryAt, rec.Stopped = nil, 0, "", time.Time{}, ""
	rec.plan(rule.ByLife(rule.Life{ID: rec.Live.leaf(), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Before: it.c.RenewBefore}))
	rec.AskAt = rule.FirstAsk(rec.Live.leaf(), now)
	for name, p := range rec.Placed { // a new certificate has its own chance
		rec.Placed[name] = placement{Leaf: p.Leaf}
	}
	fault.Point("alone.before_store")
	if err := r.save(it); err != nil {
		return err
	}
	it.out.Renewed = true
	r.log.Info("certificate obtained", "certificate", it.c.Name, "issuer", iss.Name, "not_after", leaf.NotAfter)
	fault.Point("alone.after_store")
	return nil
}

// outageGap is how far two failures of an issuer may be apart and still be one
// outage: a cron job looks once a day.
const outageGap = 72 * time.Hour

// failed does what the rules say about a failure.
func (r *Runner) failed(it *item, iss *Issuer, cause error) error {
	now, rec, e := r.cfg.Now(), &it.rec, rule.Classify(cause)
	v := rule.Decide(rule.Failure{Error: e, Attempts: rec.Attempts + 1, Left: it.left(now), Random: random()})
	r.editLane(iss.Name, func(l *lane) {
		if v.Sleep > 0 {
			l.SleepUntil, l.Error = now.Add(v.Sleep), e.Error()
		}
		if v.Broken {
			if l.DownSince.IsZero() || now.Sub(l.FailedAt) > outageGap {
				l.DownSince = now
			}
			l.FailedAt, l.Error = now, e.Error()
		}
	})
	it.down = v.Broken
	rec.Error, rec.RetryAt = e.Error(), now.Add(v.Wait)
	if v.Blames {
		rec.Attempts++
	}
	if v.Stop {
		rec.Stopped, rec.RetryAt = it.c.wish(), time.Time{}
	}
	if !v.Keep {
		rec.Work = nil
	}
	r.log.Warn("certificate not obtained", "certificate", it.c.Name, "issuer", iss.Name, "class", string(e.Class), "stopped", v.Stop, "error", rec.Error)
	return r.save(it)
}
