package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/fault"
	"chancery/internal/obs"
)

// topFlags are the flags of `chancery top`.
type topFlags struct {
	interval   time.Duration
	once, json bool
}

// newTop is `chancery top`.
func newTop(e env) *cobra.Command {
	var f topFlags
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch a running server: rates, queues, freshness, alerts",
		Long: `Watch a running server: issuance by phase, the queues of issuers and targets,
renewals that fail, OCSP and CRLs, scans, agents, alerts, database and process.

Everything comes from the API; a token with the role viewer is enough. Rates and
percentiles are those of the time between two looks. Each replica speaks for
itself: name one with --server. On a terminal q or Ctrl-C ends it, space looks at
once. When piped it prints one view after the other; --once prints one.`,
		Example: `  chancery top
  chancery top --server https://chancery.example.com:8443 --token-file viewer.token --interval 5s
  chancery top --once --json | jq .phases`,
		Args: noArgs,
	}
	c := connectTo(e, cmd, true)
	cmd.Flags().DurationVar(&f.interval, "interval", 2*time.Second, "`time` between two looks, at least 1s")
	cmd.Flags().BoolVar(&f.once, "once", false, "look twice, an interval apart, print what was seen, and end")
	cmd.Flags().BoolVar(&f.json, "json", false, "print each view as one line of JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if f.interval < time.Second {
			return usagef("--interval %s is shorter than 1s; the server reads its figures once a second", f.interval)
		}
		cl, err := c.client(cmd.Context())
		if err != nil {
			return err
		}
		return f.run(cmd.Context(), e, &looker{api: cl, interval: f.interval})
	}
	return cmd
}

// run shows views in the form that the flags and the terminal ask for.
func (f *topFlags) run(ctx context.Context, e env, w *looker) error {
	show := func(v *topView) error { return printView(e, v) }
	if f.json {
		show = func(v *topView) error { return json.NewEncoder(e.stdout).Encode(v) }
	}
	if !f.once && !f.json && isTerminal(e.stdout) {
		return watchScreen(ctx, e, w)
	}
	for first := true; ; first = false {
		v, err := w.look(ctx)
		if ctx.Err() != nil {
			return nil // interrupted: that is how it ends
		}
		if err != nil {
			return err
		}
		if !first { // the first look has no rates
			if err := show(v); err != nil || f.once {
				return err
			}
		}
		select {
		case <-time.After(w.interval):
		case <-ctx.Done():
			return nil
		}
	}
}

// topView is what one look shows. Times are seconds.
type topView struct {
	Server    string         `json:"server,omitempty"`
	Build     obs.Build      `json:"build"`
	At        time.Time      `json:"at"`
	StartedAt time.Time      `json:"started_at"`
	Over      float64        `json:"over"` // what rates and percentiles are taken over; 0 = none yet
	Phases    []topPhase     `json:"phases"`
	CA        []topPhase     `json:"ca_requests"`
	Queues    []api.Queue    `json:"queues"`
	Renewals  topRenewals    `json:"renewals"`
	Status    topStatus      `json:"status"`
	Scan      topScan        `json:"scan"`
	Agents    topAgents      `json:"agents"`
	Alerts    topAlerts      `json:"alerts"`
	Database  topDurations   `json:"database"`
	Slowest   string         `json:"slowest_statement,omitempty"`
	HTTP      topHTTP        `json:"http"`
	Pools     []api.PoolLoad `json:"pools"`
	Backlogs  []api.LoopLoad `json:"backlogs"` // loops that are behind, or whose last run failed
	Process   topProcess     `json:"process"`
	Notes     []string       `json:"notes,omitempty"` // what could not be shown, and why
}

// topDurations are a rate and two percentiles; those are missing when nothing
// happened.
type topDurations struct {
	PerSecond float64  `json:"per_second"`
	P50       *float64 `json:"p50,omitempty"`
	P95       *float64 `json:"p95,omitempty"`
}

type topPhase struct {
	Operation string `json:"operation"`
	topDurations
	Rejected float64 `json:"rejected_per_second"`
	Failed   float64 `json:"failed_per_second"`
	Total    float64 `json:"total"` // since the start of the process
}

type topRenewals struct {
	Due     int64        `json:"due"`
	Next    *time.Time   `json:"next,omitempty"`
	Failing []topFailing `json:"failing"`
	More    bool         `json:"more"` // there are more failing than are listed
}

type topFailing struct {
	Name  string `json:"name"`
	Class string `json:"error_class,omitempty"`
	Error string `json:"error,omitempty"`
}

type topStatus struct {
	OCSPPerSecond float64 `json:"ocsp_per_second"`
	Serials       float64 `json:"serials"`
	OldestOCSP    float64 `json:"oldest_ocsp"`
	OldestCRL     float64 `json:"oldest_crl"`
	Lag           float64 `json:"lag"`
	Findings      float64 `json:"findings"`
}

type topScan struct {
	PerSecond float64    `json:"results_per_second"`
	Stored    float64    `json:"stored_per_second"`
	Slowed    float64    `json:"slowed"`
	P95       *float64   `json:"store_p95,omitempty"`
	Running   []api.Pass `json:"running"`
}

type topAgents struct {
	Parked      float64 `json:"parked"`
	Deployments float64 `json:"deployments_per_second"`
	Failed      float64 `json:"deployments_failed"`
}

type topAlerts struct {
	BySeverity map[string]float64 `json:"by_severity"`
	Firing     []api.AlertView    `json:"firing"`
	More       bool               `json:"more"`
}

type topHTTP struct {
	topDurations
	Errors   float64 `json:"errors_per_second"` // 5xx
	InFlight float64 `json:"in_flight"`
	Panics   float64 `json:"panics"`
}

type topProcess struct {
	Cores      float64 `json:"cores"` // CPU seconds per second
	Resident   float64 `json:"resident_bytes"`
	Heap       float64 `json:"heap_bytes"`
	Goroutines float64 `json:"goroutines"`
	OpenFiles  float64 `json:"open_files"`
	MaxFiles   float64 `json:"max_files"`
}

// looker looks at one server again and again.
type looker struct {
	api      *client.Client
	interval time.Duration
	before   *api.Load // of the look before; nil at first
	last     *topView  // for a look at the same reading
}

// listed bounds each list that a look asks for.
const listed = 20

// look asks the server how it is. Parts that are refused or fail by themselves
// become notes; without the figures of the process there is nothing to show.
func (w *looker) look(ctx context.Context) (*topView, error) {
	now, err := client.Get[api.Load](ctx, w.api, "/load", nil)
	if err != nil {
		return nil, err
	}
	var v *topView
	switch b := w.before; {
	case b != nil && b.Process == now.Process && !now.At.After(b.At) && w.last != nil:
		again := *w.last // the same reading: its rates still hold
		again.Notes = nil
		v = &again
	case b != nil && b.Process == now.Process:
		v = viewLoad(b, &now)
	default:
		v = viewLoad(nil, &now)
		if b != nil {
			v.Notes = append(v.Notes, "another process answered, so rates begin anew; several replicas? name one with --server")
		}
	}
	v.Server = w.api.Server()
	w.before = &now
	if err := w.lists(ctx, v); err != nil {
		return nil, err
	}
	w.last = v
	return v, nil
}

// lists adds what is not a figure of the process.
func (w *looker) lists(ctx context.Context, v *topView) error {
	parts := []struct {
		name string
		read func() error
	}{
		{"queues", func() (err error) {
			v.Queues, _, err = client.List[api.Queue](ctx, w.api, "/queues", nil, 0)
			return err
		}},
		{"renewals", func() error {
			failing, more, err := client.List[api.Managed](ctx, w.api, "/managed", url.Values{"trouble": {"true"}}, listed)
			v.Renewals = viewRenewals(v.Queues, failing, more)
			return err
		}},
		{"scans", func() error {
			passes, _, err := client.List[api.Pass](ctx, w.api, "/scan/passes", nil, listed)
			v.Scan.Running = []api.Pass{}
			for i := range passes {
				if passes[i].State == "running" {
					v.Scan.Running = append(v.Scan.Running, passes[i])
				}
			}
			return err
		}},
		{"alerts", func() (err error) {
			v.Alerts.Firing, v.Alerts.More, err = client.List[api.AlertView](ctx, w.api, "/alerts", url.Values{"state": {"firing"}}, listed)
			return err
		}},
	}
	for _, p := range parts {
		err := p.read()
		switch {
		case err == nil:
		case ctx.Err() != nil, fault.Is(err, fault.Unauthorized):
			return err
		default:
			v.Notes = append(v.Notes, p.name+": "+faultText(err))
		}
	}
	if v.Queues == nil {
		v.Queues = []api.Queue{}
	}
	if v.Alerts.Firing == nil {
		v.Alerts.Firing = []api.AlertView{}
	}
	return nil
}

// faultText is what a server said went wrong.
func faultText(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Detail
	}
	return err.Error()
}

func viewRenewals(queues []api.Queue, failing []api.Managed, more bool) topRenewals {
	r := topRenewals{Failing: []topFailing{}, More: more}
	for i := range queues {
		q := &queues[i]
		if q.Kind != "issuer" {
			continue
		}
		r.Due += q.Waiting
		if q.Next != nil && (r.Next == nil || q.Next.Before(*r.Next)) {
			r.Next = q.Next
		}
	}
	for i := range failing {
		m := &failing[i]
		r.Failing = append(r.Failing, topFailing{m.Name, m.ErrorClass, m.Error})
	}
	return r
}

// viewLoad makes a view of one reading, with rates since an earlier one, which
// may be nil.
func viewLoad(b, n *api.Load) *topView {
	v := &topView{Build: n.Build, At: n.At, StartedAt: n.StartedAt, Pools: n.Pools, Backlogs: behind(n.Loops, n.At)}
	if b != nil {
		v.Over = n.At.Sub(b.At).Seconds()
	} else {
		b = n // all differences are nothing
	}
	rate := func(before, now float64) float64 {
		if v.Over <= 0 {
			return 0
		}
		return max(0, now-before) / v.Over
	}
	durations := func(before, now obs.Distribution) topDurations {
		d := now.Since(before)
		if v.Over <= 0 {
			return topDurations{}
		}
		return topDurations{float64(d.Count) / v.Over, quantile(d, 0.5), quantile(d, 0.95)}
	}
	phases := func(before, now []api.OperationLoad) []topPhase {
		old := map[string]api.OperationLoad{}
		for _, o := range before {
			old[o.Operation] = o
		}
		out := []topPhase{}
		for _, o := range now {
			was := old[o.Operation]
			out = append(out, topPhase{o.Operation, durations(was.Seconds, o.Seconds), rate(was.Rejected, o.Rejected),
				rate(was.Failure, o.Failure), o.Success + o.Rejected + o.Failure})
		}
		return out
	}
	v.Phases, v.CA = phases(b.Operations, n.Operations), phases(b.CARequests, n.CARequests)
	v.Database, v.Slowest = durations(b.Database.Seconds, n.Database.Seconds), slowest(b, n)
	v.HTTP = topHTTP{durations(b.HTTP.Seconds, n.HTTP.Seconds), rate(b.HTTP.Requests["5xx"], n.HTTP.Requests["5xx"]), n.HTTP.InFlight, n.HTTP.Panics}
	v.Status = topStatus{rate(b.Status.OCSPRequests, n.Status.OCSPRequests), n.Status.Serials, n.Status.OldestOCSP, n.Status.OldestCRL, n.Status.Lag, n.Status.Findings}
	v.Scan = topScan{PerSecond: rate(total(b.Scan.Results), total(n.Scan.Results)), Stored: rate(b.Scan.Stored, n.Scan.Stored), Slowed: n.Scan.Slowed - b.Scan.Slowed,
		P95: durations(b.Scan.Seconds, n.Scan.Seconds).P95}
	v.Agents = topAgents{n.Agents.Parked, rate(total(b.Agents.Deployments), total(n.Agents.Deployments)), n.Agents.Deployments["failed"]}
	v.Alerts.BySeverity = n.Alerts
	v.Process = topProcess{rate(b.Runtime.CPUSeconds, n.Runtime.CPUSeconds), n.Runtime.Resident, n.Runtime.Heap, n.Runtime.Goroutines, n.Runtime.OpenFiles, n.Runtime.MaxFiles}
	return v
}

func quantile(d obs.Distribution, q float64) *float64 {
	if s, ok := d.Quantile(q); ok {
		return &s
	}
	return nil
}

func total(by map[string]float64) (sum float64) {
	for _, v := range by {
		sum += v
	}
	return sum
}

// slowest is the statement that took most time between two readings.
func slowest(b, n *api.Load) (name string) {
	old := map[string]float64{}
	for _, s := range b.Database.Busiest {
		old[s.Statement] = s.Seconds.Sum
	}
	most := 0.0
	for _, s := range n.Database.Busiest {
		was, known := old[s.Statement] // what only now became one of the busiest has no difference
		if took := s.Seconds.Sum - was; known && took > most {
			name, most = s.Statement, took
		}
	}
	return name
}

// quiet is how long a loop may go without a success before it is shown: the
// slowest ones run once an hour.
const quiet = 2 * time.Hour

// behind lists loops that have a backlog, or that do not work any more.
func behind(loops []api.LoopLoad, now time.Time) []api.LoopLoad {
	out := []api.LoopLoad{}
	for _, l := range loops {
		stuck := l.Runs > 0 && l.LastSuccess == nil || l.LastSuccess != nil && now.Sub(*l.LastSuccess) > quiet
		if l.Backlog > 0 || stuck {
			out = append(out, l)
		}
	}
	return out
}
