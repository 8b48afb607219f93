package client_test

import (
	"context"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/fault"
)

const secret = "cy_token"

func newClient(t *testing.T, h http.HandlerFunc) (*client.Client, *httptest.Server) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(client.Config{Server: srv.URL + "/", Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	return c, srv
}

func get(c *client.Client) error {
	_, err := client.Get[api.Summary](context.Background(), c, "/summary", nil)
	return err
}

// A server that redirects must not carry the token to another host.
func TestTokenFollowsNoRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("followed to another host with %q", r.Header.Get("Authorization"))
	}))
	defer other.Close()
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	})
	if err := get(c); err == nil || !strings.Contains(err.Error(), "not as a chancery would") {
		t.Error(err)
	}
}

func TestProblemsBecomeFaults(t *testing.T) {
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+secret || r.URL.Path != "/api/v1/summary" {
			t.Error(r.URL, r.Header)
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(503)
		w.Write([]byte(`{"type":"urn:chancery:error:unavailable","detail":"later","status":503}`))
	})
	err := get(c)
	if e := fault.As(err); !fault.Is(err, fault.Unavailable) || e.Detail != "later" || e.RetryAfter != 7*time.Second || e.Status() != 503 {
		t.Errorf("%+v", e)
	}
}

func TestAnswersOfOthers(t *testing.T) {
	for name, body := range map[string]string{"html": "<html>", "empty": "", "array": "[]", "number": "7", "cut": `{"type":"x"`} {
		for _, status := range []int{200, 404, 500} {
			c, _ := newClient(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); w.Write([]byte(body)) })
			if err := get(c); err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("%s with %d: %v", name, status, err)
			}
		}
	}
}

func TestUnreachable(t *testing.T) {
	c, srv := newClient(t, nil)
	srv.Close()
	if err := get(c); !fault.Is(err, fault.Unavailable) || strings.Contains(err.Error(), secret) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := client.Get[api.Summary](ctx, c, "/summary", nil); err != context.Canceled {
		t.Error(err)
	}
}

func TestServerMustBeKnown(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("{}")) }))
	defer srv.Close()
	for known, pool := range map[bool]*x509.CertPool{false: x509.NewCertPool(), true: x509.NewCertPool()} {
		if known {
			pool.AddCert(srv.Certificate())
		}
		c, err := client.New(client.Config{Server: srv.URL, Token: secret, Roots: pool})
		if err != nil {
			t.Fatal(err)
		}
		if err := get(c); known != (err == nil) || !known && !fault.Is(err, fault.Precondition) {
			t.Errorf("known %v: %v", known, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, cfg := range []client.Config{{}, {Server: "localhost:8443"}, {Server: "ftp://x"}, {Server: "https://x", Token: "a b"}, {Server: "https://x", Token: "a\r\nX: y"}} {
		if _, err := client.New(cfg); !fault.Is(err, fault.Invalid) || cfg.Token != "" && strings.Contains(err.Error(), cfg.Token) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// A list stops where it is told to, and says whether there is more.
func TestListStops(t *testing.T) {
	c, _ := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("cursor") {
		case "":
			w.Write([]byte(`{"items":["a","b"],"next":"1"}`))
		case "1":
			w.Write([]byte(`{"items":[],"next":"2"}`)) // a page may be empty and have a next one
		default:
			w.Write([]byte(`{"items":["c"]}`))
		}
	})
	for most, want := range map[int]string{0: "abc false", 1: "a true", 2: "ab true", 3: "abc false", 9: "abc false"} {
		items, more, err := client.List[string](context.Background(), c, "/x", url.Values{"q": {"y"}}, most)
		if got := strings.Join(items, "") + map[bool]string{true: " true", false: " false"}[more]; err != nil || got != want {
			t.Errorf("at most %d: %s, want %s (%v)", most, got, want, err)
		}
	}
}
