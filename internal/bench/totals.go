package bench

import (
	"sync"
	"sync/atomic"
	"time"
)

// totals gathers the rounds of one point.
type totals struct {
	latency, service  Histogram
	phases            []Histogram
	requests, retries atomic.Int64

	mu       sync.Mutex
	errors   map[string]int64
	examples map[string]string

	rounds []Round
	usages []usage
}

// usage is what one window used, and for how many operations.
type usage struct {
	ops int64
	Usage
}

func newTotals(phases int) *totals {
	return &totals{phases: make([]Histogram, phases), errors: map[string]int64{}, examples: map[string]string{}}
}

// record counts a measured success.
func (t *totals) record(latency, service time.Duration, s *Sample) {
	t.latency.Record(latency)
	t.service.Record(service)
	for i := range t.phases {
		t.phases[i].Record(s.Phases[i])
	}
	t.requests.Add(int64(s.Requests))
	t.retries.Add(int64(s.Retries))
}

// fail counts a measured failure.
func (t *totals) fail(class string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.errors[class]++; t.errors[class] == 1 {
		t.examples[class] = err.Error()
	}
}

func (t *totals) add(ops int64, u Usage) { t.usages = append(t.usages, usage{ops, u}) }

// point makes the result of all rounds.
func (t *totals) point(w *Workload, clients int, rate float64) Point {
	p := Point{Clients: clients, Rate: rate, Latency: t.latency.Latency(), Service: t.service.Latency(), Rounds: t.rounds}
	for i, name := range w.Phases {
		p.Phases = append(p.Phases, Phase{name, t.phases[i].Latency()})
	}
	n := t.latency.Count()
	p.Requests, p.Retries = perOp(float64(t.requests.Load()), n), perOp(float64(t.retries.Load()), n)
	if len(t.errors) > 0 {
		p.Errors = t.errors
		for _, class := range p.classes() {
			p.Examples = append(p.Examples, class+": "+t.examples[class])
		}
	}
	rates := make([]float64, 0, len(t.rounds))
	for _, r := range t.rounds {
		rates = append(rates, r.PerSecond)
	}
	p.PerSecond = spread(rates)
	t.addUsage(&p)
	return p
}

// addUsage puts what the rounds used into p, per operation. Rounds without an
// operation say nothing.
func (t *totals) addUsage(p *Point) {
	var client, server, others, mallocs, allocated, sql []float64
	for i, u := range t.usages {
		others = append(others, u.Others)
		p.PeakRSS = max(p.PeakRSS, u.PeakRSS)
		if u.Statements != nil && i < len(t.rounds) && t.rounds[i].Seconds > 0 {
			sql = append(sql, *u.Statements/t.rounds[i].Seconds)
		}
		if u.ops == 0 {
			continue
		}
		client = append(client, u.ClientCPU/float64(u.ops))
		if u.ServerCPU > 0 {
			server = append(server, u.ServerCPU/float64(u.ops))
		}
		if u.Mallocs > 0 {
			mallocs = append(mallocs, u.Mallocs/float64(u.ops))
			allocated = append(allocated, u.Allocated/float64(u.ops))
		}
	}
	p.ClientCPU, p.Others = spread(client), spread(others)
	if len(server) > 0 {
		s := spread(server)
		p.ServerCPU = &s
	}
	if len(sql) > 0 {
		s := spread(sql)
		p.SQL = &s
	}
	p.Mallocs, p.Allocated = spread(mallocs).Median, spread(allocated).Median
}
