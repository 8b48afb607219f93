package client

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/issuer"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestClassesOfRefusals(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		code   fault.Code
		detail string
		header time.Duration
		class  issuer.Class
		after  time.Duration
	}{
		{"Let's Encrypt, exact set", 429, fault.RateLimited, `too many certificates (5) already issued for this exact set of identifiers in the last 168h0m0s, retry after 2026-03-02 13:00:00 UTC: see https://letsencrypt.org/docs/rate-limits/`, 0, issuer.Throttled, 25 * time.Hour},
		{"Let's Encrypt, failed authorizations", 429, fault.RateLimited, `too many failed authorizations (5) for "a.test" in the last 1h0m0s, retry after 2026-03-01 12:07:12 UTC: see https://x`, 0, issuer.Throttled, 7*time.Minute + 12*time.Second},
		{"Let's Encrypt, old form", 429, fault.RateLimited, "too many new orders recently, retry after 2026-03-01T14:00:00Z: see https://x", 0, issuer.Throttled, 2 * time.Hour},
		{"a header wins over the text", 429, fault.RateLimited, "retry after 2026-03-02 13:00:00 UTC", time.Minute, issuer.Throttled, time.Minute},
		{"a span", 429, fault.RateLimited, "slow down, try again in 1m30s", 0, issuer.Throttled, 90 * time.Second},
		{"429 without a document", 429, "", "", time.Second, issuer.Throttled, time.Second},
		{"an instant that passed", 429, fault.RateLimited, "retry after 2020-01-01 00:00:00 UTC", 0, issuer.Throttled, 0},
		{"Boulder overloaded", 503, fault.RateLimited, "Service busy; retry later.", 30 * time.Second, issuer.Unavailable, 30 * time.Second},
		{"maintenance", 503, "", "", time.Hour, issuer.Unavailable, time.Hour},
		{"500", 500, fault.ServerInternal, "oops", 0, issuer.Unavailable, 0},
		{"502 of a proxy", 502, "", "", 0, issuer.Unavailable, 0},
		{"a redirect", 302, "", "", 0, issuer.Unavailable, 0},
		{"forbidden name", 400, fault.RejectedIdentifier, "policy forbids", 0, issuer.Permanent, 0},
		{"deactivated account", 403, fault.Unauthorized, "account is deactivated", 0, issuer.Permanent, 0},
		{"terms", 403, fault.UserActionRequired, "terms changed", 0, issuer.Permanent, 0},
		{"CAA", 403, fault.CAA, "caa forbids", 0, issuer.Validation, 0},
		{"unknown type", 400, "brandNew", "?", 0, issuer.Permanent, 0},
		{"404", 404, "", "", 0, issuer.Permanent, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &acme.Problem{Type: "about:blank", Status: tc.status, Detail: tc.detail}
			if tc.code != "" {
				p.Type = "urn:ietf:params:acme:error:" + string(tc.code)
			}
			var e *issuer.Error
			if err := classify(context.Background(), &Refusal{p, "new-order", tc.header}, now); !errors.As(err, &e) {
				t.Fatalf("error %v", err)
			}
			if e.Class != tc.class || e.RetryAfter != tc.after {
				t.Errorf("class %s after %s, want %s after %s", e.Class, e.RetryAfter, tc.class, tc.after)
			}
		})
	}
}

func TestClassesOfOtherFailures(t *testing.T) {
	var e *issuer.Error
	if err := classify(context.Background(), &net.OpError{Op: "dial", Err: errors.New("refused")}, now); !errors.As(err, &e) || e.Class != issuer.Unavailable {
		t.Errorf("an unreachable CA: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := classify(ended, context.Canceled, now); errors.As(err, &e) && e.Class != issuer.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("the caller's own end: %v", err)
	}
	lease := errors.New("lease lost")
	if err := classify(context.Background(), lease, now); err != lease {
		t.Errorf("an error of the caller: %v", err)
	}
}

func TestValidationClasses(t *testing.T) {
	for code, want := range map[fault.Code]issuer.Class{fault.Unauthorized: issuer.Validation, fault.DNS: issuer.Validation, fault.RateLimited: issuer.Throttled,
		fault.ServerInternal: issuer.Unavailable, fault.RejectedIdentifier: issuer.Permanent} {
		r := &Refusal{Problem: &acme.Problem{Type: acme.TypeURI(code)}}
		if got := validationClass(r); got != want {
			t.Errorf("%s: class %s, want %s", code, got, want)
		}
	}
}

func TestRetryAfterHeader(t *testing.T) {
	for v, want := range map[string]time.Duration{
		"": 0, "0": 0, "30": 30 * time.Second, " 30 ": 30 * time.Second, "-5": 0, "1e9": 0, "soon": 0, "1h": 0, "99999999": maxRetryAfter,
		"Sun, 01 Mar 2026 12:01:00 GMT": time.Minute, "Sun, 01 Mar 2020 12:01:00 GMT": 0,
	} {
		if got := RetryAfter(v, now); got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
}

func TestNoncesAreForgottenWithAge(t *testing.T) {
	var n nonces
	n.put("old", now)
	n.put("new", now.Add(4*time.Minute))
	if got := n.take(now.Add(5 * time.Minute)); got != "new" {
		t.Errorf("got %q, want the newest", got)
	}
	if got := n.take(now.Add(6 * time.Minute)); got != "" {
		t.Errorf("got %q, which is too old", got)
	}
	for range 2 * maxNonces {
		n.put("x", now)
	}
	if len(n.list) != maxNonces {
		t.Errorf("%d nonces are kept", len(n.list))
	}
}

func TestTokens(t *testing.T) {
	for token, want := range map[string]bool{"evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA": true, "../../../../etc/passwd-aaaa": false, "short": false, "": false,
		"with space and more than 22": false} {
		if tokenOK(token) != want {
			t.Errorf("token %q: accepted is not %t", token, want)
		}
	}
}

func FuzzRetryText(f *testing.F) {
	f.Add("retry after 2026-03-02 13:00:00 UTC")
	f.Add("try again in 1h1h1h1h")
	f.Add("wait 999999999999999999h")
	f.Fuzz(func(t *testing.T, s string) {
		if d := retryText(s, now); d < 0 || d > maxRetryAfter {
			t.Errorf("%q: %s", s, d)
		}
		if d := RetryAfter(s, now); d < 0 || d > maxRetryAfter {
			t.Errorf("%q: %s", s, d)
		}
	})
}
