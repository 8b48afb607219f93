package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/alert"
	"chancery/internal/config"
	"chancery/internal/fault"
)

func (s *Server) alerts() {
	op := func(id, method, path, summary string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/alerts" + path, Summary: summary, DefaultStatus: status, Tags: []string{"Alerts"}}
	}
	register(s, op("list-alerts", http.MethodGet, "", "List alerts, the newest first", 200), s.listAlerts)
	register(s, op("list-alert-rules", http.MethodGet, "/rules", "List the rules that make alerts, built-in ones included", 200), s.listAlertRules)
	register(s, op("put-alert-rule", http.MethodPut, "/rules/{id}", "Make a rule, or change one; a built-in one keeps its name", 200), s.putAlertRule)
	register(s, op("delete-alert-rule", http.MethodDelete, "/rules/{id}", "Delete a rule, or have a built-in one as it was shipped", 204), s.deleteAlertRule)
	register(s, op("preview-alert-rule", http.MethodPost, "/rules/preview", "List what a rule would find now, whether or not it is stored; nothing is changed", 200), s.previewAlertRule)
	register(s, op("list-alert-kinds", http.MethodGet, "/kinds", "List the kinds of rules, and what each uses", 200), s.listAlertKinds)
	register(s, op("list-alert-silences", http.MethodGet, "/silences", "List silences, the newest first, also those that ended", 200), s.listAlertSilences)
	register(s, op("create-alert-silence", http.MethodPost, "/silences", "Keep alerts from being told for a while", 201), s.createAlertSilence)
	register(s, op("end-alert-silence", http.MethodDelete, "/silences/{id}", "End a silence now; what it covers is told if it still fires", 204), s.endAlertSilence)
	register(s, op("list-alert-deliveries", http.MethodGet, "/deliveries", "List messages to channels, the newest first: those that wait, and the log of the others", 200), s.listAlertDeliveries)
	register(s, op("get-alert-delivery", http.MethodGet, "/deliveries/{id}", "One of them", 200), s.getAlertDelivery)
	register(s, op("list-alert-channels", http.MethodGet, "/channels", "List the channels of the configuration", 200), s.listAlertChannels)
	register(s, op("test-alert-channel", http.MethodPost, "/channels/{id}/test", "Send a message that says nothing but that the channel works; it waits behind those before it", 202), s.testAlertChannel)
}

// AlertView is one episode: from the time that a rule found a subject until it
// no longer did.
type AlertView struct {
	ID         string            `json:"id"`
	Rule       string            `json:"rule"`
	Subject    string            `json:"subject" example:"endpoint:www.example.com:443"`
	State      string            `json:"state" enum:"pending,firing,resolved"`
	Severity   string            `json:"severity" enum:"info,warning,critical"`
	Summary    string            `json:"summary"`
	Labels     map[string]string `json:"labels" nullable:"false" doc:"What silences and rules can ask for"`
	Since      time.Time         `json:"since" doc:"When what was found began"`
	FiredAt    *time.Time        `json:"fired_at,omitempty"`
	ResolvedAt *time.Time        `json:"resolved_at,omitempty"`
	SeenAt     time.Time         `json:"seen_at" doc:"When the rule last found it"`
	Silence    string            `json:"silence,omitempty" doc:"The silence that keeps it from being told"`
}

func viewAlert(a *alert.Alert) AlertView {
	v := AlertView{ID: a.ID, Rule: a.Rule, Subject: a.Subject, State: string(a.State), Severity: string(a.Severity), Summary: a.Summary, Labels: a.Labels,
		Since: a.Since, FiredAt: instant(a.FiredAt), ResolvedAt: instant(a.ResolvedAt), SeenAt: a.SeenAt, Silence: a.SilenceID}
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	return v
}

type listAlertsInput struct {
	ListInput
	State    string `query:"state" default:"firing" enum:"pending,firing,resolved"`
	Rule     string `query:"rule" maxLength:"64" doc:"Only those of this rule"`
	Severity string `query:"severity" enum:"info,warning,critical" doc:"Only of this severity"`
}

func (s *Server) listAlerts(ctx context.Context, in *listAlertsInput) (*pageOf[AlertView], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := alert.List(ctx, s.cfg.DB.Read(), alert.Filter{State: alert.State(in.State), Rule: in.Rule, Severity: alert.Severity(in.Severity)}, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(a *alert.Alert) string { return a.ID }, viewAlert), nil
}

// AlertRuleInput is a rule as people write it. Durations are texts such as
// "30d".
type AlertRuleInput struct {
	Kind          string   `json:"kind" doc:"See list-alert-kinds" example:"certificate-expiry"`
	Severity      string   `json:"severity" enum:"info,warning,critical"`
	Enabled       bool     `json:"enabled"`
	Match         []string `json:"match,omitempty" doc:"Only what fits all of them: LABEL=PATTERN or LABEL!=PATTERN, * stands for any text" example:"[\"team=web\"]"`
	Share         float64  `json:"share,omitempty" doc:"At most so much of the life is left, 0 to 1"`
	Within        string   `json:"within,omitempty" doc:"And at most so long until the end" example:"30d"`
	For           string   `json:"for,omitempty" doc:"It must have been so for so long"`
	Failures      int      `json:"failures,omitempty" doc:"So many of the last of observations must be bad"`
	Of            int      `json:"of,omitempty"`
	Entries       []string `json:"entries,omitempty" doc:"Patterns of the kinds of journal entries that begin an alert"`
	Clears        []string `json:"clears,omitempty" doc:"And of those that end it"`
	Lasts         string   `json:"lasts,omitempty" doc:"Without one of those it ends after this time"`
	Channels      []string `json:"channels,omitempty" doc:"Who is told; none: every channel that wants this severity"`
	EscalateAfter string   `json:"escalate_after,omitempty"`
	EscalateTo    []string `json:"escalate_to,omitempty"`
}

// AlertRule is a stored or built-in rule.
type AlertRule struct {
	Name string `json:"name"`
	AlertRuleInput
	BuiltIn   bool       `json:"built_in" doc:"It is shipped, and can be switched off but not deleted"`
	Changed   bool       `json:"changed" doc:"It was made or changed here"`
	UpdatedBy string     `json:"updated_by,omitempty"`
	UpdatedAt *time.Time `json:"updated_at,omitempty"`
	LookedAt  *time.Time `json:"looked_at,omitempty" doc:"End of the last whole look"`
	Error     string     `json:"error,omitempty" doc:"Why the last look failed"`
}

// spanText writes a duration, "" for none.
func spanText(d alert.Span) string {
	if d == 0 {
		return ""
	}
	return config.FormatDuration(time.Duration(d))
}

func viewAlertRule(r *alert.Rule) AlertRule {
	in := AlertRuleInput{Kind: r.Kind, Severity: string(r.Severity), Enabled: r.Enabled, Share: r.Share, Within: spanText(r.Within), For: spanText(r.For), Failures: r.Failures,
		Of: r.Of, Entries: r.Entries, Clears: r.Clears, Lasts: spanText(r.Lasts), Channels: r.Channels, EscalateAfter: spanText(r.EscalateAfter), EscalateTo: r.EscalateTo}
	for _, m := range r.Match {
		in.Match = append(in.Match, string(m))
	}
	return AlertRule{Name: r.Name, AlertRuleInput: in, BuiltIn: r.BuiltIn, Changed: r.Changed, UpdatedBy: r.UpdatedBy, UpdatedAt: instant(r.UpdatedAt)}
}

// rule reads what somebody wrote.
func (in *AlertRuleInput) rule(name string) (alert.Rule, error) {
	r := alert.Rule{Name: name, Kind: in.Kind, Severity: alert.Severity(in.Severity), Enabled: in.Enabled, Channels: in.Channels, EscalateTo: in.EscalateTo,
		Params: alert.Params{Share: in.Share, Failures: in.Failures, Of: in.Of, Entries: in.Entries, Clears: in.Clears}, Match: matchers(in.Match)}
	for _, d := range []struct {
		key, text string
		into      *alert.Span
	}{{"within", in.Within, &r.Within}, {"for", in.For, &r.For}, {"lasts", in.Lasts, &r.Lasts}, {"escalate_after", in.EscalateAfter, &r.EscalateAfter}} {
		if err := d.into.UnmarshalText([]byte(d.text)); err != nil {
			return r, fault.New(fault.Invalid, "%s: %.40q is not a duration such as 90m or 30d", d.key, d.text)
		}
	}
	return r, nil
}

func matchers(texts []string) (out []alert.Matcher) {
	for _, m := range texts {
		out = append(out, alert.Matcher(strings.ToValidUTF8(m, "")))
	}
	return out
}

func (s *Server) listAlertRules(ctx context.Context, in *ListInput) (*pageOf[AlertRule], error) {
	all, err := alert.Rules(ctx, s.cfg.DB.Read())
	if err != nil {
		return nil, err
	}
	runs, err := s.cfg.Alerts.RuleRuns(ctx)
	if err != nil {
		return nil, err
	}
	return pageOfAll(all, in, func(r *alert.Rule) string { return r.Name }, func(r *alert.Rule) AlertRule {
		v := viewAlertRule(r)
		v.LookedAt, v.Error = instant(runs[r.Name].FinishedAt), runs[r.Name].Error
		return v
	})
}

func (s *Server) putAlertRule(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64" doc:"Name of the rule"`
	Body AlertRuleInput
}) (*bodyOf[AlertRule], error) {
	r, err := in.Body.rule(in.ID)
	if err != nil {
		return nil, err
	}
	if r, err = s.cfg.Alerts.PutRule(ctx, r, actorOf(ctx), now()); err != nil {
		return nil, err
	}
	return &bodyOf[AlertRule]{viewAlertRule(&r)}, nil
}

func (s *Server) deleteAlertRule(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64" doc:"Name of the rule"`
}) (*struct{}, error) {
	return nil, s.cfg.Alerts.DropRule(ctx, in.ID, actorOf(ctx), now())
}

// AlertPreview is what a rule would find.
type AlertPreview struct {
	Found []AlertMatch `json:"found" nullable:"false"`
	More  bool         `json:"more" doc:"There is more than what is listed, or than what one look takes"`
}

// AlertMatch is one subject that a rule would find.
type AlertMatch struct {
	Subject string            `json:"subject"`
	Summary string            `json:"summary"`
	Labels  map[string]string `json:"labels" nullable:"false"`
	Since   *time.Time        `json:"since,omitempty"`
}

func (s *Server) previewAlertRule(ctx context.Context, in *struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many subjects"`
	Body  AlertRuleInput
}) (*bodyOf[AlertPreview], error) {
	r, err := in.Body.rule("preview")
	if err != nil {
		return nil, err
	}
	found, more, err := s.cfg.Alerts.Preview(ctx, r, in.Limit, now())
	if err != nil {
		return nil, err
	}
	out := AlertPreview{Found: make([]AlertMatch, 0, len(found)), More: more}
	for _, m := range found {
		out.Found = append(out.Found, AlertMatch{m.Subject, m.Summary, m.Labels, instant(m.Since)})
	}
	return &bodyOf[AlertPreview]{out}, nil
}

// AlertKind is a kind of rule.
type AlertKind struct {
	Kind string   `json:"kind"`
	Doc  string   `json:"doc"`
	Uses []string `json:"uses" nullable:"false" doc:"Parameters of a rule that it looks at"`
}

func (s *Server) listAlertKinds(_ context.Context, in *ListInput) (*pageOf[AlertKind], error) {
	return pageOfAll(alert.Looks(), in, func(l *alert.Look) string { return l.Kind }, func(l *alert.Look) AlertKind {
		return AlertKind{l.Kind, l.Doc, append([]string{}, l.Uses...)}
	})
}

// AlertSilence keeps alerts from being told.
type AlertSilence struct {
	ID        string    `json:"id"`
	Matchers  []string  `json:"matchers" nullable:"false"`
	Reason    string    `json:"reason"`
	Active    bool      `json:"active"`
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	EndsAt    time.Time `json:"ends_at"`
}

func viewSilence(x *alert.Silence) AlertSilence {
	v := AlertSilence{ID: x.ID, Matchers: []string{}, Reason: x.Reason, Active: x.EndsAt.After(now()), CreatedBy: x.CreatedBy, CreatedAt: x.CreatedAt, EndsAt: x.EndsAt}
	for _, m := range x.Matchers {
		v.Matchers = append(v.Matchers, string(m))
	}
	return v
}

func (s *Server) listAlertSilences(ctx context.Context, in *ListInput) (*pageOf[AlertSilence], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := alert.Silences(ctx, s.cfg.DB.Read(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(x *alert.Silence) string { return x.ID }, viewSilence), nil
}

func (s *Server) createAlertSilence(ctx context.Context, in *struct {
	Body struct {
		Matchers []string `json:"matchers" minItems:"1" maxItems:"16" doc:"An alert that fits all of them is silenced: LABEL=PATTERN or LABEL!=PATTERN; labels are rule, subject, severity and those of the alert"`
		Reason   string   `json:"reason" minLength:"1" maxLength:"500"`
		For      string   `json:"for" doc:"How long, up to a year" example:"2h"`
	}
}) (*bodyOf[AlertSilence], error) {
	var d alert.Span
	if err := d.UnmarshalText([]byte(in.Body.For)); err != nil || d == 0 {
		return nil, fault.New(fault.Invalid, "for: %.40q is not a duration such as 90m or 30d", in.Body.For)
	}
	at := now()
	x, err := s.cfg.Alerts.AddSilence(ctx, alert.Silence{Matchers: matchers(in.Body.Matchers), Reason: strings.ToValidUTF8(in.Body.Reason, ""), CreatedBy: actorOf(ctx), EndsAt: at.Add(time.Duration(d))}, at)
	if err != nil {
		return nil, err
	}
	return &bodyOf[AlertSilence]{viewSilence(&x)}, nil
}

func (s *Server) endAlertSilence(ctx context.Context, in *IDInput) (*struct{}, error) {
	return nil, s.cfg.Alerts.EndSilence(ctx, in.ID, actorOf(ctx), now())
}

// AlertDelivery is a message to a channel.
type AlertDelivery struct {
	ID        string     `json:"id" doc:"Also the id by which the receiver knows a message that comes twice"`
	Channel   string     `json:"channel"`
	Rule      string     `json:"rule,omitempty"`
	Event     string     `json:"event" enum:"fire,escalate,resolve,test"`
	State     string     `json:"state" enum:"collecting,waiting,sent,failed" doc:"collecting: more alerts may join; failed: given up"`
	Alerts    int        `json:"alerts"`
	Attempts  int        `json:"attempts"`
	Error     string     `json:"error,omitempty" doc:"Of the last try"`
	CreatedAt time.Time  `json:"created_at"`
	DueAt     *time.Time `json:"due_at,omitempty" doc:"The next try"`
	DoneAt    *time.Time `json:"done_at,omitempty"`
}

func viewDelivery(d *alert.Delivery) AlertDelivery {
	v := AlertDelivery{ID: d.ID, Channel: d.Channel, Rule: d.Rule, Event: string(d.Event), State: d.State, Alerts: d.Alerts, Attempts: d.Attempts, Error: d.Error,
		CreatedAt: d.CreatedAt, DoneAt: instant(d.DoneAt)}
	if d.DoneAt.IsZero() {
		v.DueAt = instant(d.DueAt)
	}
	return v
}

func (s *Server) listAlertDeliveries(ctx context.Context, in *ListInput) (*pageOf[AlertDelivery], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := alert.Deliveries(ctx, s.cfg.DB.Read(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(d *alert.Delivery) string { return d.ID }, viewDelivery), nil
}

func (s *Server) getAlertDelivery(ctx context.Context, in *IDInput) (*bodyOf[AlertDelivery], error) {
	d, err := alert.FindDelivery(ctx, s.cfg.DB.Read(), in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[AlertDelivery]{viewDelivery(&d)}, nil
}

// AlertChannel is a configured channel.
type AlertChannel struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Severity string `json:"severity" doc:"The mildest that it is told by rules that name no channels"`
}

func (s *Server) listAlertChannels(_ context.Context, in *ListInput) (*pageOf[AlertChannel], error) {
	return pageOfAll(s.cfg.Alerts.Channels(), in, func(c *alert.Channel) string { return c.Name }, func(c *alert.Channel) AlertChannel {
		return AlertChannel{c.Name, c.Kind, string(c.Severity)}
	})
}

func (s *Server) testAlertChannel(ctx context.Context, in *struct {
	ID string `path:"id" maxLength:"64" doc:"Name of the channel"`
}) (*bodyOf[AlertDelivery], error) {
	d, err := s.cfg.Alerts.TestChannel(ctx, in.ID, now())
	if err != nil {
		return nil, err
	}
	return &bodyOf[AlertDelivery]{viewDelivery(&d)}, nil
}
