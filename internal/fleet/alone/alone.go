// Package alone is an agent without a server: it keeps the certificates of one
// host alive by itself, from any issuer, and puts them into service at the
// targets of the host.
//
// It has no database. What it must remember is a directory:
//
//	certificates/NAME.json  a certificate: its key and chain, the order under
//	                        way, its dates, and what each target has (0600)
//	issuers/NAME/           what an issuer keeps, such as its ACME account (0600)
//	issuers/NAME.json       until when an issuer is left alone
//	targets/NAME/           the journals of targets (see package deploy)
//
// Key and chain are in one file that is replaced whole and synced, so that no
// crash can leave a chain with the key of another. The state of an order is
// there before each of its side effects (see package acme/client): whatever
// kills the program, the next start goes on from there.
package alone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/obs"
	"chancery/internal/pki"
	"chancery/internal/renew/rule"
)

// Issuer is a configured CA account.
type Issuer struct {
	Name    string
	Issuer  issuer.Issuer
	Staging *Issuer       // where orders are rehearsed; nil: nowhere
	Timeout time.Duration // of one step; 0 = 2 min
	// FallbackAfter is how long it must be down before the next issuer of a
	// certificate is asked; 0 = 15 min.
	FallbackAfter time.Duration
}

// Certificate is one that is kept alive.
type Certificate struct {
	Name        string // of its section; names its file
	Names       []pki.Identifier
	Issuers     []*Issuer // the one it comes from, then those asked while it is down
	Targets     []string
	ID          string // of its files at targets
	KeyType     pki.KeyType
	ReuseKey    bool
	Profile     string
	RenewBefore time.Duration
}

// Target is a place on this host.
type Target struct {
	Target  deploy.Target
	Options deploy.Options
	Collect time.Duration // how far renewals are moved forward to share a reload
	Batch   int           // most certificates in one batch; 0 = 500
	Timeout time.Duration // of a batch; 0 = 8 min
}

// Config is what a Runner needs.
type Config struct {
	State        string // directory, made when it is missing
	Certificates []Certificate
	Targets      map[string]*Target
	// Respond opens what answers challenges. It is called when something is
	// ordered, and what it returns when nothing is any more. nil: nothing to open.
	Respond func() (stop func() error, err error)
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: discard
}

// Runner keeps the certificates of a host. It is not safe for concurrent use.
type Runner struct {
	cfg  Config
	log  *slog.Logger
	stop func() error // ends the responders; nil: they are not open

	mu    sync.Mutex
	lanes map[string]*lane // by issuer
}

// Bounds of a run.
const (
	inParallel = 8                // orders at the same time
	onceWait   = 15 * time.Minute // how long --once waits for what a CA is making
	longest    = time.Hour        // between two looks of a run that stays, whatever the clock says
	retryStep  = time.Minute      // of a deployment that failed, doubled each time
	retryCap   = 6 * time.Hour
)

// New returns a Runner. It opens nothing and makes the directories.
func New(c Config) (*Runner, error) {
	if c.Log == nil {
		c.Log = obs.Discard()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, dir := range []string{"", "certificates", "issuers", "targets"} {
		if err := os.MkdirAll(filepath.Join(c.State, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make state directory: %w", err)
		}
	}
	return &Runner{cfg: c, log: c.Log, lanes: map[string]*lane{}}, nil
}

// State is how a certificate is after a run.
type State string

// States of a certificate.
const (
	Served  State = "served"  // every target has it, and it is not time yet
	Pending State = "pending" // the CA, or a target's window, is waited for
	Failed  State = "failed"  // something is wrong; it is tried again
	Stopped State = "stopped" // it failed for good: change its section, or say its name with --renew
)

// Result is a certificate after a run, or in a list.
type Result struct {
	Name      string    `json:"name"`
	Names     []string  `json:"names"`
	State     State     `json:"state"`
	Issuer    string    `json:"issuer,omitempty"` // of the certificate that is here
	Renewed   bool      `json:"renewed"`          // obtained in this run
	Deployed  []string  `json:"deployed,omitempty"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	RenewAt   time.Time `json:"renew_at,omitzero"`
	RetryAt   time.Time `json:"retry_at,omitzero"`
	Error     string    `json:"error,omitempty"`
	Stderr    string    `json:"stderr,omitempty"` // of the program that refused it
	SHA256    string    `json:"sha256,omitempty"`
	WindowURL string    `json:"window_url,omitempty"` // why the issuer wants it renewed
}

// item is a certificate at work.
type item struct {
	c    *Certificate
	rec  record
	err  error // its file cannot be read, or not written
	out  Result
	down bool // the issuer that was asked last is
}

// Once does what there is to do now, waits for what a CA is making, and returns
// how every certificate is. Those in force are renewed whether it is time or
// not, and tried again if they failed; "*" is all.
func (r *Runner) Once(ctx context.Context, force []string) ([]Result, error) {
	lock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if err := r.known(force); err != nil {
		return nil, err
	}
	seen := map[string]Result{}
	for begin := r.cfg.Now(); ; force = nil {
		results, next := r.pass(ctx, force)
		for i := range results {
			before := seen[results[i].Name]
			results[i].Renewed = results[i].Renewed || before.Renewed
			results[i].Deployed = append(before.Deployed, results[i].Deployed...)
			seen[results[i].Name] = results[i]
		}
		wait := next.polled.Sub(r.cfg.Now())
		if next.polled.IsZero() || next.polled.Sub(begin) > onceWait || !sleep(ctx, wait) {
			return results, errors.Join(ctx.Err(), r.quiet())
		}
	}
}

// known refuses names that no section has.
func (r *Runner) known(names []string) error {
	for _, n := range names {
		if n != "*" && !slices.ContainsFunc(r.cfg.Certificates, func(c Certificate) bool { return c.Name == n }) {
			return fault.New(fault.Invalid, "the configuration has no [certificate.%s]", n)
		}
	}
	return nil
}

// Run keeps the certificates until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	lock, err := r.lock()
	if err != nil {
		return err
	}
	defer lock.Release()
	for {
		_, next := r.pass(ctx, nil)
		at := rule.Soonest(next.polled, next.due)
		wait := longest
		if !at.IsZero() {
			wait = min(max(at.Sub(r.cfg.Now()), time.Second), longest)
		}
		if !sleep(ctx, wait) {
			return r.quiet()
		}
	}
}

// lock keeps a second program from the same directory.
func (r *Runner) lock() (*deploy.Lock, error) {
	lock, err := deploy.TakeLock(r.cfg.State)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "another agent works in %s at the moment", r.cfg.State)
	}
	return lock, nil
}

// next is when something is to be done again.
type next struct {
	polled time.Time // a CA is asked for what it makes
	due    time.Time // anything else
}

// pass does what is to be done now.
func (r *Runner) pass(ctx context.Context, force []string) ([]Result, next) {
	items := r.load()
	horizon := r.horizon(items)
	var work []*item
	for _, it := range items {
		forced := slices.Contains(force, it.c.Name) || slices.Contains(force, "*")
		if it.err == nil && r.wanted(ctx, it, horizon, forced) {
			work = append(work, it)
		}
	}
	if len(work) > 0 {
		r.obtain(ctx, work)
	}
	r.deploy(ctx, items, force)
	results := make([]Result, len(items))
	var n next
	for i, it := range items {
		results[i] = r.result(it)
		if it.err == nil {
			n.polled = rule.Soonest(n.polled, it.polledAt())
			n.due = rule.Soonest(n.due, it.nextAt(r.cfg.Now()))
		}
	}
	return results, n
}

// load reads every certificate, in the order of their names.
func (r *Runner) load() []*item {
	items := make([]*item, len(r.cfg.Certificates))
	for i := range items {
		c := &r.cfg.Certificates[i]
		items[i] = &item{c: c, out: Result{Name: c.Name}}
		items[i].rec, items[i].err = r.read(c.Name)
	}
	return items
}

// List returns how every certificate is, without doing anything.
func (r *Runner) List() []Result {
	var out []Result
	for _, it := range r.load() {
		out = append(out, r.result(it))
	}
	return out
}

// horizon is until when renewals are brought forward: those of a target that
// come within its collect time share a reload with one that is due now.
func (r *Runner) horizon(items []*item) map[string]time.Time {
	now, out := r.cfg.Now(), map[string]time.Time{}
	for _, it := range items {
		if it.err != nil || it.rec.Live == nil || it.rec.RenewAt.After(now) {
			continue
		}
		for _, t := range it.c.Targets {
			if target := r.cfg.Targets[t]; target != nil {
				out[t] = now.Add(target.Collect)
			}
		}
	}
	return out
}

// polledAt is when the CA wants to be asked for the certificate.
func (it *item) polledAt() time.Time {
	if it.rec.Work == nil || it.rec.Error != "" {
		return time.Time{}
	}
	return it.rec.Work.PollAt
}

// nextAt is when the certificate is to be looked at for anything else.
func (it *item) nextAt(now time.Time) time.Time {
	rec := &it.rec
	var at time.Time
	for _, t := range it.c.Targets {
		if p := rec.Placed[t]; rec.Live != nil && p.Leaf != rec.Live.leaf() {
			at = rule.Soonest(at, later(p.RetryAt, now))
		}
	}
	switch {
	case rec.Stopped != "":
		return at
	case rec.Error != "":
		return rule.Soonest(at, later(rec.RetryAt, now))
	}
	return rule.Soonest(at, rec.RenewAt, rec.AskAt)
}

// later returns an instant that is set.
func later(at, now time.Time) time.Time {
	if at.IsZero() {
		return now
	}
	return at
}

// result says how a certificate is.
func (r *Runner) result(it *item) Result {
	out, rec := it.out, &it.rec
	for _, n := range it.c.Names {
		out.Names = append(out.Names, n.Value)
	}
	out.State, out.RenewAt, out.Error, out.RetryAt, out.WindowURL = Served, rec.RenewAt, rec.Error, rec.RetryAt, rec.Explanation
	switch {
	case it.err != nil:
		out.State, out.Error = Failed, it.err.Error()
		return out
	case rec.Stopped != "":
		out.State = Stopped
	case rec.Error != "":
		out.State = Failed
	case rec.Work != nil || rec.Live == nil:
		out.State = Pending
	}
	if rec.Live == nil {
		return out
	}
	out.Issuer, out.SHA256 = rec.Live.Issuer, rec.Live.leaf()
	if leaf, err := rec.Live.parse(); err == nil {
		out.NotAfter = leaf.NotAfter
	}
	for _, name := range slices.Sorted(slices.Values(it.c.Targets)) {
		p := rec.Placed[name]
		if p.Leaf == out.SHA256 || out.State != Served {
			continue
		}
		out.State, out.RetryAt = Pending, p.RetryAt
		if p.Error != "" {
			out.State, out.Error, out.Stderr = Failed, "target "+name+": "+p.Error, p.Stderr
		}
	}
	return out
}

// respond opens what answers challenges, unless it is.
func (r *Runner) respond() error {
	if r.stop != nil || r.cfg.Respond == nil {
		return nil
	}
	stop, err := r.cfg.Respond()
	if err == nil {
		r.stop = stop
	}
	return err
}

// quiet closes what answers challenges.
func (r *Runner) quiet() error {
	if r.stop == nil {
		return nil
	}
	stop := r.stop
	r.stop = nil
	return stop()
}

// random is in [0,1).
func random() float64 { return rand.Float64() }

// sleep waits, and reports whether ctx still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// sorted returns the keys of a map in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
