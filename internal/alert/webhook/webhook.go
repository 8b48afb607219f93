// Package webhook is the channel for a receiver of one's own: a signed POST per
// message.
//
// The body is a Body in JSON. The header Chancery-Signature is
// "t=UNIX,v1=HEX": HMAC-SHA-256, under the shared secret, of the time, a dot
// and the body. Chancery-Delivery is the same whenever a message is sent again:
// a receiver that remembers it acts once.
package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"chancery/internal/alert"
	"chancery/internal/alert/post"
)

// Config is the configuration of a channel.
type Config struct {
	// Where messages are posted.
	URL string `toml:"url" format:"url"`

	// File with the secret under which messages are signed; at least 16 bytes.
	SecretFile string `toml:"secret_file"`
}

// Kind is the plug-in.
var Kind = alert.Kind{
	Name:   "webhook",
	Doc:    "A receiver of one's own behind HTTP, with signed messages.",
	Config: func() any { return &Config{} },
	Open:   open,
}

// Body is what is posted.
type Body struct {
	Version  int     `json:"version"` // 1
	ID       string  `json:"id"`      // the same when it comes again
	Event    string  `json:"event"`   // fire, escalate, resolve or test
	Rule     string  `json:"rule"`
	Severity string  `json:"severity"`
	Title    string  `json:"title"`
	URL      string  `json:"url"`
	Instance string  `json:"instance"`
	Alerts   []Alert `json:"alerts"`
}

// Alert is one alert of a Body. Times are RFC 3339 in UTC.
type Alert struct {
	ID         string            `json:"id"`
	Subject    string            `json:"subject"`
	Severity   string            `json:"severity"`
	State      string            `json:"state"`
	Summary    string            `json:"summary"`
	Labels     map[string]string `json:"labels"`
	Since      time.Time         `json:"since"`
	FiredAt    time.Time         `json:"fired_at"`
	ResolvedAt *time.Time        `json:"resolved_at,omitempty"`
}

// minSecret is the least length of the secret, in bytes.
const minSecret = 16

func open(_ alert.Env, config any) (alert.Send, error) {
	c := config.(*Config)
	switch {
	case c.URL == "":
		return nil, errors.New("url: must be set")
	case c.SecretFile == "":
		return nil, errors.New("secret_file: must be set")
	}
	client := post.Client()
	return func(ctx context.Context, m *alert.Message) error {
		secret, err := alert.Secret("secret_file", c.SecretFile)
		if err == nil && len(secret) < minSecret {
			err = fmt.Errorf("secret_file: the secret is shorter than %d bytes", minSecret)
		}
		if err != nil {
			return err
		}
		body, err := json.Marshal(bodyOf(m))
		if err != nil {
			return alert.Permanent(fmt.Errorf("encode message: %w", err))
		}
		h := http.Header{}
		h.Set("Chancery-Delivery", m.ID)
		h.Set("Chancery-Signature", Sign(secret, time.Now(), body))
		return post.JSON(ctx, client, c.URL, body, h)
	}, nil
}

func bodyOf(m *alert.Message) Body {
	b := Body{Version: 1, ID: m.ID, Event: string(m.Event), Rule: m.Rule, Severity: string(m.Severity), Title: m.Title(), URL: m.URL, Instance: m.Instance, Alerts: []Alert{}}
	for i := range m.Alerts {
		a := &m.Alerts[i]
		out := Alert{ID: a.ID, Subject: a.Subject, Severity: string(a.Severity), State: string(a.State), Summary: a.Summary, Labels: a.Labels, Since: a.Since, FiredAt: a.FiredAt}
		if !a.ResolvedAt.IsZero() {
			out.ResolvedAt = &a.ResolvedAt
		}
		b.Alerts = append(b.Alerts, out)
	}
	return b
}

// Sign returns the value of Chancery-Signature for a body.
func Sign(secret string, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(t + "."))
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
