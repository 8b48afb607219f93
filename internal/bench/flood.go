package bench

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// FloodStats is what a flood met, over all rounds.
type FloodStats struct {
	Clients   int     `json:"clients"`
	PerSecond float64 `json:"per_second"` // requests answered
	Taken     int64   `json:"taken"`      // orders that the server still made
	Refused   int64   `json:"refused"`    // 429, well-formed: RFC 7807, rateLimited, Retry-After in whole seconds
	Malformed int64   `json:"malformed"`  // any other 429
	Other     int64   `json:"other"`      // any other answer, and none
	Example   string  `json:"example,omitempty"`

	// Renewals of the account that floods: orders with "replaces" (RFC 9773),
	// which limits must let pass.
	Renewals       int64 `json:"renewals"`
	RenewalsFailed int64 `json:"renewals_failed"`
}

// Flood is one account that orders as fast as many connections can, whatever
// the server answers, next to the clients of an Issue that order as people do.
type Flood struct {
	b       *Issue
	clients []*issuer
	renewer *issuer

	mu      sync.Mutex
	stats   FloodStats
	elapsed time.Duration
	last    atomic.Int32 // status of the last answer
}

// floodLimit is how long the flood may go on before the server refuses it: an
// account has its burst first.
const floodLimit = 2 * time.Minute

// Flood makes the account, gets its first certificate, and orders until the
// server refuses: what follows measures the refusal.
func (b *Issue) Flood(ctx context.Context, clients int) (*Flood, error) {
	if clients < 1 || clients > maxClients {
		return nil, fault.New(fault.Invalid, "a flood of %d clients: choose 1 to %d", clients, maxClients)
	}
	a, err := b.newAccount(ctx)
	if err != nil {
		return nil, err
	}
	f := &Flood{b: b, stats: FloodStats{Clients: clients}}
	client := func() *issuer {
		return &issuer{session: session{http: newCaller(&b.cfg.Transport), dir: b.dir, signer: a.signer, kid: a.url}}
	}
	f.renewer = client()
	f.renewer.newNames(1, b.cfg.Suffix)
	if err := f.renew(ctx); err != nil {
		f.Close()
		return nil, fmt.Errorf("first certificate of the account that floods: %w", err)
	}
	for range clients {
		f.clients = append(f.clients, client())
	}
	if err := f.exhaust(ctx); err != nil {
		f.Close()
		return nil, err
	}
	f.stats = FloodStats{Clients: clients}
	return f, nil
}

// Close closes all connections.
func (f *Flood) Close() {
	f.renewer.http.close()
	for _, c := range f.clients {
		c.http.close()
	}
}

// exhaust floods until the server refuses.
func (f *Flood) exhaust(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, floodLimit)
	defer cancel()
	var g sync.WaitGroup
	for _, c := range f.clients {
		g.Go(func() {
			for ctx.Err() == nil && f.last.Load() != 429 {
				f.one(ctx, c)
			}
		})
	}
	g.Wait()
	if f.last.Load() != 429 {
		return fault.New(fault.Precondition, "the account that floods was not refused within %s; does the server limit orders? The last answers were: %s", floodLimit, f.stats.Example)
	}
	return nil
}

// floodLead is how long the flood goes on before others are measured next to
// it: what is measured is the flood, not that all its clients begin at once.
const floodLead = time.Second

// run floods until the returned function is called. It lets every request come
// to its end, so that connections are kept for the next round.
func (f *Flood) run(ctx context.Context) (stop func()) {
	wait, cancel := context.WithCancel(ctx)
	start := time.Now()
	var g sync.WaitGroup
	for _, c := range f.clients {
		g.Go(func() {
			for wait.Err() == nil {
				f.one(ctx, c)
			}
		})
	}
	g.Go(func() {
		for sleep(wait, time.Second) == nil {
			if err := f.renew(ctx); ctx.Err() == nil {
				f.noteRenewal(err)
			}
		}
	})
	return func() {
		cancel()
		g.Wait()
		f.elapsed += time.Since(start)
	}
}

// one sends one order and looks at the answer. It heeds nothing.
func (f *Flood) one(ctx context.Context, c *issuer) {
	c.newNames(1, f.b.cfg.Suffix)
	c.payload = append(c.payload[:0], `{"identifiers":[{"type":"dns","value":"`+c.names[0]+`"}]}`...)
	res, err := c.postOnce(ctx, &Sample{}, f.b.dir.NewOrder, c.payload)
	if ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.stats
	if err != nil {
		s.Other++
		s.Example = err.Error()
		return
	}
	f.last.Store(int32(res.status))
	switch {
	case res.status == 201:
		s.Taken++
	case res.status != 429:
		s.Other++
		s.Example = fmt.Sprintf("%d %.200s", res.status, res.body)
	case wellRefused(res):
		s.Refused++
	default:
		s.Malformed++
		s.Example = fmt.Sprintf("%s, Retry-After in seconds: %v, %.200s", res.mediaType, res.retrySeconds, res.body)
	}
}

// wellRefused reports whether a 429 is what RFC 8555 section 6.6 and clients
// in the field want.
func wellRefused(res *reply) bool {
	p := acme.ParseProblem(res.mediaType, res.status, res.body)
	return res.mediaType == "application/problem+json" && p.Code() == fault.RateLimited && p.Detail != "" && res.retrySeconds && res.retryAfter > 0
}

func (f *Flood) noteRenewal(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.stats.Renewals++
		return
	}
	f.stats.RenewalsFailed++
	f.stats.Example = "renewal: " + err.Error()
}

// renew gets the first certificate of the account, or the one that replaces it.
func (f *Flood) renew(ctx context.Context) error {
	c, s := f.renewer, &Sample{}
	order, location, err := f.b.newOrder(ctx, c, s)
	if err != nil {
		return err
	}
	if _, err := f.b.authorize(ctx, c, s, order.Authorizations, time.Now()); err != nil {
		return err
	}
	_, csr, err := f.b.request(c)
	if err != nil {
		return err
	}
	url, err := f.b.finalize(ctx, c, s, order.Finalize, location, csr)
	if err != nil {
		return err
	}
	res, err := c.post(ctx, s, url, nil)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(res.body)
	if block == nil {
		return errors.New("the download is no PEM certificate")
	}
	c.replaces, err = certID(block.Bytes)
	return err
}

func certID(der []byte) (string, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	return pki.CertID(cert)
}

// RunFlood measures the clients of b in turns: alone, and next to the flood. It
// returns both points; their ratio within one run means something on a busy
// machine, too.
func (d *Driver) RunFlood(ctx context.Context, b *Issue, f *Flood) ([]Point, error) {
	if err := d.Plan.Check(); err != nil {
		return nil, err
	}
	if len(d.Plan.Clients) != 1 {
		return nil, fault.New(fault.Invalid, "a flood is measured at one number of clients")
	}
	if d.Probe == nil {
		d.Probe = &Probe{}
	}
	w, clients := b.Workload(), d.Plan.Clients[0]
	if err := w.Open(ctx, clients); err != nil {
		return nil, err
	}
	quiet, flooded := newTotals(len(w.Phases)), newTotals(len(w.Phases))
	for n := range d.Plan.Rounds {
		for i, t := range []*totals{quiet, flooded} {
			if err := sleep(ctx, d.Plan.Pause); err != nil {
				return nil, err
			}
			stop := func() {}
			if t == flooded {
				stop = f.run(ctx)
				if err := sleep(ctx, floodLead); err != nil {
					stop()
					return nil, err
				}
			}
			r := newRound(&w, d, clients, t)
			r.progress = Progress{Clients: clients, Round: n + 1, Rounds: d.Plan.Rounds, Point: i + 1, Points: 2}
			result, err := r.run(ctx)
			stop()
			if err != nil {
				return nil, err
			}
			t.rounds = append(t.rounds, result)
		}
	}
	points := []Point{quiet.point(&w, clients, d.Plan.Rate), flooded.point(&w, clients, d.Plan.Rate)}
	points[0].Variant, points[1].Variant = "alone", fmt.Sprintf("next to a flood of %d", f.stats.Clients)
	stats := f.stats
	stats.PerSecond = round4(float64(stats.Taken+stats.Refused+stats.Malformed+stats.Other) / f.elapsed.Seconds())
	points[1].Flood = &stats
	for i := range points {
		if d.OnPoint != nil {
			d.OnPoint(points[i])
		}
	}
	return points, nil
}

// FloodText says in two lines what a flood did to others.
func FloodText(points []Point) string {
	if len(points) != 2 || points[1].Flood == nil {
		return ""
	}
	s := points[1].Flood
	return fmt.Sprintf("others next to the flood: %.2f of their rate alone, %.2f of their p50, %.2f of their p95\nflood of %d clients of one account: %.0f requests/s; %d refused by a well-formed 429, %d malformed, %d taken, %d other; renewals: %d passed, %d failed\n",
		ratio(points[1].PerSecond.Median, points[0].PerSecond.Median), ratio(points[1].Latency.P50, points[0].Latency.P50), ratio(points[1].Latency.P95, points[0].Latency.P95),
		s.Clients, s.PerSecond, s.Refused, s.Malformed, s.Taken, s.Other, s.Renewals, s.RenewalsFailed)
}

func ratio(x, y float64) float64 {
	if y == 0 {
		return 0
	}
	return x / y
}
