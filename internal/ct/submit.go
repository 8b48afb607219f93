package ct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Config is what a Submitter needs.
type Config struct {
	Logs      []Log
	UserAgent string
	Transport http.RoundTripper // nil: TLS with the system's roots

	Registry prometheus.Registerer // nil: not measured
	Loops    *loop.Metrics         // nil: breakers are not measured
	Log      *slog.Logger          // nil: discard
}

// Submitter knows the logs. It is safe for concurrent use.
type Submitter struct {
	logs map[string]*client
	log  *slog.Logger
	took *prometheus.HistogramVec
}

// New checks the logs; it calls none.
func New(cfg Config) (*Submitter, error) {
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	if cfg.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost = 32
		cfg.Transport = t
	}
	// A redirect would turn the POST into a GET, or lead elsewhere.
	hc := &http.Client{Transport: cfg.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	s := &Submitter{logs: map[string]*client{}, log: cfg.Log, took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "chancery_ct_submission_seconds", Help: "Submissions to Certificate Transparency logs.", Buckets: []float64{.05, .1, .25, .5, 1, 2, 5, 10, 20}},
		[]string{"log", "status"})}
	for _, l := range cfg.Logs {
		c, err := l.parse()
		if err != nil {
			return nil, err
		}
		if s.logs[c.Name] != nil {
			return nil, fmt.Errorf("log %s is there twice", c.Name)
		}
		c.http, c.agent = hc, cfg.UserAgent
		c.breaker = loop.NewBreaker(loop.BreakerConfig{Name: "ct." + c.Name, Failures: 3, Metrics: cfg.Loops,
			Counts: func(err error) bool { return !errors.Is(err, context.Canceled) }})
		s.logs[c.Name] = c
	}
	if cfg.Registry != nil && len(cfg.Logs) > 0 {
		cfg.Registry.MustRegister(s.took)
	}
	return s, nil
}

// result is what came of one submission.
type result struct {
	log *client
	sct pki.SCT
	err error
}

// hedges is how many times within the deadline a further log is asked although
// none has failed: the slow ones may still be in time.
const hedges = 4

// Submit implements ca.Config.Submit. It returns as soon as there are enough
// timestamps, in the order of the profile's logs, or an Unavailable fault.
func (s *Submitter) Submit(ctx context.Context, sub ca.Submission) ([]pki.SCT, error) {
	p, err := newPrecert(sub.Chain, time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sub.CT.Deadline)
	defer cancel() // of those that are not needed any more
	logs := s.ordered(sub.CT.Logs)
	results := make(chan result, len(logs)) // nobody waits to send
	started := 0
	start := func() {
		if started < len(logs) {
			l := logs[started]
			started++
			go func() { results <- s.one(ctx, l, p) }()
		}
	}
	for started < len(logs) && !enough(logs[:started], sub.CT) {
		start()
	}
	hedge := time.NewTicker(max(sub.CT.Deadline/hedges, time.Millisecond))
	defer hedge.Stop()
	var got []result
	var failed error
	for done := 0; done < started; {
		select {
		case r := <-results:
			done++
			if r.err != nil {
				failed = errors.Join(failed, r.err)
				s.log.WarnContext(ctx, "log gave no timestamp", "log", r.log.Name, "error", r.err)
				start()
				continue
			}
			if got = append(got, r); enough(clients(got), sub.CT) {
				return choose(got, sub.CT), nil
			}
		case <-hedge.C:
			start()
		}
	}
	return nil, fault.Wrap(failed, fault.Unavailable, "Certificate Transparency logs gave only %d of the timestamps that the profile demands (%d, of %d operators); try again", len(got), sub.CT.SCTs, sub.CT.Operators).
		Retry(10 * time.Second)
}

// one submits to one log, unless it is known to be down.
func (s *Submitter) one(ctx context.Context, l *client, p *precert) (r result) {
	begin := time.Now()
	r.log = l
	r.err = l.breaker.Do(func() (err error) {
		r.sct, err = l.submit(ctx, p)
		return err
	})
	status := "ok"
	switch {
	case errors.Is(r.err, context.Canceled):
		status = "not_needed"
	case r.err != nil:
		status = "failed"
	}
	s.took.WithLabelValues(l.Name, status).Observe(time.Since(begin).Seconds())
	return r
}

// ordered returns the logs with these names, so that the first of them are of
// as many operators as there are. Names that the configuration does not have
// any more are passed over.
func (s *Submitter) ordered(names []string) []*client {
	var rest, out []*client
	for _, n := range names {
		if l := s.logs[n]; l != nil {
			rest = append(rest, l)
		}
	}
	for len(rest) > 0 {
		var later []*client
		seen := map[string]bool{}
		for _, l := range rest {
			if seen[l.Operator] {
				later = append(later, l)
				continue
			}
			seen[l.Operator] = true
			out = append(out, l)
		}
		rest = later
	}
	return out
}

// enough reports whether timestamps of these logs would do.
func enough(logs []*client, want ca.CT) bool {
	operators := map[string]bool{}
	for _, l := range logs {
		operators[l.Operator] = true
	}
	return len(logs) >= want.SCTs && len(operators) >= want.Operators
}

func clients(got []result) []*client {
	out := make([]*client, len(got))
	for i := range got {
		out[i] = got[i].log
	}
	return out
}

// choose returns as few timestamps as will do: first one of each operator, then
// more; each costs the certificate about 120 octets.
func choose(got []result, want ca.CT) []pki.SCT {
	slices.SortStableFunc(got, func(x, y result) int {
		return slices.Index(want.Logs, x.log.Name) - slices.Index(want.Logs, y.log.Name)
	})
	picked := make([]bool, len(got))
	var logs []*client
	pick := func(ok func(*client) bool) {
		for i := range got {
			if !picked[i] && !enough(logs, want) && ok(got[i].log) {
				picked[i] = true
				logs = append(logs, got[i].log)
			}
		}
	}
	operators := map[string]bool{}
	pick(func(l *client) bool {
		fresh := len(operators) < want.Operators && !operators[l.Operator]
		operators[l.Operator] = operators[l.Operator] || fresh
		return fresh
	})
	pick(func(*client) bool { return true })
	var out []pki.SCT
	for i := range got {
		if picked[i] {
			out = append(out, got[i].sct)
		}
	}
	return out
}
