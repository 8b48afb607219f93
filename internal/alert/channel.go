package alert

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
)

// Event is what a message says about its alerts.
type Event string

// Events.
const (
	Fire     Event = "fire"     // they began
	Escalate Event = "escalate" // they began a while ago, and nothing happened
	Resolve  Event = "resolve"  // they are over
	Test     Event = "test"     // nothing: somebody tries the channel
)

// Message is what a channel sends: alerts of one rule that came together.
type Message struct {
	ID       string // the same whenever this message is sent again
	Event    Event
	Rule     string
	Severity Severity // of the worst of them
	At       time.Time
	URL      string // where people see more
	Instance string // name of the installation, for subjects and sources
	Alerts   []Alert
}

// Title is the message in one line.
func (m *Message) Title() string {
	head := map[Event]string{Fire: "firing", Escalate: "still firing", Resolve: "resolved", Test: "test"}[m.Event]
	switch len(m.Alerts) {
	case 0:
		return fmt.Sprintf("[%s] a test of Chancery's alerts", head)
	case 1:
		return fmt.Sprintf("[%s %s] %s", m.Severity, head, m.Alerts[0].Summary)
	}
	return fmt.Sprintf("[%s %s] %s: %d alerts", m.Severity, head, m.Rule, len(m.Alerts))
}

// listedAlerts is how many alerts a text spells out.
const listedAlerts = 20

// Lines are the alerts as text, one a line.
func (m *Message) Lines() []string {
	var out []string
	for i := range m.Alerts {
		if i == listedAlerts {
			return append(out, fmt.Sprintf("... and %d more", len(m.Alerts)-i))
		}
		out = append(out, m.Alerts[i].Summary)
	}
	if len(m.Alerts) == 0 {
		out = append(out, "If you can read this, the channel works.")
	}
	return out
}

// Send hands a message to the outside world. It returns nil when the other
// side took it; an error is tried again later, unless it is Permanent.
type Send func(ctx context.Context, m *Message) error

// Kind is a plug-in: how to describe, configure and open channels of one sort.
type Kind struct {
	Name   string // as configuration writes it, e.g. "slack"
	Doc    string // one sentence
	Config func() any
	// Open checks a configuration that came from Config. It talks to nobody.
	Open func(env Env, config any) (Send, error)
}

// Env is what the program gives every channel.
type Env struct {
	Name string // of the channel in the configuration
	Log  *slog.Logger
}

// Channel is a configured place where people are told.
type Channel struct {
	Name     string
	Kind     string
	Severity Severity // the mildest that it is told
	Send     Send
}

// permanent marks an error that no repetition mends.
type permanent struct{ error }

// Permanent returns err as one that is not tried again.
func Permanent(err error) error { return permanent{err} }

// IsPermanent reports whether err is not worth another try.
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

// Secret reads the first line of a file, for channels: tokens, passwords and
// URLs that are secrets. It is read for every message, so that a new secret
// needs no restart.
func Secret(key, path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return "", fmt.Errorf("%s: the first line of %s is empty; write the secret there", key, path)
	}
	return line, nil
}
