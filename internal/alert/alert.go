// Package alert tells people what needs them: rules look at what Chancery
// knows, an episode begins when a rule finds a subject and ends when it no
// longer does, and channels are told of both.
//
// Three loops do the work, each on one row or page at a time and under a lease,
// so that any process may be killed at any moment:
//
//	evaluate  rules find subjects            -> episodes (table alert)
//	notify    episodes, silences, escalation -> messages (alert_delivery)
//	send      one loop per channel           -> the outside world
//
// An episode is told to a channel once per event (fire, escalate, resolve):
// that is a primary key. A message is sent at least once: the process may die
// after the channel took it and before that was written down. It is then sent
// again with the same Message.ID, by which receivers that look at it (mail by
// its Message-ID, PagerDuty by its dedup_key, webhooks by Chancery-Delivery)
// know it again; Slack and Teams have nothing of the kind.
//
// A kind of channel is a folder below this one that exports a Kind, and one
// line in internal/app/kinds.go.
package alert

import (
	"encoding/json/v2"
	"slices"
	"time"

	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// State is where an episode stands.
type State string

// States of an episode.
const (
	Pending  State = "pending"  // found, but not for long or not often enough
	Firing   State = "firing"   // people are told
	Resolved State = "resolved" // the rule no longer finds it; the episode is over
)

// States lists every state.
var States = []State{Pending, Firing, Resolved}

// Valid reports whether s is a known state.
func (s State) Valid() bool { return slices.Contains(States, s) }

// Severity is how bad it is.
type Severity string

// Severities.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// Severities lists every severity, the mildest first.
var Severities = []Severity{Info, Warning, Critical}

// Valid reports whether s is a known severity.
func (s Severity) Valid() bool { return slices.Contains(Severities, s) }

// AtLeast reports whether s is as bad as other.
func (s Severity) AtLeast(other Severity) bool {
	return slices.Index(Severities, s) >= slices.Index(Severities, other)
}

// Span is a duration that is written like those of the configuration: "30d".
type Span time.Duration

// MarshalText implements encoding.TextMarshaler.
func (s Span) MarshalText() ([]byte, error) {
	return []byte(config.FormatDuration(time.Duration(s))), nil
}

// UnmarshalText implements encoding.TextUnmarshaler; "" is 0.
func (s *Span) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*s = 0
		return nil
	}
	d, err := config.ParseDuration(string(text))
	if err == nil && d < 0 {
		err = fault.New(fault.Invalid, "a duration must not be negative")
	}
	*s = Span(d)
	return err
}

// Alert is one episode.
type Alert struct {
	ID         string
	Rule       string
	Subject    string // "certificate:ID", "endpoint:HOST:PORT/SNI@ADDRESS", "authority:NAME", ...
	State      State
	Severity   Severity
	Summary    string            // one sentence for people
	Labels     map[string]string // what silences and rules can ask for: owner, team, name, ...
	Since      time.Time         // when what was found began
	FiredAt    time.Time
	ResolvedAt time.Time
	SeenAt     time.Time // when the rule last found it
	SilenceID  string    // the silence that kept it from being told, "" = none
	toldAt     time.Time
	history    uint64 // observations, the newest lowest
	sample     int64  // Unix milliseconds of the newest
}

const alertColumns = `id, rule, subject, state, severity, summary, labels, since, fired_at, resolved_at, seen_at, silence_id, told_at, history, sample`

func scanAlert(r *db.Row) Alert {
	a := Alert{ID: r.Text(), Rule: r.Text(), Subject: r.Text(), State: State(r.Text()), Severity: Severity(r.Text()), Summary: r.Text()}
	_ = json.Unmarshal(r.Bytes(), &a.Labels) // written by this package
	a.Since, a.FiredAt, a.ResolvedAt, a.SeenAt, a.SilenceID = r.Time(), r.Time(), r.Time(), r.Time(), r.Text()
	a.toldAt, a.history, a.sample = r.Time(), uint64(r.Int64()), r.Int64()
	return a
}

// Label returns what a matcher compares: a label, or rule, subject, severity.
func (a *Alert) Label(name string) string {
	switch name {
	case "rule":
		return a.Rule
	case "subject":
		return a.Subject
	case "severity":
		return string(a.Severity)
	}
	return a.Labels[name]
}
