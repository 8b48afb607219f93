package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/scan"
	"chancery/internal/scan/pass"
)

func (s *Server) scans() {
	tag := []string{"Scans"}
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/scan" + path, Tags: tag, Summary: summary}
	}
	register(s, op("list-schedules", http.MethodGet, "/schedules", "List scans that are repeated"), s.listSchedules)
	register(s, op("get-schedule", http.MethodGet, "/schedules/{id}", "One scan that is repeated, by id or name"), s.getSchedule)
	register(s, op("create-schedule", http.MethodPost, "/schedules", "Repeat a scan; the first pass begins at once"), s.createSchedule)
	register(s, op("update-schedule", http.MethodPut, "/schedules/{id}", "Change a scan that is repeated"), s.updateSchedule)
	register(s, op("delete-schedule", http.MethodDelete, "/schedules/{id}", "Repeat a scan no more; what it found stays"), s.deleteSchedule)
	register(s, op("run-schedule", http.MethodPost, "/schedules/{id}/run", "Let the next pass begin at once"), s.runSchedule)
	register(s, op("list-passes", http.MethodGet, "/passes", "List passes of scans, the newest first"), s.listPasses)
	register(s, op("get-pass", http.MethodGet, "/passes/{id}", "One pass, with what it has found so far"), s.getPass)
	register(s, op("cancel-pass", http.MethodPost, "/passes/{id}/cancel", "End a pass; what it found stays"), s.cancelPass)
	results := op("store-results", http.MethodPost, "/results", "Put what a scan elsewhere found into the inventory")
	results.Description = "`chancery scan --store` calls it with batches of 50. They are stored when it answers. 503 means: later, with Retry-After; scan more slowly."
	register(s, results, s.storeResults)
}

// ScheduleSpec is what a schedule consists of.
type ScheduleSpec struct {
	Name     string `json:"name" minLength:"1" maxLength:"64"`
	Targets  string `json:"targets" minLength:"1" maxLength:"262144" doc:"Targets as chancery scan reads them, one a line. The line inventory stands for every endpoint that is known, inventory:*.example.com for those below example.com"`
	Kind     string `json:"kind,omitempty" enum:"observe,fetch,dual,features" default:"observe"`
	Site     string `json:"site,omitempty" maxLength:"64" doc:"Run by the processes of this site; by those without one when it is empty"`
	Interval string `json:"interval" doc:"Between the beginnings of passes" example:"1d"`
	Jitter   string `json:"jitter,omitempty" doc:"At most so much is added to the interval; a tenth of it when it is not given" example:"1h"`
	Enabled  *bool  `json:"enabled,omitempty" doc:"True when it is not given"`
}

// Schedule is a scan that is repeated.
type Schedule struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Targets   string     `json:"targets"`
	Kind      string     `json:"kind"`
	Site      string     `json:"site"`
	Interval  string     `json:"interval"`
	Jitter    string     `json:"jitter"`
	Enabled   bool       `json:"enabled"`
	NextAt    *time.Time `json:"next_at,omitempty" doc:"When the next pass begins"`
	CreatedBy string     `json:"created_by"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
}

func viewSchedule(v *pass.Schedule) Schedule {
	out := Schedule{ID: v.ID, Name: v.Name, Targets: v.Targets, Kind: string(v.Kind), Site: v.Site, Interval: config.FormatDuration(v.Period),
		Jitter: config.FormatDuration(v.Jitter), Enabled: v.Enabled, CreatedBy: v.CreatedBy, CreatedAt: v.CreatedAt, UpdatedAt: v.UpdatedAt}
	if v.Enabled {
		out.NextAt = instant(v.NextAt)
	}
	return out
}

// apply writes the specification over v.
func (c *ScheduleSpec) apply(v *pass.Schedule) (err error) {
	v.Name, v.Targets, v.Kind, v.Site, v.Enabled = c.Name, c.Targets, scan.Kind(c.Kind), c.Site, c.Enabled == nil || *c.Enabled
	if v.Kind == "" {
		v.Kind = scan.Observe
	}
	if v.Period, err = config.ParseDuration(c.Interval); err != nil {
		return fault.Wrap(err, fault.Invalid, "interval: %s", err)
	}
	v.Jitter = v.Period / 10
	if c.Jitter != "" {
		if v.Jitter, err = config.ParseDuration(c.Jitter); err != nil {
			return fault.Wrap(err, fault.Invalid, "jitter: %s", err)
		}
	}
	return nil
}

func (s *Server) listSchedules(ctx context.Context, in *ListInput) (*pageOf[Schedule], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.Scans.List(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(v *pass.Schedule) string { return v.Name }, viewSchedule), nil
}

func (s *Server) getSchedule(ctx context.Context, in *IDInput) (*bodyOf[Schedule], error) {
	v, err := s.cfg.Scans.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Schedule]{viewSchedule(&v)}, nil
}

type createScheduleInput struct{ Body ScheduleSpec }

func (s *Server) createSchedule(ctx context.Context, in *createScheduleInput) (*bodyOf[Schedule], error) {
	return s.saveSchedule(ctx, pass.Schedule{}, &in.Body)
}

type updateScheduleInput struct {
	IDInput
	Body ScheduleSpec
}

func (s *Server) updateSchedule(ctx context.Context, in *updateScheduleInput) (*bodyOf[Schedule], error) {
	v, err := s.cfg.Scans.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return s.saveSchedule(ctx, v, &in.Body)
}

func (s *Server) saveSchedule(ctx context.Context, v pass.Schedule, spec *ScheduleSpec) (*bodyOf[Schedule], error) {
	if err := spec.apply(&v); err != nil {
		return nil, err
	}
	v, err := s.cfg.Scans.Save(ctx, v, actorOf(ctx), now())
	if err != nil {
		return nil, err
	}
	return &bodyOf[Schedule]{viewSchedule(&v)}, nil
}

func (s *Server) deleteSchedule(ctx context.Context, in *IDInput) (*struct{}, error) {
	v, err := s.cfg.Scans.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, s.cfg.Scans.Delete(ctx, v.ID, actorOf(ctx), now())
}

func (s *Server) runSchedule(ctx context.Context, in *IDInput) (*bodyOf[Schedule], error) {
	v, err := s.cfg.Scans.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.Scans.RunNow(ctx, v.ID, actorOf(ctx), now()); err != nil {
		return nil, err
	}
	return s.getSchedule(ctx, &IDInput{ID: v.ID})
}

// Pass is one run of a schedule.
type Pass struct {
	ID         string     `json:"id"`
	Schedule   string     `json:"schedule" doc:"Id"`
	Kind       string     `json:"kind"`
	Site       string     `json:"site"`
	State      string     `json:"state" enum:"running,done,cancelled,failed"`
	Targets    int        `json:"targets" doc:"Without duplicates"`
	Duplicates int        `json:"duplicates"`
	Left       int        `json:"left" doc:"Targets without a result so far: targets = summary.stored + summary.untried + left"`
	Summary    pass.Tally `json:"summary"`
	Error      string     `json:"error,omitempty"`
	StartedAt  time.Time  `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

func viewPass(p *pass.Pass) Pass {
	return Pass{ID: p.ID, Schedule: p.ScheduleID, Kind: string(p.Kind), Site: p.Site, State: string(p.State), Targets: p.Targets, Duplicates: p.Duplicates,
		Left: p.Targets - p.Summary.Stored - p.Summary.Untried, Summary: p.Summary, Error: p.Error, StartedAt: p.StartedAt, FinishedAt: instant(p.FinishedAt)}
}

type listPassesInput struct {
	ListInput
	Schedule string `query:"schedule" maxLength:"128" doc:"Only of this schedule, by id or name"`
}

func (s *Server) listPasses(ctx context.Context, in *listPassesInput) (*pageOf[Pass], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	id := in.Schedule
	if id != "" {
		v, err := s.cfg.Scans.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		id = v.ID
	}
	rows, err := s.cfg.Scans.Passes(ctx, id, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(p *pass.Pass) string { return p.ID }, viewPass), nil
}

func (s *Server) getPass(ctx context.Context, in *IDInput) (*bodyOf[Pass], error) {
	p, err := s.cfg.Scans.Pass(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Pass]{viewPass(&p)}, nil
}

func (s *Server) cancelPass(ctx context.Context, in *IDInput) (*bodyOf[Pass], error) {
	if err := s.cfg.Scans.Cancel(ctx, in.ID, now()); err != nil {
		return nil, err
	}
	return s.getPass(ctx, in)
}

type resultsInput struct {
	Body struct {
		Reports []struct {
			Host     string    `json:"host" maxLength:"253"`
			Port     int       `json:"port" minimum:"1" maximum:"65535"`
			SNI      string    `json:"sni,omitempty" maxLength:"253"`
			Address  string    `json:"address,omitempty" maxLength:"64"`
			Probe    string    `json:"probe" maxLength:"64"`
			Problems []string  `json:"problems,omitempty" maxItems:"32"`
			Failure  string    `json:"failure,omitempty" maxLength:"64"`
			At       time.Time `json:"at"`
			Chain    []int     `json:"chain,omitempty" maxItems:"40" doc:"Positions in certificates of what the endpoint showed, the leaf first"`
		} `json:"reports" minItems:"1" maxItems:"500"`
		Certificates [][]byte `json:"certificates,omitempty" doc:"DER in base64"`
	}
}

// Stored says what became of results.
type Stored struct {
	Stored  int       `json:"stored"`
	Refused []Refused `json:"refused" nullable:"false"`
}

func (s *Server) storeResults(ctx context.Context, in *resultsInput) (*bodyOf[Stored], error) {
	b := scan.Batch{Certificates: in.Body.Certificates, Reports: make([]scan.Report, len(in.Body.Reports))}
	for i, r := range in.Body.Reports {
		b.Reports[i] = scan.Report(r)
		if r.At.After(now().Add(time.Minute)) {
			return nil, fault.New(fault.Invalid, "a result is from the future (%s); set the scanner's clock", r.At.Format(time.RFC3339))
		}
	}
	refused, err := s.cfg.Scans.Store(ctx, &b)
	if err != nil {
		return nil, err
	}
	out := Stored{Stored: len(b.Reports) - len(refused), Refused: []Refused{}}
	for _, r := range refused {
		out.Refused = append(out.Refused, Refused{r.Target, publicDetail(r.Err)})
	}
	return &bodyOf[Stored]{out}, nil
}

// publicDetail is what a client may know of an error.
func publicDetail(err error) string { return fault.As(err).Detail }
