// Package pagerduty is the channel for PagerDuty, by its Events API v2.
//
// Every alert is an incident of its own, whose dedup_key is the alert's id: to
// send an event again changes nothing, and the end of the alert resolves the
// incident.
package pagerduty

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"chancery/internal/alert"
	"chancery/internal/alert/post"
)

// Config is the configuration of a channel.
type Config struct {
	// File with the integration key of the service (Events API v2).
	RoutingKeyFile string `toml:"routing_key_file"`

	// Where events are posted; another one for accounts in the EU.
	URL string `toml:"url" format:"url"`
}

// Kind is the plug-in.
var Kind = alert.Kind{
	Name:   "pagerduty",
	Doc:    "A service of PagerDuty, by the Events API v2; an incident per alert.",
	Config: func() any { return &Config{URL: "https://events.pagerduty.com/v2/enqueue"} },
	Open:   open,
}

// event is the body of a request.
type event struct {
	RoutingKey string   `json:"routing_key"`
	Action     string   `json:"event_action"` // trigger or resolve
	DedupKey   string   `json:"dedup_key"`
	Payload    *payload `json:"payload,omitempty"` // of a trigger
	Client     string   `json:"client,omitempty"`
	ClientURL  string   `json:"client_url,omitempty"`
}

type payload struct {
	Summary   string            `json:"summary"`
	Source    string            `json:"source"`
	Severity  string            `json:"severity"`
	Timestamp string            `json:"timestamp,omitempty"`
	Component string            `json:"component,omitempty"`
	Class     string            `json:"class,omitempty"`
	Details   map[string]string `json:"custom_details,omitempty"`
}

// maxSummary is the longest summary that PagerDuty takes, in bytes.
const maxSummary = 1024

func open(_ alert.Env, config any) (alert.Send, error) {
	c := config.(*Config)
	switch {
	case c.RoutingKeyFile == "":
		return nil, errors.New("routing_key_file: must be set")
	case c.URL == "":
		return nil, errors.New("url: must not be empty")
	}
	client := post.Client()
	return func(ctx context.Context, m *alert.Message) error {
		key, err := alert.Secret("routing_key_file", c.RoutingKeyFile)
		if err != nil {
			return err
		}
		for _, e := range events(m, key) {
			body, err := json.Marshal(e)
			if err != nil {
				return alert.Permanent(fmt.Errorf("encode event: %w", err))
			}
			if err := post.JSON(ctx, client, c.URL, body, nil); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// events returns one event per alert; a test is an incident that ends at once.
func events(m *alert.Message, key string) (out []event) {
	if m.Event == alert.Test {
		t := event{RoutingKey: key, Action: "trigger", DedupKey: "chancery-test-" + m.ID, Payload: &payload{Summary: m.Title(), Source: source(m), Severity: "info"}}
		return []event{t, {RoutingKey: key, Action: "resolve", DedupKey: t.DedupKey}}
	}
	for i := range m.Alerts {
		a := &m.Alerts[i]
		e := event{RoutingKey: key, Action: "trigger", DedupKey: "chancery-" + a.ID, Client: "Chancery", ClientURL: m.URL}
		if m.Event == alert.Resolve {
			e.Action = "resolve"
		} else {
			e.Payload = &payload{Summary: fmt.Sprintf("%.*s", maxSummary, a.Summary), Source: source(m), Severity: string(a.Severity), Timestamp: a.FiredAt.Format(time.RFC3339),
				Component: a.Subject, Class: a.Rule, Details: a.Labels}
		}
		out = append(out, e)
	}
	return out
}

// source is what PagerDuty calls the place of an event; it must not be empty.
func source(m *alert.Message) string {
	if m.Instance == "" {
		return "chancery"
	}
	return m.Instance
}
