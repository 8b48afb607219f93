package bench

import (
	"context"
	"time"

	"chancery/internal/fault"
)

// maxPhases is how many parts an operation may be timed in.
const maxPhases = 8

// Workload is what is measured: one kind of operation against one server.
type Workload struct {
	Name   string   // "issue"
	Unit   string   // plural of what one operation is: "issuances"
	Phases []string // names of the parts in Sample.Phases, at most 8; may be empty

	// Open prepares clients 0 to clients-1, before the clock starts. It is
	// called again before each point, with whatever number that has. May be nil.
	Open func(ctx context.Context, clients int) error

	// Do makes one operation as one client. A client makes one operation at a
	// time. What Do returns is counted by class, so it must keep its cause.
	Do func(ctx context.Context, client int, s *Sample) error
}

// Sample is what one operation tells about itself.
type Sample struct {
	Phases   [maxPhases]time.Duration
	Requests int // to the server under test
	Retries  int // of them, those that repeat one for a bad nonce or a lost connection
}

// lap adds the time since start to phase i and returns the present.
func (s *Sample) lap(i int, start time.Time) time.Time {
	now := time.Now()
	s.Phases[i] += now.Sub(start)
	return now
}

// Plan says how a workload is driven.
type Plan struct {
	Clients  []int         // one point each
	Rate     float64       // operations started per second, over all clients; 0: closed loop
	Rounds   int           // per point
	Warmup   time.Duration // before each round
	Duration time.Duration // of each measured window
	Count    int           // closed loop: a window also ends after so many operations; 0: no
	Drain    time.Duration // for operations that a window's end left unfinished
	Pause    time.Duration // between rounds, for the server to settle
}

// maxClients bounds a plan; each client holds a connection at both ends.
const maxClients = 20000

// Check returns a *fault.Error when the plan makes no sense.
func (p *Plan) Check() error {
	if len(p.Clients) == 0 || p.Rounds < 1 {
		return fault.New(fault.Invalid, "a benchmark needs at least one number of clients and one round")
	}
	for _, c := range p.Clients {
		if c < 1 || c > maxClients {
			return fault.New(fault.Invalid, "%d clients: choose 1 to %d", c, maxClients)
		}
	}
	switch {
	case p.Duration <= 0 && p.Count <= 0:
		return fault.New(fault.Invalid, "a round needs an end: a duration or a count")
	case p.Rate < 0 || p.Rate > 1e6:
		return fault.New(fault.Invalid, "a rate of %g per second is not between 0 and a million", p.Rate)
	case p.Rate > 0 && p.Duration <= 0:
		return fault.New(fault.Invalid, "a rate needs a duration: the clock decides how many operations there are")
	case p.Warmup < 0 || p.Drain < 0 || p.Pause < 0:
		return fault.New(fault.Invalid, "warm-up, drain and pause cannot be negative")
	}
	return nil
}

// Progress is how far a run is; it is told about four times a second.
type Progress struct {
	Clients       int
	Round, Rounds int // from 1
	Point, Points int // from 1
	Measuring     bool
	Share         float64 // 0..1 of the whole run, by time or count
	Operations    int64   // of this round, so far
	Failed        int64
	PerSecond     float64 // of this round
}

// Driver runs workloads.
type Driver struct {
	Plan     Plan
	Probe    *Probe         // may be nil
	Progress func(Progress) // may be nil; called from one goroutine
	OnPoint  func(Point)    // may be nil; called after each finished point
}

// Run measures w at every point of the plan. When ctx ends or the server
// refuses everything it returns the points that were finished, and the error.
func (d *Driver) Run(ctx context.Context, w Workload) ([]Point, error) {
	if err := d.Plan.Check(); err != nil {
		return nil, err
	}
	if d.Probe == nil {
		d.Probe = &Probe{}
	}
	var points []Point
	for i, clients := range d.Plan.Clients {
		if w.Open != nil {
			if err := w.Open(ctx, clients); err != nil {
				return points, err
			}
		}
		p, err := d.point(ctx, &w, i, clients)
		if err != nil {
			return points, err
		}
		points = append(points, p)
		if d.OnPoint != nil {
			d.OnPoint(p)
		}
	}
	return points, nil
}

// point measures all rounds at one number of clients.
func (d *Driver) point(ctx context.Context, w *Workload, index, clients int) (Point, error) {
	t := newTotals(len(w.Phases))
	for n := range d.Plan.Rounds {
		if n > 0 || index > 0 {
			if err := sleep(ctx, d.Plan.Pause); err != nil {
				return Point{}, err
			}
		}
		r := newRound(w, d, clients, t)
		r.progress = Progress{Clients: clients, Round: n + 1, Rounds: d.Plan.Rounds, Point: index + 1, Points: len(d.Plan.Clients)}
		result, err := r.run(ctx)
		if err != nil {
			return Point{}, err
		}
		t.rounds = append(t.rounds, result)
	}
	return t.point(w, clients, d.Plan.Rate), nil
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
