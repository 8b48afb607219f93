package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"chancery/internal/issuer"
)

// Tokens keeps an access token until shortly before it ends.
type Tokens struct {
	Fetch func(ctx context.Context) (*oauth2.Token, error)

	mu    sync.Mutex
	token *oauth2.Token
}

// tokenSlack is how long before its end a token is not used any more.
const tokenSlack = time.Minute

// Authorize adds the token to a request. Two callers may fetch one at the same
// time; both are good.
func (t *Tokens) Authorize(ctx context.Context, r *http.Request) error {
	t.mu.Lock()
	token := t.token
	t.mu.Unlock()
	if token == nil || !token.Expiry.IsZero() && time.Until(token.Expiry) < tokenSlack {
		var err error
		if token, err = t.Fetch(ctx); err != nil {
			return tokenError(err)
		}
		t.mu.Lock()
		t.token = token
		t.mu.Unlock()
	}
	r.Header.Set("Authorization", "Bearer "+token.AccessToken)
	return nil
}

// tokenError hides the reply of a token endpoint, which may repeat a secret.
func tokenError(err error) error {
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) || refused.Response == nil {
		return fmt.Errorf("get access token: %w", err)
	}
	return &issuer.Error{Class: classOf(refused.Response.StatusCode), RetryAfter: RetryAfter(refused.Response.Header, time.Now()),
		Err: fmt.Errorf("get access token: %s %s", refused.Response.Status, Tidy(refused.ErrorCode))}
}

// MetadataToken gets a token from the metadata service of a cloud's machine.
func MetadataToken(ctx context.Context, hc *http.Client, url, header, value string) (*oauth2.Token, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set(header, value)
	res, err := hc.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var v struct {
		Token   string      `json:"access_token"`
		Expires json.Number `json:"expires_in"` // a number at Google, text at Azure
	}
	if res.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&v) != nil || v.Token == "" {
		return nil, fmt.Errorf("the metadata service answers %s and no token", res.Status)
	}
	seconds, _ := v.Expires.Int64() // 0 is "use it once"
	return &oauth2.Token{AccessToken: v.Token, Expiry: time.Now().Add(time.Duration(min(max(seconds, 0), 24*3600)) * time.Second)}, nil
}
