package perspective

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Remote is one perspective as the asking side knows it.
type Remote struct {
	Name   string // unique
	Region string // of at least two among all remotes
	URL    string // https://host:port of its agent
	Pin    Pin    // of the agent's key
}

// Config is what a Set needs.
type Config struct {
	Remotes []Remote
	Key     *Key          // by which the agents know us. Required
	Timeout time.Duration // for one answer, 15 s if 0
	Settle  time.Duration // how long the others may take once the outcome is certain, 250 ms if 0

	Metrics     prometheus.Registerer // nil: not measured
	LoopMetrics *loop.Metrics         // of the circuit breakers; nil: not measured
	Log         *slog.Logger          // nil: discard
}

// Set is all remote perspectives of a process. A nil Set asks nobody. It is
// safe for concurrent use.
type Set struct {
	cfg     Config
	remotes []*remote
	metrics metrics
}

// remote is a perspective with its connections.
type remote struct {
	Remote
	client  *http.Client
	breaker *loop.Breaker
	meter   meter
}

// maxIdle is how many connections to one agent are kept for the next burst.
const maxIdle = 64

// New returns the set of the remotes: nil if there are none, an error if they
// can make no quorum.
func New(cfg Config) (*Set, error) {
	if len(cfg.Remotes) == 0 {
		return nil, nil
	}
	if cfg.Key == nil {
		return nil, fault.New(fault.Invalid, "remote perspectives need a key by which they know this server")
	}
	if err := check(cfg.Remotes); err != nil {
		return nil, err
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 15 * time.Second
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 250 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	s := &Set{cfg: cfg, metrics: newMetrics(cfg.Metrics)}
	for _, r := range cfg.Remotes {
		conf, err := cfg.Key.tlsConfig(r.Pin)
		if err != nil {
			return nil, err
		}
		s.remotes = append(s.remotes, &remote{Remote: r, client: newClient(conf), meter: s.metrics.of(r.Name),
			breaker: loop.NewBreaker(loop.BreakerConfig{Name: "perspective." + r.Name, Open: time.Second, MaxOpen: 30 * time.Second, Metrics: cfg.LoopMetrics})})
	}
	return s, nil
}

// check refuses remotes that could never corroborate anything.
func check(remotes []Remote) error {
	names, regions := map[string]bool{}, map[string]bool{}
	for _, r := range remotes {
		if r.Name == "" || r.Region == "" || names[r.Name] {
			return fault.New(fault.Invalid, "perspectives need a region and a name that no other has")
		}
		if !strings.HasPrefix(r.URL, "https://") {
			return fault.New(fault.Invalid, "the URL %q of perspective %s must begin with https://", r.URL, r.Name)
		}
		names[r.Name], regions[r.Region] = true, true
	}
	if len(remotes) < challenge.MinRemotes || len(regions) < challenge.MinRegions {
		return fault.New(fault.Invalid, "%d perspectives in %d regions cannot make a quorum; configure at least %d in at least %d, or none",
			len(remotes), len(regions), challenge.MinRemotes, challenge.MinRegions)
	}
	return nil
}

// newClient keeps connections alive: a handshake across the world for each
// validation would be most of its time.
func newClient(conf *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: maxIdle, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: 5 * time.Second, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Len returns how many remotes there are.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.remotes)
}

// Close ends idle connections.
func (s *Set) Close() {
	if s == nil {
		return
	}
	for _, r := range s.remotes {
		r.client.CloseIdleConnections()
	}
}

// Round is one question to all remotes. A nil Round asked nobody.
type Round struct {
	set      *Set
	question Question
	stop     context.CancelFunc
	answers  chan challenge.Observation // buffered for all
	at       time.Time
	seen     []challenge.Observation // valid after collect
}

// Ask puts q to every remote and returns at once. It returns nil if there are
// no remotes, or if they could see nothing: only names and addresses are out
// there. The caller calls Stop when it is done with the round.
func (s *Set) Ask(ctx context.Context, q Question) *Round {
	if s == nil || q.Request.Identifier.Type != pki.DNS && (q.Request.Identifier.Type != pki.IP || q.CAAOnly) {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, s.cfg.Timeout)
	r := &Round{set: s, question: q, stop: stop, answers: make(chan challenge.Observation, len(s.remotes)), at: time.Now()}
	body, err := q.encode()
	for _, remote := range s.remotes {
		go func() {
			var o challenge.Observation
			e := err
			if e == nil {
				o, e = remote.ask(ctx, body)
			}
			r.answers <- s.observed(ctx, remote, o, e, r.at)
		}()
	}
	return r
}

// ask puts one encoded question to the remote.
func (r *remote) ask(ctx context.Context, body []byte) (o challenge.Observation, err error) {
	err = r.breaker.Do(func() error {
		o, err = r.post(ctx, body)
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil // we did not wait for it; that says nothing about it
		}
		return err
	})
	if err == nil && o.Verdict == "" {
		err = context.Canceled
	}
	return o, err
}

func (r *remote) post(ctx context.Context, body []byte) (o challenge.Observation, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(r.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return o, err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header["Idempotency-Key"] = nil // to look twice does no harm: retry on a connection that was just closed
	resp, err := r.client.Do(req)
	if err != nil {
		return o, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMessage+1))
	switch {
	case err != nil:
		return o, err
	case resp.StatusCode != http.StatusOK:
		return o, fmt.Errorf("the agent answers with status %d", resp.StatusCode)
	case resp.Header.Get("Content-Type") != contentType:
		return o, errAnswer
	}
	return parseAnswer(text, body, r.Name, r.Region)
}

// observed completes an observation. Whatever went wrong makes it silence, of
// which the log knows more than the applicant.
func (s *Set) observed(ctx context.Context, r *remote, o challenge.Observation, err error, start time.Time) challenge.Observation {
	if err != nil {
		o = challenge.Observation{Perspective: r.Name, Region: r.Region, Verdict: challenge.Silent, Problem: "no answer"}
		if errors.Is(ctx.Err(), context.Canceled) {
			o.Problem = late
		} else {
			s.cfg.Log.WarnContext(ctx, "perspective gives no answer", "perspective", r.Name, "error", err)
		}
	}
	o.At = time.Now().UTC()
	o.Millis = o.At.Sub(start).Milliseconds()
	r.meter.observe(&o)
	return o
}

// late is the problem of those for whom nobody waited.
const late = "no answer before the others had decided"

// Stop ends what is still under way.
func (r *Round) Stop() {
	if r != nil {
		r.stop()
	}
}

// collect waits until every remote has answered, or the outcome is certain and
// the rest had a little longer for the record, or time is up.
func (r *Round) collect() []challenge.Observation {
	if r.seen != nil {
		return r.seen
	}
	var enough <-chan time.Time
	for len(r.seen) < len(r.set.remotes) {
		select {
		case o := <-r.answers: // each answers by its deadline
			r.seen = append(r.seen, o)
		case <-enough:
			r.stop() // the others answer now, as silent
		}
		if enough == nil && certain(r.seen, len(r.set.remotes)) {
			enough = time.After(r.set.cfg.Settle)
		}
	}
	slices.SortFunc(r.seen, func(a, b challenge.Observation) int { return strings.Compare(a.Perspective, b.Perspective) })
	return r.seen
}

// certain reports whether the answers that are missing cannot change the
// outcome any more.
func certain(seen []challenge.Observation, remotes int) bool {
	against, regions := 0, map[string]bool{}
	for _, o := range seen {
		if o.Verdict == challenge.Agrees {
			regions[o.Region] = true
		} else {
			against++
		}
	}
	may := challenge.MayDisagree(remotes)
	return against > may || len(seen)-against >= remotes-may && len(regions) >= challenge.MinRegions
}

// Record is a round as it is kept: who said what.
type Record struct {
	CAAOnly      bool
	At           time.Time // of the question
	Corroborated bool
	Observations []challenge.Observation // by name
}

// Confirm returns proof and clearance, which were made here, with the
// confirmation of the remotes; or an error and neither. The record is there in
// both cases. A nil Round changes nothing and has no record.
func (r *Round) Confirm(p challenge.Proof, c challenge.Clearance) (challenge.Proof, challenge.Clearance, *Record, error) {
	if r == nil {
		return p, c, nil, nil
	}
	p, c, err := challenge.Corroborate(p, c, r.collect())
	return p, c, r.record(err), err
}

// ConfirmCAA is Confirm for a CAA check alone.
func (r *Round) ConfirmCAA(c challenge.Clearance) (challenge.Clearance, *Record, error) {
	if r == nil {
		return c, nil, nil
	}
	c, err := challenge.CorroborateCAA(c, r.collect())
	return c, r.record(err), err
}

func (r *Round) record(err error) *Record {
	r.set.metrics.round(err)
	return &Record{CAAOnly: r.question.CAAOnly, At: r.at, Corroborated: err == nil, Observations: r.seen}
}
