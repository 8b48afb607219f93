package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// step is one scripted reply of a server.
type step struct {
	path    string // that must be asked, "" for any
	status  int
	header  string // "Name: value"
	body    string
	payload string // that the request must contain
}

// scripted is a server that answers signed requests by a script, checks that
// each is a sound JWS with a nonce that was handed out and not used, and hands
// out the next one. {} in a body is the server's URL.
type scripted struct {
	*httptest.Server
	t       *testing.T
	mu      sync.Mutex
	steps   []step
	nonces  map[string]bool
	issued  int
	account *acme.PublicKey
}

func newScripted(t *testing.T, steps ...step) *scripted {
	s := &scripted{t: t, steps: steps, nonces: map[string]bool{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.Close()
		if len(s.steps) > 0 {
			t.Errorf("%d steps were never asked for: %+v", len(s.steps), s.steps[0])
		}
	})
	return s
}

func (s *scripted) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	nonce := fmt.Sprintf("nonce%d", s.issued)
	s.nonces[nonce] = true
	w.Header().Set("Replay-Nonce", nonce)
	switch {
	case r.URL.Path == "/dir":
		fmt.Fprintf(w, `{"newNonce":"%[1]s/nonce","newAccount":"%[1]s/account","newOrder":"%[1]s/order"}`, s.URL)
		return
	case r.Method != http.MethodPost:
		return
	}
	s.post(w, r)
}

func (s *scripted) post(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	jws, err := acme.ParseJWS(body)
	if err == nil {
		if s.account == nil {
			s.account, err = jws.Header.JWK.PublicKey()
		}
		err = errors.Join(err, jws.Verify(s.account))
	}
	if err != nil || len(s.steps) == 0 || jws.Header.URL != s.URL+r.URL.Path || r.Header.Get("Content-Type") != "application/jose+json" {
		s.t.Errorf("unexpected %s %s: %v", r.Method, r.URL.Path, err)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	if !s.nonces[jws.Header.Nonce] {
		s.t.Errorf("%s: nonce %q was used before or never handed out", r.URL.Path, jws.Header.Nonce)
	}
	delete(s.nonces, jws.Header.Nonce)
	now := s.steps[0]
	s.steps = s.steps[1:]
	if r.URL.Path != now.path || !strings.Contains(string(jws.Payload), now.payload) {
		s.t.Errorf("asked %s with %q, the script has %s with %q", r.URL.Path, jws.Payload, now.path, now.payload)
	}
	if name, value, ok := strings.Cut(now.header, ": "); ok {
		w.Header().Set(name, strings.ReplaceAll(value, "{}", s.URL))
	}
	if now.status >= 400 {
		w.Header().Set("Content-Type", acme.ProblemType)
	}
	w.WriteHeader(now.status)
	io.WriteString(w, strings.ReplaceAll(now.body, "{}", s.URL))
}

func problemBody(code fault.Code) string {
	return fmt.Sprintf(`{"type":%q,"detail":"as the script says"}`, acme.TypeURI(code))
}

var registered = step{path: "/account", status: 201, header: "Location: {}/acct/1", body: `{"status":"valid"}`, payload: `"termsOfServiceAgreed":true`}

// newTestIssue returns the benchmark against s with one client.
func newTestIssue(t *testing.T, s *scripted) *Issue {
	t.Helper()
	b, err := NewIssue(t.Context(), IssueConfig{Directory: s.URL + "/dir", Transport: Transport{Timeout: 5 * time.Second, UserAgent: "test"},
		Challenge: challenge.HTTP01, HTTP01Listen: "127.0.0.1:0", Suffix: "bench.example", Names: 1, KeyType: pki.P256, AccountKeyType: pki.P256, Poll: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.open(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	orderBody = `{"status":"pending","identifiers":[],"authorizations":["{}/authz/1"],"finalize":"{}/finalize/1"}`
	authzBody = `{"status":"pending","identifier":{"type":"dns","value":"x.bench.example"},"challenges":[{"type":"dns-01","url":"{}/c/2","status":"pending","token":"t2"},{"type":"http-01","url":"{}/c/1","status":"pending","token":"t1"}]}`
	pemBody   = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
)

// A server that answers when it is done needs five signed requests and, after
// the first nonce, nothing else.
func TestFiveRequestsWhenTheServerWaits(t *testing.T) {
	s := newScripted(t, registered,
		step{path: "/order", status: 201, header: "Location: {}/order/1", body: orderBody, payload: `{"identifiers":[{"type":"dns","value":"b`},
		step{path: "/authz/1", status: 200, body: authzBody},
		step{path: "/c/1", status: 200, body: `{"type":"http-01","status":"valid","url":"{}/c/1","token":"t1"}`, payload: "{}"},
		step{path: "/finalize/1", status: 200, body: `{"status":"valid","certificate":"{}/cert/1"}`, payload: `{"csr":"`},
		step{path: "/cert/1", status: 200, body: pemBody},
	)
	b := newTestIssue(t, s)
	var sample Sample
	if err := b.issue(t.Context(), 0, &sample); err != nil {
		t.Fatal(err)
	}
	if sample.Requests != 6 || sample.Retries != 0 { // one of them for the session's first nonce
		t.Errorf("%d requests, %d retries", sample.Requests, sample.Retries)
	}
	for i, name := range IssuePhases() {
		if sample.Phases[i] <= 0 {
			t.Errorf("phase %s took no time", name)
		}
	}
}

// A server that does everything later, hands out bad nonces and is not ready
// when it should be is followed patiently.
func TestAPatientClientGetsItsCertificate(t *testing.T) {
	s := newScripted(t, registered,
		step{path: "/order", status: 400, body: problemBody(fault.BadNonce)},
		step{path: "/order", status: 201, header: "Location: {}/order/1", body: orderBody},
		step{path: "/authz/1", status: 200, body: authzBody},
		step{path: "/c/1", status: 200, body: `{"type":"http-01","status":"processing"}`},
		step{path: "/authz/1", status: 200, header: "Retry-After: 30", body: authzBody},
		step{path: "/authz/1", status: 400, body: problemBody(fault.BadNonce)},
		step{path: "/authz/1", status: 200, body: strings.Replace(authzBody, "pending", "valid", 1)},
		step{path: "/finalize/1", status: 403, body: problemBody(fault.OrderNotReady), payload: "csr"},
		step{path: "/order/1", status: 200, body: orderBody},
		step{path: "/order/1", status: 200, body: `{"status":"ready"}`},
		step{path: "/finalize/1", status: 200, body: `{"status":"processing"}`, payload: "csr"},
		step{path: "/order/1", status: 200, body: `{"status":"processing"}`},
		step{path: "/order/1", status: 200, body: `{"status":"valid","certificate":"{}/cert/1"}`},
		step{path: "/cert/1", status: 200, body: pemBody},
	)
	var sample Sample
	if err := newTestIssue(t, s).issue(t.Context(), 0, &sample); err != nil {
		t.Fatal(err)
	}
	if sample.Retries != 2 {
		t.Errorf("%d retries, want one per bad nonce", sample.Retries)
	}
}

// An authorization that is already valid needs no challenge.
func TestAReusedAuthorizationNeedsNoChallenge(t *testing.T) {
	s := newScripted(t, registered,
		step{path: "/order", status: 201, header: "Location: {}/order/1", body: orderBody},
		step{path: "/authz/1", status: 200, body: strings.Replace(authzBody, "pending", "valid", 1)},
		step{path: "/finalize/1", status: 200, body: `{"status":"valid","certificate":"{}/cert/1"}`},
		step{path: "/cert/1", status: 200, body: pemBody},
	)
	if err := newTestIssue(t, s).issue(t.Context(), 0, &Sample{}); err != nil {
		t.Fatal(err)
	}
}

func TestRefusalsKeepTheirClass(t *testing.T) {
	newOrder := step{path: "/order", status: 201, header: "Location: {}/order/1", body: orderBody}
	authz := step{path: "/authz/1", status: 200, body: authzBody}
	invalid := `{"type":"http-01","status":"invalid","error":{"type":"urn:ietf:params:acme:error:connection","detail":"refused","status":400}}`
	for name, c := range map[string]struct {
		class string
		steps []step
	}{
		"rate limit":     {"429 rateLimited", []step{{path: "/order", status: 429, header: "Retry-After: 7", body: problemBody(fault.RateLimited)}}},
		"overload":       {"503", []step{{path: "/order", status: 503, body: "<html>busy</html>"}}},
		"validation":     {"400 connection", []step{newOrder, authz, {path: "/c/1", status: 200, body: invalid}}},
		"later":          {"400 connection", []step{newOrder, authz, {path: "/c/1", status: 200, body: `{"status":"pending"}`}, {path: "/authz/1", status: 200, body: `{"status":"invalid","challenges":[` + invalid + `]}`}}},
		"no such type":   {"other", []step{newOrder, {path: "/authz/1", status: 200, body: `{"status":"pending","challenges":[]}`}}},
		"not PEM":        {"verify", []step{newOrder, {path: "/authz/1", status: 200, body: `{"status":"valid"}`}, {path: "/finalize/1", status: 200, body: `{"status":"valid","certificate":"{}/cert/1"}`}, {path: "/cert/1", status: 200, body: "<html>"}}},
		"endless nonces": {"400 badNonce", []step{bad, bad, bad, bad, bad, bad}},
	} {
		s := newScripted(t, append([]step{registered}, c.steps...)...)
		err := newTestIssue(t, s).issue(t.Context(), 0, &Sample{})
		if err == nil || classOf(err) != c.class {
			t.Errorf("%s: class %q of %v, want %q", name, classOf(err), err, c.class)
		}
		if name == "rate limit" && retryAfter(err) != 7*time.Second {
			t.Errorf("%s: Retry-After %v", name, retryAfter(err))
		}
	}
}

var bad = step{path: "/order", status: 400, body: problemBody(fault.BadNonce)}

// Accounts are bound to an external one when asked to, and shared when asked to.
func TestAccountsAreSharedAndBound(t *testing.T) {
	s := newScripted(t, step{path: "/account", status: 201, header: "Location: {}/acct/1", body: `{}`, payload: `"externalAccountBinding":{`})
	b, err := NewIssue(t.Context(), IssueConfig{Directory: s.URL + "/dir", Transport: Transport{Timeout: 5 * time.Second}, Challenge: challenge.HTTP01, HTTP01Listen: "127.0.0.1:0",
		Suffix: "bench.example", Names: 1, KeyType: pki.P256, AccountKeyType: pki.Ed25519, Accounts: 1, EABKeyID: "kid-1", EABKey: make([]byte, 32), Reuse: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.open(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	if len(b.accounts) != 1 || len(b.clients) != 5 || b.clients[4].kid != s.URL+"/acct/1" || b.clients[4].key == nil {
		t.Errorf("%d accounts, %d clients", len(b.accounts), len(b.clients))
	}
}

func TestConfigurationsThatCannotWork(t *testing.T) {
	s := newScripted(t)
	good := IssueConfig{Directory: s.URL + "/dir", Transport: Transport{Timeout: time.Second}, Challenge: challenge.HTTP01, HTTP01Listen: "127.0.0.1:0",
		Suffix: "bench.example", Names: 1, KeyType: pki.P256, AccountKeyType: pki.P256}
	for name, spoil := range map[string]func(*IssueConfig){
		"no names":        func(c *IssueConfig) { c.Names = 0 },
		"key type":        func(c *IssueConfig) { c.KeyType = "rsa" },
		"suffix":          func(c *IssueConfig) { c.Suffix = "a b" },
		"challenge":       func(c *IssueConfig) { c.Challenge = "carrier-pigeon-01" },
		"not a directory": func(c *IssueConfig) { c.Directory = s.URL + "/nonce" },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := NewIssue(t.Context(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	w := newTestCA(t)
	key, err := keys.Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	other, err := keys.Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	chain, now := w.issue(t, key.Public(), "a.example", "b.example"), time.Now()
	if err := verifyChain(chain, key.Public(), []string{"b.example", "a.example"}, w.pool, now); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another key":  verifyChain(chain, other.Public(), []string{"a.example", "b.example"}, w.pool, now),
		"a name less":  verifyChain(chain, key.Public(), []string{"a.example", "b.example", "c.example"}, w.pool, now),
		"a name more":  verifyChain(chain, key.Public(), []string{"a.example"}, w.pool, now),
		"another root": verifyChain(chain, key.Public(), []string{"a.example", "b.example"}, newTestCA(t).pool, now),
		"expired":      verifyChain(chain, key.Public(), []string{"a.example", "b.example"}, w.pool, now.Add(100*time.Hour)),
		"no PEM":       verifyChain([]byte("x"), key.Public(), nil, w.pool, now),
	} {
		if !errors.Is(err, errVerify) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// API and OCSP: what is asked, and which answers are failures.
func TestAPIAsksConditionally(t *testing.T) {
	var conditional, full int
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/bare":
		case r.Header.Get("If-None-Match") == `"v1"`:
			conditional++
			w.WriteHeader(http.StatusNotModified)
		default:
			full++
			w.Header().Set("ETag", `"v1"`)
			json.NewEncoder(w).Encode([]int{1})
		}
	}))
	t.Cleanup(srv.Close)
	ask := func(cfg APIConfig, times int) (err error) {
		cfg.Transport = Transport{Timeout: time.Second}
		a, err := NewAPI(cfg)
		if err != nil {
			return err
		}
		defer a.Close()
		w := a.Workload()
		if err := w.Open(t.Context(), 1); err != nil {
			return err
		}
		for range times {
			err = errors.Join(err, w.Do(context.WithoutCancel(t.Context()), 0, &Sample{}))
		}
		return err
	}
	if err := ask(APIConfig{URLs: []string{srv.URL + "/list"}, Token: "secret", Conditional: true}, 5); err != nil || full != 1 || conditional != 4 {
		t.Errorf("%v: %d full, %d conditional", err, full, conditional)
	}
	if err := ask(APIConfig{URLs: []string{srv.URL + "/list"}, Token: "wrong"}, 1); classOf(err) != "401" {
		t.Errorf("wrong token: %v", err)
	}
	if err := ask(APIConfig{URLs: []string{srv.URL + "/bare"}, Token: "secret", Conditional: true}, 1); err == nil {
		t.Error("a page without ETag passed as conditional")
	}
	if err := ask(APIConfig{}, 0); !fault.Is(err, fault.Invalid) {
		t.Errorf("no URL: %v", err)
	}
	if err := ask(APIConfig{URLs: []string{srv.URL}, Token: "a\r\nb"}, 0); !fault.Is(err, fault.Invalid) {
		t.Errorf("line break in a header: %v", err)
	}
}
