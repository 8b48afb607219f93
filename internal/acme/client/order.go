package client

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	json "encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Steps of an order, as State.Step names them.
const (
	StepOrdered    = "ordered"    // the CA has the order
	StepPosted     = "posted"     // the CA was told to validate
	StepFinalizing = "finalizing" // the CSR was sent
)

// EngineConfig is what an Engine needs.
type EngineConfig struct {
	Account *Account      // required
	Solver  issuer.Solver // nil: only orders whose names are all proved already
	Profile string        // of requests that name none; "" = the CA's default
	// Chain is the common name of the root or issuer that the chain shall end
	// in, if the CA offers several (RFC 8555 section 7.4.2); "" = the default.
	Chain string
	// Wait is the longest time that one call waits for the CA; 30 s if 0.
	Wait time.Duration
	Log  *slog.Logger // nil: discard
}

// Engine drives orders of one account. It is safe for concurrent use.
type Engine struct {
	cfg EngineConfig
	c   *Client

	mu   sync.Mutex
	held map[string]held // by order URL: responses that the CA may still look at
	next time.Time       // when to look for those that nobody asks for any more
}

// held are the responses of an order between two calls.
type held struct {
	clean func()
	until time.Time // then nobody asks for the order any more
}

// Bounds of the responses that are kept for orders under way.
const (
	maxHeld = 20_000
	holdFor = 6 * time.Hour
	sweep   = 10 * time.Minute
)

// NewEngine returns an Engine. It sends nothing.
func NewEngine(c EngineConfig) *Engine {
	if c.Wait <= 0 {
		c.Wait = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Engine{cfg: c, c: c.Account.cfg.Client, held: map[string]held{}}
}

// progress is the State.Data of an order.
type progress struct {
	Order     string `json:"order"`               // URL
	NoReplace bool   `json:"noReplace,omitempty"` // the CA knows of a successor already
}

// flow is one call of Issue.
type flow struct {
	e     *Engine
	r     *issuer.Request
	p     progress
	o     acme.Order
	retry time.Duration // Retry-After of the last look at the order
	until time.Time     // then the call returns
}

// Issue drives r as far as it goes; see issuer.Issuer. An order that came to
// nothing is forgotten, so that the next call begins a new one.
func (e *Engine) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	f := &flow{e: e, r: r, until: e.now().Add(e.cfg.Wait)}
	reply, err := f.run(ctx)
	if len(reply.Chain) > 0 {
		e.release(f.p.Order) // after a failure on the way the CA may still look
	}
	return reply, classify(ctx, err, e.now())
}

func (e *Engine) now() time.Time { return e.c.cfg.Now() }

// maxMoves bounds the changes of state in one call; a sound order has four.
const maxMoves = 12

func (f *flow) run(ctx context.Context) (issuer.Reply, error) {
	if err := f.begin(ctx); err != nil {
		return issuer.Reply{}, err
	}
	for range maxMoves {
		var wait bool
		var err error
		switch f.o.Status {
		case acme.OrderPending:
			wait, err = f.authorize(ctx)
		case acme.OrderReady:
			err = f.finalize(ctx)
		case acme.OrderProcessing:
			wait, err = f.await(ctx, acme.OrderProcessing)
		case acme.OrderValid:
			chain, err := f.download(ctx)
			return issuer.Reply{Chain: chain}, err
		default:
			return issuer.Reply{}, f.failed(ctx)
		}
		if wait || err != nil {
			return f.later(wait, err)
		}
	}
	return issuer.Reply{}, &issuer.Error{Class: issuer.Unavailable, Err: fmt.Errorf("the order %s changes its state without end", f.p.Order)}
}

// later is the reply when the CA needs longer than this call may take.
func (f *flow) later(wait bool, err error) (issuer.Reply, error) {
	if !wait || err != nil {
		return issuer.Reply{}, err
	}
	return issuer.Reply{PollAt: f.e.now().Add(max(f.retry, 5*time.Second))}, nil
}

// begin takes up the order of an earlier call, or makes one.
func (f *flow) begin(ctx context.Context) error {
	if len(f.r.State.Data) > 0 {
		if err := json.Unmarshal(f.r.State.Data, &f.p); err != nil {
			return errors.New("resume order: its state is damaged")
		}
	}
	if f.p.Order == "" {
		return f.order(ctx)
	}
	err := f.look(ctx)
	var refused *Refusal
	if errors.As(err, &refused) && (refused.Status == http.StatusNotFound || refused.Status == http.StatusForbidden) || err == nil && f.expired() {
		f.e.release(f.p.Order)
		f.p.Order = ""
		return f.order(ctx) // it is gone, as are its validations
	}
	return err
}

func (f *flow) expired() bool {
	return f.o.Status == acme.OrderPending && !f.o.Expires.IsZero() && f.o.Expires.Before(f.e.now())
}

// save commits where the order stands.
func (f *flow) save(ctx context.Context, step string) error {
	data, err := json.Marshal(f.p)
	if err != nil {
		return fmt.Errorf("encode order state: %w", err)
	}
	return f.r.Save(ctx, issuer.State{Step: step, Data: data})
}

// order makes a new order. If its answer is lost, the next call makes another
// one: an order without validations is no certificate, and expires.
func (f *flow) order(ctx context.Context) error {
	dir, err := f.e.c.Directory(ctx)
	if err != nil {
		return err
	}
	req, err := f.newOrder(dir)
	if err != nil {
		return err
	}
	res, err := f.sendOrder(ctx, dir.NewOrder, req)
	var refused *Refusal
	if errors.As(err, &refused) && req.Replaces != "" && (refused.Status == http.StatusConflict || refused.Code() == fault.AlreadyReplaced) {
		// RFC 9773 section 5: another order replaced the predecessor. That may
		// be one whose answer we lost, and says nothing against a new one.
		f.p.NoReplace, req.Replaces = true, ""
		res, err = f.sendOrder(ctx, dir.NewOrder, req)
	}
	if err != nil {
		return err
	}
	if f.p.Order, err = f.e.c.resolve(res.header.Get("Location")); err != nil {
		return fmt.Errorf("new-order: %w", err)
	}
	if err := f.read(res); err != nil {
		return err
	}
	return f.save(ctx, StepOrdered)
}

func (f *flow) sendOrder(ctx context.Context, url string, req *acme.NewOrder) (*reply, error) {
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode order: %w", err)
	}
	return f.e.cfg.Account.post(ctx, "new-order", url, body)
}

func (f *flow) newOrder(dir *acme.Directory) (*acme.NewOrder, error) {
	req := &acme.NewOrder{Profile: f.r.Profile}
	if req.Profile == "" {
		req.Profile = f.e.cfg.Profile
	}
	if _, ok := dir.Meta.Profiles[req.Profile]; req.Profile != "" && !ok {
		return nil, &issuer.Error{Class: issuer.Permanent, Err: fmt.Errorf("the CA has no profile %q; it has %s", req.Profile, profiles(dir))}
	}
	for _, id := range f.r.Identifiers {
		req.Identifiers = append(req.Identifiers, acme.Identifier{Type: id.Type, Value: id.Value})
	}
	if !f.r.NotAfter.IsZero() {
		req.NotAfter = acme.At(f.r.NotAfter)
	}
	if len(f.r.Replaces) > 0 && dir.RenewalInfo != "" && !f.p.NoReplace {
		old, err := x509.ParseCertificate(f.r.Replaces)
		if err != nil {
			return nil, fmt.Errorf("read predecessor: %w", err)
		}
		// A certificate without a key identifier has no ARI name; it can be
		// renewed all the same.
		req.Replaces, _ = pki.CertID(old)
	}
	return req, nil
}

// look reads the order.
func (f *flow) look(ctx context.Context) error {
	res, err := f.e.cfg.Account.post(ctx, "order", f.p.Order, nil)
	if err != nil {
		return err
	}
	return f.read(res)
}

// read takes an order object. A reply of finalize may leave out URLs that an
// earlier one had.
func (f *flow) read(res *reply) error {
	o, err := acme.Decode[acme.Order](res.body)
	if err != nil {
		return fmt.Errorf("read order: %w", err)
	}
	const most = 1000 // authorizations; CAs take 100 names
	if len(o.Authorizations) > most {
		return fmt.Errorf("the order has %d authorizations", len(o.Authorizations))
	}
	if o.Finalize == "" {
		o.Finalize = f.o.Finalize
	}
	if len(o.Authorizations) == 0 {
		o.Authorizations = f.o.Authorizations
	}
	f.o, f.retry = o, res.retryAfter
	return nil
}

// Waits between looks at an order whose CA sends no Retry-After.
const (
	firstPoll = 250 * time.Millisecond
	lastPoll  = 5 * time.Second
)

// await looks at the order until it leaves a state. wait says that it did not
// before the call has to end. The context's own end is an error.
func (f *flow) await(ctx context.Context, from acme.OrderStatus) (wait bool, err error) {
	for d := firstPoll; ; d = min(d*3/2, lastPoll) {
		pause := d
		if f.retry > 0 {
			pause = f.retry
		}
		if f.e.now().Add(pause).After(f.until) {
			return true, nil
		}
		if err := sleep(ctx, pause); err != nil {
			return false, err
		}
		if err := f.look(ctx); err != nil {
			return false, err
		}
		if f.o.Status != from {
			return false, nil
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finalize sends the request. That it was sent is saved first; a lost answer
// is found again by a look at the order.
func (f *flow) finalize(ctx context.Context) error {
	url, err := f.e.c.resolve(f.o.Finalize)
	if err != nil {
		return fmt.Errorf("finalize: %w", err)
	}
	if err := f.save(ctx, StepFinalizing); err != nil {
		return err
	}
	body, err := json.Marshal(acme.Finalize{CSR: base64.RawURLEncoding.EncodeToString(f.r.CSR)})
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	res, err := f.e.cfg.Account.post(ctx, "finalize", url, body)
	var refused *Refusal
	if errors.As(err, &refused) && refused.Code() == fault.OrderNotReady {
		if err := f.look(ctx); err != nil {
			return err
		}
		if f.o.Status == acme.OrderReady {
			return refused // it says both
		}
		return nil
	}
	if err != nil {
		return err
	}
	return f.read(res)
}

// release removes the responses of an order, in the background.
func (e *Engine) release(order string) {
	e.mu.Lock()
	h := e.held[order]
	delete(e.held, order)
	e.mu.Unlock()
	if h.clean != nil {
		h.clean()
	}
}

// hold keeps the responses of an order visible until release, or until nobody
// can be expected to come back for it.
func (e *Engine) hold(order string, clean func()) {
	now := e.now()
	var drop []func()
	e.mu.Lock()
	if before, ok := e.held[order]; ok {
		drop = append(drop, before.clean)
	}
	e.held[order] = held{clean, now.Add(holdFor)}
	if len(e.held) > maxHeld || now.After(e.next) {
		e.next = now.Add(sweep)
		for url, h := range e.held {
			if url != order && (h.until.Before(now) || len(e.held) > maxHeld) {
				drop = append(drop, h.clean)
				delete(e.held, url)
			}
		}
	}
	e.mu.Unlock()
	for _, f := range drop {
		f()
	}
}
