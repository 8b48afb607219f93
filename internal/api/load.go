package api

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/obs"
)

// Load is what the process that answers is doing. Counts and durations are
// since its start: whoever wants a rate asks twice and subtracts.
type Load struct {
	Process    string             `json:"process" doc:"Another one after each start, and on each replica: only answers with the same one can be subtracted"`
	Build      obs.Build          `json:"build"`
	At         time.Time          `json:"at" doc:"When it was read; the same reading is given for a second"`
	StartedAt  time.Time          `json:"started_at"`
	Operations []OperationLoad    `json:"operations" nullable:"false" doc:"Of certificates: new_order, validate, finalize, renew, deploy, ..."`
	CARequests []OperationLoad    `json:"ca_requests" nullable:"false" doc:"Requests to authorities"`
	Database   DatabaseLoad       `json:"database"`
	HTTP       HTTPLoad           `json:"http"`
	Status     StatusLoad         `json:"status"`
	Queues     map[string]float64 `json:"queues" nullable:"false" doc:"What waits, by queue: the figure to scale by"`
	Loops      []LoopLoad         `json:"loops" nullable:"false"`
	Pools      []PoolLoad         `json:"pools" nullable:"false"`
	Scan       ScanLoad           `json:"scan"`
	Agents     AgentLoad          `json:"agents"`
	Alerts     map[string]float64 `json:"alerts" nullable:"false" doc:"Firing, by severity"`
	Runtime    RuntimeLoad        `json:"runtime"`
}

// OperationLoad is one operation.
type OperationLoad struct {
	Operation string           `json:"operation"`
	Success   float64          `json:"success"`
	Rejected  float64          `json:"rejected" doc:"The caller was to blame"`
	Failure   float64          `json:"failure" doc:"The server was, or somebody whom it needs"`
	Seconds   obs.Distribution `json:"seconds"`
}

// DatabaseLoad is what the process asks of its database.
type DatabaseLoad struct {
	Seconds obs.Distribution `json:"seconds" doc:"Of all statements"`
	Busiest []StatementLoad  `json:"busiest" nullable:"false" doc:"The ten statements that took most time in all"`
}

// StatementLoad is one statement.
type StatementLoad struct {
	Statement string           `json:"statement"`
	Seconds   obs.Distribution `json:"seconds"`
}

// HTTPLoad is what the listeners answer.
type HTTPLoad struct {
	InFlight float64            `json:"in_flight"`
	Requests map[string]float64 `json:"requests" nullable:"false" doc:"By class of status: 2xx, 4xx, ..."`
	Panics   float64            `json:"panics"`
	Seconds  obs.Distribution   `json:"seconds"`
}

// StatusLoad is how fresh answers about revocation are.
type StatusLoad struct {
	OCSPRequests float64 `json:"ocsp_requests"`
	Serials      float64 `json:"serials" doc:"That can be answered for"`
	OldestOCSP   float64 `json:"oldest_ocsp" doc:"Age of the oldest answer kept, in seconds"`
	OldestCRL    float64 `json:"oldest_crl" doc:"Age of the oldest current list, in seconds"`
	Lag          float64 `json:"lag" doc:"Since when revocations of other replicas may be missing, in seconds"`
	Findings     float64 `json:"findings" doc:"What the checker found wrong with issued certificates"`
}

// LoopLoad is one loop in the background.
type LoopLoad struct {
	Loop        string     `json:"loop"`
	Runs        float64    `json:"runs"`
	Failures    float64    `json:"failures"`
	Backlog     float64    `json:"backlog"`
	LastSuccess *time.Time `json:"last_success,omitempty"`
}

// PoolLoad is one pool of workers.
type PoolLoad struct {
	Pool    string  `json:"pool"`
	Running float64 `json:"running"`
	Waiting float64 `json:"waiting"`
}

// ScanLoad is what scheduled scans bring.
type ScanLoad struct {
	Results map[string]float64 `json:"results" nullable:"false" doc:"By class"`
	Stored  float64            `json:"stored"`
	Slowed  float64            `json:"slowed" doc:"Batches that had to wait"`
	Seconds obs.Distribution   `json:"seconds" doc:"To store a batch"`
}

// AgentLoad is what agents do here.
type AgentLoad struct {
	Parked      float64            `json:"parked" doc:"Questions of agents that this process holds"`
	Deployments map[string]float64 `json:"deployments" nullable:"false" doc:"By result"`
}

// RuntimeLoad is the process itself.
type RuntimeLoad struct {
	Goroutines float64 `json:"goroutines"`
	CPUSeconds float64 `json:"cpu_seconds"`
	Resident   float64 `json:"resident_bytes"`
	Heap       float64 `json:"heap_bytes"`
	OpenFiles  float64 `json:"open_files"`
	MaxFiles   float64 `json:"max_files"`
}

// loadTTL is how long one reading of the registry is given: however many look,
// it is read once a second.
const loadTTL = time.Second

// busiest is how many statements are listed; the program has hundreds.
const busiest = 10

// loads keeps the newest reading.
type loads struct {
	process string // set once

	mu    sync.Mutex // held while reading: one reads, the others wait for it
	last  *Load
	until time.Time
}

func newLoads(at time.Time) *loads { return &loads{process: db.NewID(at)} }

func (s *Server) loadOperation() {
	register(s, huma.Operation{OperationID: "get-load", Method: http.MethodGet, Path: "/load", Tags: []string{"About"},
		Summary:     "What the process that answers is doing",
		Description: "Rates, durations, queues and freshness, as `chancery top` shows them. Of several replicas each speaks for itself."}, s.getLoad)
}

func (s *Server) getLoad(context.Context, *struct{}) (*bodyOf[Load], error) {
	if s.cfg.Metrics == nil {
		return nil, fault.New(fault.Unavailable, "this process does not serve, and measures nothing; ask one that does")
	}
	at := now()
	l := s.loads
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == nil || !at.Before(l.until) {
		load, err := s.readLoad(s.cfg.Metrics, at)
		if err != nil {
			return nil, err
		}
		l.last, l.until = load, at.Add(loadTTL)
	}
	return &bodyOf[Load]{*l.last}, nil
}

func (s *Server) readLoad(g prometheus.Gatherer, at time.Time) (*Load, error) {
	r, err := obs.Read(g)
	if err != nil {
		return nil, err
	}
	return &Load{
		Process: s.loads.process, Build: s.cfg.Build, At: at, StartedAt: unix(r.Sum("process_start_time_seconds")),
		Operations: operationLoads(r, "certificate_operation_duration_seconds"), CARequests: operationLoads(r, "ca_request_duration_seconds"),
		Database: DatabaseLoad{Seconds: all(r, "database_query_duration_seconds"), Busiest: busiestStatements(r)},
		HTTP: HTTPLoad{InFlight: r.Sum("chancery_http_requests_in_flight"), Requests: r.By("chancery_http_requests_total", "class"),
			Panics: r.Sum("chancery_http_panics_total"), Seconds: all(r, "chancery_http_request_duration_seconds")},
		Status: StatusLoad{OCSPRequests: r.Sum("chancery_ocsp_requests_total"), Serials: r.Sum("chancery_ocsp_serials"),
			OldestOCSP: r.Max("chancery_ocsp_oldest_answer_age_seconds"), OldestCRL: r.Max("chancery_crl_oldest_age_seconds"),
			Lag: r.Max("chancery_status_journal_age_seconds"), Findings: r.Max("chancery_checker_findings")},
		Queues: r.By("certificate_queue_size", "queue_type"), Loops: loopLoads(r), Pools: poolLoads(r),
		Scan: ScanLoad{Results: r.By("chancery_scan_results_total", "class"), Stored: r.Sum("chancery_scan_stored_total"),
			Slowed: r.Sum("chancery_scan_slowed_total"), Seconds: all(r, "chancery_scan_store_seconds")},
		Agents: AgentLoad{Parked: r.Sum("chancery_agents_parked"), Deployments: r.By("chancery_agent_deployments_total", "result")},
		Alerts: r.By("chancery_alerts_firing", "severity"),
		Runtime: RuntimeLoad{Goroutines: r.Sum("go_goroutines"), CPUSeconds: r.Sum("process_cpu_seconds_total"), Resident: r.Sum("process_resident_memory_bytes"),
			Heap: r.Sum("go_memstats_heap_inuse_bytes"), OpenFiles: r.Sum("process_open_fds"), MaxFiles: r.Sum("process_max_fds")},
	}, nil
}

// unix is an instant that a metric holds as seconds.
func unix(seconds float64) time.Time { return time.UnixMilli(int64(seconds * 1000)).UTC() }

// all joins every series of a histogram.
func all(r obs.Reading, family string) obs.Distribution {
	d := r.Durations(family, "")[""]
	if d.Buckets == nil {
		d.Buckets = []obs.Bound{}
	}
	return d
}

// operationLoads lists the operations of a family of histograms, by name.
func operationLoads(r obs.Reading, family string) []OperationLoad {
	byOp := r.Durations(family, "operation")
	out := make([]OperationLoad, 0, len(byOp))
	for _, op := range slices.Sorted(maps.Keys(byOp)) {
		count := func(status string) float64 { return float64(r.Count(family, "operation", op, "status", status)) }
		out = append(out, OperationLoad{Operation: op, Success: count(obs.StatusSuccess), Rejected: count(obs.StatusRejected),
			Failure: count(obs.StatusFailure), Seconds: byOp[op]})
	}
	return out
}

// busiestStatements lists the statements that took most time in all.
func busiestStatements(r obs.Reading) []StatementLoad {
	out := []StatementLoad{}
	for name, d := range r.Durations("database_query_duration_seconds", "query_type") {
		out = append(out, StatementLoad{name, d})
	}
	slices.SortFunc(out, func(x, y StatementLoad) int {
		return cmp.Or(cmp.Compare(y.Seconds.Sum, x.Seconds.Sum), cmp.Compare(x.Statement, y.Statement))
	})
	return out[:min(len(out), busiest)]
}

func loopLoads(r obs.Reading) []LoopLoad {
	runs, backlog := r.By("chancery_loop_runs_total", "loop"), r.By("chancery_loop_backlog", "loop")
	success := r.By("chancery_loop_last_success_timestamp_seconds", "loop")
	out := make([]LoopLoad, 0, len(runs))
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		l := LoopLoad{Loop: name, Runs: runs[name], Backlog: backlog[name], Failures: r.Sum("chancery_loop_runs_total", "loop", name, "status", "failure")}
		if success[name] > 0 {
			at := unix(success[name])
			l.LastSuccess = &at
		}
		out = append(out, l)
	}
	return out
}

func poolLoads(r obs.Reading) []PoolLoad {
	running, waiting := r.By("chancery_pool_running", "pool"), r.By("chancery_pool_waiting", "pool")
	out := make([]PoolLoad, 0, len(running))
	for _, name := range slices.Sorted(maps.Keys(running)) {
		out = append(out, PoolLoad{name, running[name], waiting[name]})
	}
	return out
}
