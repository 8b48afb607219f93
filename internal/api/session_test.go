package api_test

import (
	"context"
	"encoding/json/v2"
	"net/http"
	"strings"
	"testing"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db/dbtest"
	"chancery/internal/token"
)

// signIn signs in with a token and returns the cookie and the CSRF token.
func (w *world) signIn(t *testing.T, text string) (cookie, csrf string) {
	t.Helper()
	resp, body := w.raw(t, "POST", "/api/v1/session", `{"token":"`+text+`"}`, "Content-Type", "application/json")
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status, body)
	}
	c := resp.Cookies()
	if len(c) != 1 || c[0].Name != "__Host-chancery" || !c[0].Secure || !c[0].HttpOnly || c[0].SameSite != http.SameSiteLaxMode || c[0].Path != "/" || c[0].Domain != "" {
		t.Fatalf("the cookie is %+v", c)
	}
	if resp.Header.Get("Cache-Control") != "no-store" || strings.Contains(body, c[0].Value) {
		t.Error("the answer may be cached, or repeats the cookie")
	}
	w.secrets = append(w.secrets, c[0].Value[27:])
	var s api.Session
	check(t, json.Unmarshal([]byte(body), &s))
	return "__Host-chancery=" + c[0].Value, s.CSRF
}

// A browser that is signed in may do what its token may, and another site
// cannot make it do anything.
func TestBrowserSession(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	text := w.tokenOf(t, token.Spec{Name: "ada", Role: token.Operator})
	cookie, csrf := w.signIn(t, text)
	var who api.Session
	_, body := w.raw(t, "GET", "/api/v1/session", "", "Cookie", cookie)
	check(t, json.Unmarshal([]byte(body), &who))
	if !who.SignedIn || who.Name != "ada" || who.Role != token.Operator || who.CSRF != csrf || who.ExpiresAt == nil {
		t.Error(body)
	}
	if resp, body := w.raw(t, "GET", "/api/v1/certs", "", "Cookie", cookie); resp.StatusCode != 200 {
		t.Error(resp.Status, body)
	}
	good := []string{"Cookie", cookie, "X-CSRF-Token", csrf, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json"}
	change := func(headers ...string) int {
		resp, _ := w.raw(t, "POST", "/api/v1/certs/nothing/revoke", `{}`, headers...)
		return resp.StatusCode
	}
	if got := change(good...); got != 404 {
		t.Errorf("a page of our own: %d", got)
	}
	with := func(name, value string) []string {
		out := append([]string{}, good...)
		for i := 0; i < len(out); i += 2 {
			if out[i] == name {
				out[i+1] = value
				return out
			}
		}
		return append(out, name, value)
	}
	for name, headers := range map[string][]string{
		"no csrf":        with("X-CSRF-Token", ""),
		"csrf of others": with("X-CSRF-Token", token.CSRF("other")),
		"cross-site":     with("Sec-Fetch-Site", "cross-site"),
		"same-site":      with("Sec-Fetch-Site", "same-site"),
		"old browser":    {"Cookie", cookie, "X-CSRF-Token", csrf, "Origin", "https://evil.test"},
	} {
		if got := change(headers...); got != 403 {
			t.Errorf("%s: %d, want 403", name, got)
		}
	}
	for name, headers := range map[string][]string{"no cookie": with("Cookie", ""), "two cookies": with("Cookie", cookie+"; "+cookie), "wrong": with("Cookie", cookie+"x")} {
		if got := change(headers...); got != 401 {
			t.Errorf("%s: %d, want 401", name, got)
		}
	}
	if resp, _ := w.raw(t, "POST", "/api/v1/tokens", `{"name":"x","role":"admin"}`, good...); resp.StatusCode != 403 {
		t.Errorf("an operator made a token: %d", resp.StatusCode)
	}
	if resp, _ := w.raw(t, "DELETE", "/api/v1/session", "", good...); resp.StatusCode != 204 || resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("signing out: %d %v", resp.StatusCode, resp.Cookies())
	}
	if resp, _ := w.raw(t, "GET", "/api/v1/certs", "", "Cookie", cookie); resp.StatusCode != 401 {
		t.Errorf("after signing out: %d", resp.StatusCode)
	}
	if _, body := w.raw(t, "GET", "/api/v1/session", "", "Cookie", cookie); !strings.Contains(body, `"signed_in":false`) {
		t.Error(body)
	}
}

// Guessing tokens is slow.
func TestSignInsAreLimited(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	for range 40 {
		resp, _ := w.raw(t, "POST", "/api/v1/session", `{"token":"cy_nothing"}`, "Content-Type", "application/json")
		if resp.StatusCode == http.StatusTooManyRequests {
			if resp.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			return
		}
	}
	t.Error("forty wrong tokens in a row were looked at")
}

// A request with a key happens once, however often it is sent.
func TestIdempotencyKey(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		id := w.issue(t, "once.test").ID
		send := func(key, path, body string) (*http.Response, string) {
			return w.raw(t, "POST", "/api/v1"+path, body, "Authorization", "Bearer "+w.adminText(), "Content-Type", "application/json", "Idempotency-Key", key)
		}
		first, body := send("k1", "/certs/"+id+"/revoke", `{"reason":"superseded"}`)
		if first.StatusCode != 200 {
			t.Fatal(first.Status, body)
		}
		again, repeated := send("k1", "/certs/"+id+"/revoke", `{"reason":"superseded"}`)
		if again.StatusCode != 200 || repeated != body || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Error(again.Status, repeated)
		}
		if resp, text := send("k1", "/certs/"+id+"/revoke", `{"reason":"unspecified"}`); resp.StatusCode != 400 || !strings.Contains(text, "another request") {
			t.Error(resp.Status, text)
		}
		if resp, _ := send("k2", "/certs/"+id+"/revoke", `{"reason":"superseded"}`); resp.StatusCode == 200 {
			t.Error("another key found the certificate not revoked")
		}
		// What others did with the same key is theirs.
		resp, _ := w.raw(t, "POST", "/api/v1/certs/"+id+"/revoke", `{"reason":"superseded"}`, "Content-Type", "application/json", "Idempotency-Key", "k1",
			"Authorization", "Bearer "+w.tokenOf(t, token.Spec{Name: "o", Role: token.Operator}))
		if resp.StatusCode == 200 {
			t.Error("somebody else's answer was given out")
		}
		// Answers with secrets are not kept.
		made, text := send("k3", "/tokens", `{"name":"x"}`)
		if made.StatusCode != 201 {
			t.Fatal(text)
		}
		if resp, again := send("k3", "/tokens", `{"name":"x"}`); resp.StatusCode != 409 || strings.Contains(again, "cy_") {
			t.Error(resp.Status, again)
		}
		if all, _, err := client.List[api.Token](context.Background(), w.admin, "/tokens", nil, 0); err != nil || count(all, "x") != 1 {
			t.Error("the token was made twice", err)
		}
		if resp, _ := send(strings.Repeat("k", 256), "/tokens", `{"name":"x"}`); resp.StatusCode != 400 {
			t.Error("a key without bounds", resp.Status)
		}
	})
}

func count(all []api.Token, name string) (n int) {
	for _, t := range all {
		if t.Name == name {
			n++
		}
	}
	return n
}
