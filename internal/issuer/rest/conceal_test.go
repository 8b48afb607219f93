package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"chancery/internal/issuer/rest"
)

// An API that repeats the whole request in its refusal: nothing of what was
// sent in confidence may be in the error, which is stored and shown.
func TestRefusalsRepeatNoSecret(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		user, password, _ := r.BasicAuth()
		text, err := json.Marshal(fmt.Sprintf("no such zone for %v %s %s %s", r.Header, body, user, password))
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"message":%s}`, text)
	}))
	defer s.Close()
	const secret = `s3cret "value" of/this+test`
	header := func(name, value string) func(context.Context, *http.Request) error {
		return func(_ context.Context, r *http.Request) error { r.Header.Set(name, value); return nil }
	}
	for name, tt := range map[string]struct {
		authorize func(context.Context, *http.Request) error
		in        any
	}{
		"bearer":     {header("Authorization", "Bearer "+secret), nil},
		"own header": {header("X-Api-Key", secret), nil},
		"basic":      {func(_ context.Context, r *http.Request) error { r.SetBasicAuth("someone", secret); return nil }, nil},
		"JSON":       {nil, map[string]string{"role_id": "public", "secret_id": secret}},
		"form":       {nil, url.Values{"client_secret": {secret}, "grant": {"public"}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := rest.Client{Base: s.URL, HTTP: s.Client(), Authorize: tt.authorize}
			_, err := c.Do(t.Context(), http.MethodPost, "/x", tt.in, nil)
			var e *rest.Error
			if !errors.As(err, &e) || !strings.Contains(e.Message, "no such zone") || !strings.Contains(e.Message, "[hidden]") {
				t.Fatal(err)
			}
			for _, text := range []string{err.Error(), string(e.Body)} {
				for _, part := range []string{"s3cret", "of/this", "czNjcmV0", "b2YvdGhpcyt0ZXN0"} {
					if strings.Contains(text, part) {
						t.Errorf("%q is in %s", part, text)
					}
				}
			}
		})
	}
}
