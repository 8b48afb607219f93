package renew

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"chancery/internal/db"
	"chancery/internal/inventory"
	"chancery/internal/issuer"
	"chancery/internal/keys"
	"chancery/internal/obs"
	"chancery/internal/renew/rule"
)

// Issuer is an opened issuer and what holds for its account.
type Issuer struct {
	issuer.Issuer
	Own           bool     // a CA of this installation
	Workers       int      // most issuances in flight in the whole fleet; 0 = 8
	Budgets       []Budget // of its account
	Fallbacks     []string // for certificates that name none
	FallbackAfter time.Duration
	Staging       string        // issuer to try at when validation keeps failing, "" = none
	Timeout       time.Duration // of one step of an issuance; 0 = 2 min
}

// defaultWorkers is the cap of an issuer that sets none.
const defaultWorkers = 8

// missing stands for an issuer that certificates name and configuration does
// not: for them it is down, with a reason, until it comes back or a fallback
// does its work.
func missing(name string) *Issuer { return &Issuer{Issuer: absent(name), Workers: defaultWorkers} }

// absent is the plug-in of a missing issuer.
type absent string

// Issue implements issuer.Issuer.
func (a absent) Issue(context.Context, *issuer.Request) (issuer.Reply, error) {
	return issuer.Reply{}, &issuer.Error{Class: issuer.Unavailable, Err: errors.New("there is no [issuer." + string(a) + "] in the configuration; add it, or give the certificate another issuer")}
}

func (i *Issuer) workers() int {
	if i.Workers <= 0 {
		return defaultWorkers
	}
	return i.Workers
}

func (i *Issuer) budgets() []Budget { return i.Budgets }

// Config is what an Engine needs.
type Config struct {
	DB        *db.DB
	Inventory *inventory.Store
	Secrets   *keys.Sealer
	Issuers   map[string]*Issuer
	Targets   map[string]*Place

	// Now is the clock; nil: time.Now. Simulations set it forward and back.
	Now func() time.Time
	// Lease is how long a claimed row stays with its process without a sign of
	// life; 0 = 5 min.
	Lease time.Duration
	// CheckWorkers bounds looks at the certificates of one issuer in this
	// process; 0 = 64. They wait for commits that they share.
	CheckWorkers int

	// OnClaim, if set, is told how late the oldest row of each claim was. It
	// must not block.
	OnClaim func(late time.Duration)

	// Remote holds the keys of certificates that agents serve.
	Remote Remote

	Metrics *obs.Metrics // nil: not measured
	Log     *slog.Logger // nil: discard
}

// Engine renews and deploys. Run does the work; the other methods are safe to
// call at any time, also without Run.
type Engine struct {
	db        *db.DB
	inventory *inventory.Store
	secrets   *keys.Sealer
	issuers   map[string]*Issuer
	targets   map[string]*Place
	now       func() time.Time
	leaseFor  time.Duration
	checkers  int
	log       *slog.Logger
	meters    meters
	onClaim   func(time.Duration)
	stock     *stocker
	remote    Remote

	wake chan struct{}

	mu       sync.Mutex
	busy     map[laneKey]int       // workers by lane
	seen     map[laneKey]time.Time // when the lane was last searched for rows out of reach
	shortcut map[laneKey]bool      // lanes whose row a success must change
	told     map[string]bool       // reasons of hurry that are in the journal, by issuer and explanation
	work     sync.WaitGroup
}

// laneKey names a lane of the schedule.
type laneKey struct {
	kind kind
	name string
}

// New returns an engine. It starts nothing.
func New(cfg Config) *Engine {
	e := &Engine{db: cfg.DB, inventory: cfg.Inventory, secrets: cfg.Secrets, issuers: cfg.Issuers, targets: cfg.Targets, now: cfg.Now, leaseFor: cfg.Lease,
		checkers: cfg.CheckWorkers, log: cfg.Log, wake: make(chan struct{}, 1), busy: map[laneKey]int{}, seen: map[laneKey]time.Time{}, shortcut: map[laneKey]bool{}, told: map[string]bool{}, remote: cfg.Remote}
	if e.now == nil {
		e.now = time.Now
	}
	if e.leaseFor <= 0 {
		e.leaseFor = 5 * time.Minute
	}
	if e.checkers <= 0 {
		e.checkers = 64
	}
	if e.log == nil {
		e.log = obs.Discard()
	}
	e.meters, e.onClaim = newMeters(cfg.Metrics), cfg.OnClaim
	e.stock = &stocker{store: cfg.Inventory, now: e.now, in: make(chan stocking)}
	return e
}

// issuer returns the issuer with a name, or one that says that it is missing.
func (e *Engine) issuer(name string) *Issuer {
	if i := e.issuers[name]; i != nil {
		return i
	}
	return missing(name)
}

// Wake makes a sleeping Run look at once.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// How long Run sleeps at most, and at least between two looks: completions
// within the latter share one claim. Rows that another replica writes are seen
// after maxPause, because nobody wakes this one.
const (
	maxSleep = 5 * time.Minute
	maxPause = time.Second
	minSleep = 10 * time.Millisecond
	retry    = time.Second // after a failed look, or for a cap that others use up
)

// Run works until ctx ends, then waits for what is under way; a worker is told
// to stop and leaves a row that comes back.
func (e *Engine) Run(ctx context.Context) error {
	var stock sync.WaitGroup
	stocking, stop := context.WithCancel(context.WithoutCancel(ctx))
	stock.Go(func() { e.stock.run(stocking) })
	defer func() {
		e.work.Wait()
		stop()
		stock.Wait()
	}()
	for ctx.Err() == nil {
		next, err := e.step(ctx)
		if err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "renewal schedule not read", "error", err)
			next = e.now().Add(retry)
		}
		e.sleep(ctx, next)
	}
	return nil
}

// sleep waits until at, a wake-up or the end.
func (e *Engine) sleep(ctx context.Context, at time.Time) {
	d := maxSleep
	if e.db.Engine() == db.Postgres {
		d = maxPause
	}
	if !at.IsZero() {
		d = min(max(at.Sub(e.now()), minSleep), d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return
	case <-ctx.Done():
		return
	case <-e.wake:
	}
	// What ends together is claimed together.
	t.Reset(minSleep)
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// step claims what is due in every lane and returns when to look again.
func (e *Engine) step(ctx context.Context) (next time.Time, err error) {
	for _, k := range []kind{check, issue} {
		lanes, err := lanesOf(ctx, e.db.Read(), k)
		if err != nil {
			return next, err
		}
		for _, ca := range lanes {
			at, err := e.stepLane(ctx, laneKey{k, ca})
			if err != nil {
				return next, err
			}
			next = rule.Soonest(next, at)
		}
	}
	at, err := e.stepTargets(ctx)
	return rule.Soonest(next, at), err
}

// stepLane claims what is due in one lane and hands it to workers.
func (e *Engine) stepLane(ctx context.Context, key laneKey) (next time.Time, err error) {
	now := e.now()
	if err := e.pullBack(ctx, key, now); err != nil {
		return next, err
	}
	due, err := nextDue(ctx, e.db.Read(), key.kind, key.name)
	if err != nil || due.IsZero() || due.After(now) {
		return due, err
	}
	free := e.free(key)
	if free <= 0 {
		return next, nil // a worker that ends wakes us
	}
	var c claimed
	if key.kind == check {
		c, err = e.claimChecks(ctx, key.name, free, now)
	} else {
		if c, err = e.claimIssues(ctx, key.name, free, now); err == nil {
			err = e.leave(ctx, &c.lane, now)
		}
		e.setShortcut(key, !c.lane.calm())
	}
	if err != nil {
		return next, err
	}
	if len(c.leases) > 0 && e.onClaim != nil {
		e.onClaim(e.now().Sub(due))
	}
	for _, l := range c.leases {
		e.start(ctx, key, l)
	}
	switch {
	case c.lane.Divert != "": // what was due has left for another lane
		return now.Add(retry), nil
	case !c.wake.IsZero():
		return c.wake, nil
	case c.full:
		return now.Add(retry), nil
	case len(c.leases) == 0: // paused, or locked by another replica
		return now.Add(retry), nil
	}
	return now, nil // there may be more
}

// pullBack runs reach once a minute for each lane.
func (e *Engine) pullBack(ctx context.Context, key laneKey, now time.Time) error {
	e.mu.Lock()
	last := e.seen[key]
	due := last.IsZero() || now.Sub(last) >= time.Minute || now.Before(last)
	if due {
		e.seen[key] = now
	}
	e.mu.Unlock()
	if !due {
		return nil
	}
	return e.reach(ctx, key.kind, key.name, now)
}

// free returns how many workers a lane may start here.
func (e *Engine) free(key laneKey) int {
	most := e.checkers
	if key.kind == issue {
		most = e.issuer(key.name).workers()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return most - e.busy[key]
}

// setShortcut remembers whether the lane's row is worth a write on success.
func (e *Engine) setShortcut(key laneKey, on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shortcut[key] = on
}

func (e *Engine) uneasy(ca string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.shortcut[laneKey{issue, ca}]
}

// start runs one claimed row.
func (e *Engine) start(ctx context.Context, key laneKey, l lease) {
	e.mu.Lock()
	e.busy[key]++
	e.mu.Unlock()
	e.work.Go(func() {
		defer e.Wake()
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.busy[key]--; e.busy[key] == 0 {
				delete(e.busy, key)
			}
		}()
		defer e.guard(ctx, l)
		err := e.serve(ctx, key.kind, l)
		if err != nil && !errors.Is(err, errLost) && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "managed certificate not served", "managed", l.id, "kind", string(key.kind), "error", err)
		}
	})
}

// guard keeps a panic from ending the program: the row comes back with its
// lease.
func (e *Engine) guard(ctx context.Context, l lease) {
	if p := recover(); p != nil {
		e.log.ErrorContext(ctx, "renewal panicked", "managed", l.id, "panic", p)
	}
}

// serve does one claimed row.
func (e *Engine) serve(ctx context.Context, k kind, l lease) (err error) {
	name := "renew.issue"
	if k == check {
		name = "renew.check"
	}
	ctx, span := obs.Begin(ctx, name)
	defer func() { span.End(err) }()
	// The lease outlives the work: a step that hangs is cut off before
	// another process may take it over.
	ctx, cancel := context.WithTimeout(ctx, e.leaseFor*4/5)
	defer cancel()
	m, err := db.Get(ctx, e.db.Read(), qManaged, scanManaged, l.id)
	if err != nil {
		return err
	}
	span.Str("renew.managed", m.Name)
	if k == check {
		return e.check(ctx, l, &m)
	}
	return e.issue(ctx, l, &m)
}

// leavers are the most certificates that leave a lane in one look.
const leavers = 5000

// leave moves due certificates to their fallbacks while their issuer is down,
// or to where a person diverts them.
func (e *Engine) leave(ctx context.Context, l *Lane, now time.Time) error {
	if l.Divert == "" && !l.open() {
		return nil
	}
	var at time.Time
	after := ""
	for n := 0; n < leavers; n += maxClaim {
		rows, err := db.List(ctx, e.db.Read(), qDueRows, scanDue, l.Name, now, at, after, maxClaim)
		if err != nil || len(rows) == 0 {
			return err
		}
		last := rows[len(rows)-1]
		at, after = last.at, last.m.ID
		if err := e.divert(ctx, l, rows, now); err != nil {
			return err
		}
	}
	return nil
}

// dueRow is a certificate that waits in an issue lane.
type dueRow struct {
	m  Managed
	at time.Time
}

func scanDue(r *db.Row) dueRow {
	at := r.Time()
	return dueRow{scanManaged(r), at}
}

var (
	qDueRows = db.SQL("renew.list_due", `SELECT s.due_at, `+managedColumns+` FROM managed_schedule s JOIN managed m ON m.id = s.managed_id
		WHERE s.kind = 'issue' AND s.ca = $1 AND s.due_at <= $2 AND (s.due_at, s.managed_id) > (COALESCE($3::bigint, 0), $4::text) ORDER BY s.due_at, s.managed_id LIMIT $5`)
	qMoveRows = db.SQL("renew.move_rows", `UPDATE managed_schedule SET ca = $2, lease_token = '' WHERE managed_id = ANY($3::text[]) AND kind = 'issue' AND ca = $1 AND due_at <= $4`)
)

// divert moves those of rows that have somewhere to go.
func (e *Engine) divert(ctx context.Context, l *Lane, rows []dueRow, now time.Time) error {
	to := map[string][]string{}
	after := e.issuer(l.Name).FallbackAfter
	if after <= 0 {
		after = fallbackAfter
	}
	up := map[string]bool{}
	for i := range rows {
		m := &rows[i].m
		if l.Divert != "" {
			if e.issuers[l.Divert] != nil {
				to[l.Divert] = append(to[l.Divert], m.ID)
			}
			continue
		}
		if !l.fallback(now, m.left(now), after) {
			continue
		}
		names := m.Fallbacks
		if len(names) == 0 {
			names = e.issuer(m.Issuer).Fallbacks
		}
		if name := e.fallbackOf(ctx, names, l.Name, up, now); name != "" {
			to[name] = append(to[name], m.ID)
		}
	}
	for name, ids := range to {
		slices.Sort(ids)
		err := e.db.Write(ctx, func(tx *db.Tx) error {
			for _, id := range ids {
				record(tx, id, now, "fallback", "issuer "+l.Name+" is not available: "+name+" is asked instead")
			}
			_, err := tx.Exec(ctx, qMoveRows, l.Name, name, ids, now)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// left is how long the live certificate is valid at now, 0 without one.
func (m *Managed) left(now time.Time) time.Duration {
	if m.NotAfter.IsZero() {
		return 0
	}
	return max(m.NotAfter.Sub(now), 0)
}

// fallbackOf returns the first of names that is configured, not the one that
// is left, and whose lane moves, or "". up remembers answers.
func (e *Engine) fallbackOf(ctx context.Context, names []string, but string, up map[string]bool, now time.Time) string {
	for _, name := range names {
		is, asked := up[name]
		if !asked {
			l, err := laneOf(ctx, e.db.Read(), IssuerLane, name)
			is = err == nil && e.issuers[name] != nil && !l.Paused && !l.open() && l.until(now).IsZero()
			up[name] = is
		}
		if is && name != but {
			return name
		}
	}
	return ""
}

// random returns a number in [0,1).
func random() float64 { return rand.Float64() }

// sortedKeys returns the keys of a set in order.
func sortedKeys(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
