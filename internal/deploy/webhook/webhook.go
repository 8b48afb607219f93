// Package webhook is the target for a receiver of the administrator's behind
// HTTP: one signed POST per step of a batch.
//
// The body is a Call in JSON. The header Chancery-Signature is
// "t=UNIX,v1=HEX": HMAC-SHA-256, under the shared secret, of the time, a dot
// and the body. Chancery-Delivery is the same for all repetitions of a call.
// The receiver answers 2xx when it did what the event says; with an Answer it
// blames single certificates. "deploy" is followed by "commit" or "rollback",
// and a rollback may come twice, and without a deploy.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Config is the configuration of a target.
type Config struct {
	// Where calls are posted.
	URL string `toml:"url" format:"url"`

	// File with the secret under which calls are signed; at least 16 bytes.
	SecretFile string `toml:"secret_file"`

	// Also send private keys; the URL must then begin with https://.
	Keys bool `toml:"keys"`

	// Longest time for one request.
	Timeout time.Duration `toml:"timeout"`

	// How often a call is repeated that failed with 429, 5xx or without an
	// answer; the pauses double from half a second.
	Retries int `toml:"retries" min:"0" max:"20"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name:   "webhook",
	Doc:    "A receiver behind HTTP that gets signed calls, one per step of a batch.",
	Config: func() any { return &Config{Timeout: 30 * time.Second, Retries: 4} },
	Open:   open,
}

// Call is the body of a request.
type Call struct {
	Version      int           `json:"version"` // 1
	Event        string        `json:"event"`   // "deploy", "commit" or "rollback"
	Batch        string        `json:"batch"`   // the same in all calls of a batch
	Target       string        `json:"target"`
	Certificates []Certificate `json:"certificates"`
}

// Certificate is one certificate of a Call. Only "deploy" has more than ID.
type Certificate struct {
	ID     string            `json:"id"`
	Names  []string          `json:"names,omitempty"`
	Chain  string            `json:"chain,omitempty"`  // PEM, leaf first
	Key    string            `json:"key,omitempty"`    // PKCS #8 PEM, if the configuration says so
	SHA256 string            `json:"sha256,omitempty"` // of the leaf
	Params map[string]string `json:"params,omitempty"`
}

// Answer is what the receiver may say: which certificates it refused.
type Answer struct {
	Errors map[string]string `json:"errors"`
}

// Target implements deploy.Target and Recoverer.
type Target struct {
	env    deploy.Env
	cfg    *Config
	client *http.Client
	first  time.Duration // pause before the first repetition
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	switch {
	case c.URL == "":
		return nil, errors.New("url: must be set")
	case c.SecretFile == "":
		return nil, errors.New("secret_file: must be set")
	case c.Keys && !strings.HasPrefix(c.URL, "https://"):
		return nil, errors.New("keys: private keys are sent to https:// only")
	}
	client := &http.Client{Timeout: c.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Target{env, c, client, 500 * time.Millisecond}, nil
}

// batch implements deploy.Staged.
type batch struct {
	t     *Target
	call  Call
	items []deploy.Item
	lock  *deploy.Lock
}

// Recover takes back what an interrupted batch began.
func (t *Target) Recover(ctx context.Context) error {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return err
	}
	defer lock.Release()
	b := &batch{t: t}
	found, err := deploy.LoadJournal(t.env.State, &b.call)
	if err != nil || !found {
		return err
	}
	return b.end(ctx, "rollback")
}

// Stage makes the call; nothing is sent.
func (t *Target) Stage(_ context.Context, items []deploy.Item) (deploy.Staged, error) {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return nil, err
	}
	b := &batch{t: t, items: items, lock: lock, call: Call{Version: 1, Event: "deploy", Batch: rand.Text(), Target: t.env.Name}}
	for i := range items {
		c, err := t.describe(&items[i])
		if err != nil {
			lock.Release()
			return nil, &deploy.ItemError{ID: items[i].ID, Err: err}
		}
		b.call.Certificates = append(b.call.Certificates, c)
	}
	return b, nil
}

// describe puts an item into words.
func (t *Target) describe(item *deploy.Item) (Certificate, error) {
	sum := pki.Fingerprint(item.Chain[0])
	c := Certificate{ID: item.ID, Names: item.Names, Chain: string(pki.EncodeChain(item.Chain...)), SHA256: hex.EncodeToString(sum[:]), Params: item.Params}
	if t.cfg.Keys {
		key, err := live.KeyPEM(item)
		if err != nil {
			return c, err
		}
		c.Key = string(key)
	}
	return c, nil
}

// ids returns the call without what only "deploy" needs.
func (c Call) ids(event string) Call {
	c.Event = event
	all := make([]Certificate, len(c.Certificates))
	for i, one := range c.Certificates {
		all[i] = Certificate{ID: one.ID}
	}
	c.Certificates = all
	return c
}

// Apply sends the certificates.
func (b *batch) Apply(ctx context.Context) error {
	if err := deploy.SaveJournal(b.t.env.State, b.call.ids("rollback")); err != nil {
		return err
	}
	fault.Point("deploy.before_call")
	answer, err := b.t.post(ctx, &b.call)
	var refused []error
	for i := range b.items {
		if why, ok := answer.Errors[b.items[i].ID]; ok {
			refused = append(refused, &deploy.ItemError{ID: b.items[i].ID, Err: fmt.Errorf("refused: %.500q", why)})
		}
	}
	if len(refused) > 0 {
		return errors.Join(refused...)
	}
	return err
}

// Verify has nothing to ask: the probe does.
func (b *batch) Verify(context.Context) (map[string]error, error) { return nil, nil }

// Commit tells the receiver that all is well.
func (b *batch) Commit(ctx context.Context) error {
	if err := b.end(ctx, "commit"); err != nil {
		return err
	}
	b.lock.Release()
	return nil
}

// Rollback tells the receiver to go back.
func (b *batch) Rollback(ctx context.Context) error {
	defer b.lock.Release()
	return b.end(ctx, "rollback")
}

// end sends the last call of a batch. Before the first there is none.
func (b *batch) end(ctx context.Context, event string) error {
	call := b.call.ids(event)
	if _, err := b.t.post(ctx, &call); err != nil {
		return err
	}
	return deploy.DropJournal(b.t.env.State)
}

// maxAnswer bounds what a receiver says.
const maxAnswer = 1 << 20

// post sends a call, again if that may help.
func (t *Target) post(ctx context.Context, call *Call) (Answer, error) {
	body, err := json.Marshal(call)
	if err != nil {
		return Answer{}, fmt.Errorf("encode call: %w", err)
	}
	pause := t.first
	for try := 0; ; try++ {
		answer, again, err := t.once(ctx, call, body)
		if err == nil || !again || try >= t.cfg.Retries {
			return answer, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return answer, err
		}
		pause *= 2
	}
}

// once makes one request, and says whether another may help.
func (t *Target) once(ctx context.Context, call *Call, body []byte) (a Answer, again bool, err error) {
	secret, err := os.ReadFile(t.cfg.SecretFile)
	if err != nil {
		return a, false, fmt.Errorf("read secret_file: %w", err)
	}
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) < 16 {
		return a, false, errors.New("secret_file: the secret is shorter than 16 bytes")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return a, false, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Chancery-Delivery", call.Batch+"-"+call.Event)
	req.Header.Set("Chancery-Signature", Sign(secret, body, time.Now()))
	resp, err := t.client.Do(req)
	if err != nil {
		return a, true, fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return a, true, fmt.Errorf("webhook: %w", err)
	}
	_ = json.Unmarshal(text, &a) // an answer is allowed, not required
	if resp.StatusCode/100 != 2 {
		again = resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
		return a, again, fmt.Errorf("the webhook answers %d to %s", resp.StatusCode, call.Event)
	}
	return a, false, nil
}

// Sign returns the signature header of a body.
func Sign(secret, body []byte, now time.Time) string {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(at + "."))
	mac.Write(body)
	return "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
