// Package post sends JSON to receivers behind HTTP, for the channels that do.
package post

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery/internal/alert"
)

// worthAnother are refusals that may end without the message being another: a
// missing permission can be granted, a limit passes.
var worthAnother = []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests}

// Client returns a client that follows no redirect: a secret must not wander.
func Client() *http.Client {
	return &http.Client{Timeout: 25 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// maxAnswer is how much of an answer is read, in bytes; maxShown how much of a
// refusal is kept.
const (
	maxAnswer = 4096
	maxShown  = 200
)

// JSON posts a body and returns nil on 2xx. Errors hold neither the URL nor
// headers, for both may be secrets.
func JSON(ctx context.Context, c *http.Client, to string, body []byte, header http.Header) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return alert.Permanent(fmt.Errorf("the URL cannot be used"))
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "chancery")
	resp, err := c.Do(r)
	if err != nil {
		return clean(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // what cannot be read is not shown
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("answered %d: %.*s", resp.StatusCode, maxShown, strings.TrimSpace(strings.ToValidUTF8(string(text), "?")))
	if resp.StatusCode/100 == 4 && !slices.Contains(worthAnother, resp.StatusCode) {
		return alert.Permanent(err)
	}
	return err
}

// clean takes the URL out of an error of the client.
func clean(err error) error {
	if u, ok := err.(*url.Error); ok {
		return u.Err
	}
	return err
}

// CheckURL returns what is wrong with the URL of a receiver.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return fmt.Errorf("must hold an http:// or https:// URL")
	}
	return nil
}

// SecretURL reads a URL that is a secret from a file.
func SecretURL(key, path string) (string, error) {
	text, err := alert.Secret(key, path)
	if err == nil {
		if bad := CheckURL(text); bad != nil {
			err = fmt.Errorf("%s: the first line of %s %w", key, path, bad)
		}
	}
	return text, err
}

// Webhook returns a channel that posts what payload makes of a message to the
// URL in a file. The file, which key of the configuration names, is read for
// each message, so that it may be replaced.
func Webhook(key, path string, payload func(*alert.Message) any) (alert.Send, error) {
	if path == "" {
		return nil, fmt.Errorf("%s: must be set", key)
	}
	client := Client()
	return func(ctx context.Context, m *alert.Message) error {
		to, err := SecretURL(key, path)
		if err != nil {
			return err
		}
		body, err := json.Marshal(payload(m))
		if err != nil {
			return alert.Permanent(fmt.Errorf("encode message: %w", err))
		}
		return JSON(ctx, client, to, body, nil)
	}, nil
}
