package bench

import (
	"context"
	"sync"
	"time"

	"chancery/internal/fault"
)

// Class is one kind of work of a mixed load: an open loop of its own.
type Class struct {
	Workload
	Clients int     // most that work at once
	Rate    float64 // operations started per second
}

// Mix is what a server used under a mixed load, which no class has to itself.
type Mix struct {
	Window time.Duration
	Usage
}

// RunMix drives all classes at once through one warm-up and one window of
// Plan.Duration, and returns a point per class and what all of them used.
// Of Plan, only Warmup, Duration and Drain count.
func (d *Driver) RunMix(ctx context.Context, classes []Class) ([]Point, Mix, error) {
	if len(classes) == 0 || d.Plan.Duration <= 0 {
		return nil, Mix{}, fault.New(fault.Invalid, "a mixed load needs at least one class and a duration")
	}
	if d.Probe == nil {
		d.Probe = &Probe{}
	}
	for i := range classes {
		if open := classes[i].Open; open != nil {
			if err := open(ctx, classes[i].Clients); err != nil {
				return nil, Mix{}, err
			}
		}
	}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	points := make([]Point, len(classes))
	var work sync.WaitGroup
	for i := range classes {
		work.Go(func() {
			var err error
			if points[i], err = d.class(ctx, &classes[i], i == 0); err != nil {
				abort(err)
			}
		})
	}
	mix, err := d.window(ctx)
	if err != nil {
		abort(err)
	}
	work.Wait()
	return points, mix, context.Cause(ctx)
}

// class drives one class. What a process uses cannot be told apart by class.
func (d *Driver) class(ctx context.Context, c *Class, tells bool) (Point, error) {
	one := Driver{Plan: Plan{Clients: []int{c.Clients}, Rate: c.Rate, Rounds: 1, Warmup: d.Plan.Warmup, Duration: d.Plan.Duration, Drain: d.Plan.Drain}, Probe: &Probe{}}
	if tells {
		one.Progress = d.Progress
	}
	if err := one.Plan.Check(); err != nil {
		return Point{}, err
	}
	p, err := one.point(ctx, &c.Workload, 0, c.Clients)
	p.Variant, p.ClientCPU, p.Others = c.Name, Spread{}, Spread{}
	for i := range p.Rounds {
		p.Rounds[i].Usage = Usage{}
	}
	return p, err
}

// window measures what is used between the warm-up and the end.
func (d *Driver) window(ctx context.Context) (Mix, error) {
	if err := sleep(ctx, d.Plan.Warmup); err != nil {
		return Mix{}, err
	}
	from := d.Probe.begin(ctx)
	if err := sleep(ctx, d.Plan.Duration); err != nil {
		return Mix{}, err
	}
	return Mix{d.Plan.Duration, d.Probe.end(ctx, from)}, nil
}

// Figures are what a mixed load used, for a Run.
func (m Mix) Figures() []Figure {
	ms := float64(m.Window.Milliseconds())
	out := []Figure{{"client CPU", round4(m.ClientCPU / ms), "cores"}, {"others CPU", round4(m.Others * 100), "% of the machine"}}
	if m.ServerCPU > 0 {
		out = append([]Figure{{"server CPU", round4(m.ServerCPU / ms), "cores"}}, out...)
	}
	if m.PeakRSS > 0 {
		out = append(out, Figure{"server peak memory", round4(float64(m.PeakRSS) / 1e6), "MB"})
	}
	if m.Statements != nil {
		out = append(out, Figure{"SQL", round4(*m.Statements / m.Window.Seconds()), "statements/s"})
	}
	return out
}
