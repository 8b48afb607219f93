package rest_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/issuer/rest"
)

func TestCheckURL(t *testing.T) {
	for text, ok := range map[string]bool{"https://api.example/v1/": true, "http://127.0.0.1:80": true, "http://localhost": true, "http://[::1]:8080": true, "": false,
		"http://api.example": false, "https://u:p@api.example": false, "https://api.example/?q": false, "ftp://api.example": false, "api.example": false, "http://localhost.evil.example": false} {
		if _, err := rest.CheckURL("url", text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecretsAreReadAnewAndNeverQuoted(t *testing.T) {
	path := issuertest.File(t, "one\nrest")
	s := rest.Secret(path)
	if v, err := s.Read(); v != "one" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := os.WriteFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, _ := s.Read(); v != "two" {
		t.Errorf("%q after it was replaced", v)
	}
	if err := os.WriteFile(path, []byte("\nsecret on the second line"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Check("key_file"); err == nil || strings.Contains(err.Error(), "second") {
		t.Errorf("error %v", err)
	}
}

func client(t *testing.T, h http.HandlerFunc) *rest.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	hc, err := rest.NewHTTP(rest.TLS{}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Client{Base: srv.URL, HTTP: hc, MaxReply: 1000}
}

func TestRepliesAreBounded(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 2000)) })
	if _, err := c.Do(t.Context(), http.MethodGet, "/", nil, nil); err == nil || !strings.Contains(err.Error(), "longer than 1000") {
		t.Errorf("error %v", err)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	visited := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visited = true }))
	defer other.Close()
	c := client(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	if _, err := c.Do(t.Context(), http.MethodGet, "/", nil, nil); err == nil || visited {
		t.Errorf("error %v, visited %t", err, visited)
	}
}

func TestOnlyReadsAreRepeatedAfterAServerError(t *testing.T) {
	n := 0
	c := client(t, func(w http.ResponseWriter, _ *http.Request) {
		if n++; n < 3 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	if _, err := c.Do(t.Context(), http.MethodGet, "/", nil, nil); err != nil {
		t.Errorf("a read: %v", err)
	}
	n = 0
	_, err := c.Do(t.Context(), http.MethodPost, "/", map[string]string{}, nil)
	issuertest.WantClass(t, rest.Classify(t.Context(), err), issuer.Unavailable)
	if n != 1 {
		t.Errorf("a write was sent %d times", n)
	}
}

func TestErrorsShowNoQueryAndNoControls(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"errors": ["no\u001b[31m", {"message": "really not"}]}`)
	})
	_, err := c.Do(t.Context(), http.MethodGet, "/x?token=hunter2", nil, nil)
	var e *rest.Error
	if !errors.As(err, &e) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "really not") {
		t.Errorf("error %q", err)
	}
	c.Base = "http://127.0.0.1:1"
	if _, err := c.Do(t.Context(), http.MethodGet, "/x?token=hunter2", nil, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %q", err)
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"errors": [{"message": "a"}, "b"], "error": {"detail": "c"}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if s := rest.Tidy(rest.Message(body)); len(s) > 510 {
			t.Errorf("%d octets", len(s))
		}
	})
}
