package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/httpd"

	"github.com/prometheus/client_golang/prometheus"
)

// server is an ACME server of one answer, behind chaos.
type server struct {
	*httptest.Server
	work atomic.Int64 // requests that reached it
}

func newServer(t *testing.T, spec string, registry prometheus.Registerer) *server {
	t.Helper()
	s, parsed := &server{}, parse(t, spec)
	mux := http.NewServeMux()
	mux.HandleFunc("HEAD /acme/default/new-nonce", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Replay-Nonce", "fresh") })
	mux.HandleFunc("POST /acme/default/", func(w http.ResponseWriter, r *http.Request) {
		s.work.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Replay-Nonce", "inner")
		body := `{"status":"valid","certificate":"https://x/cert","expires":"never"}`
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		io.WriteString(w, body)
	})
	mux.HandleFunc("GET /page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Length", "7")
		io.WriteString(w, "<h1>Hi!")
	})
	mux.HandleFunc("GET /json", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	s.Server = httptest.NewServer(New(parsed, registry, nil).Wrap(mux))
	t.Cleanup(s.Close)
	return s
}

func parse(t *testing.T, text string) Spec {
	t.Helper()
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// post sends a request, which may fail.
func (s *server) post(path string) (*http.Response, map[string]any, error) {
	resp, err := s.Client().Post(s.URL+path, "application/jose+json", strings.NewReader("{}"))
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var body map[string]any
	return resp, body, json.NewDecoder(resp.Body).Decode(&body)
}

// until repeats a request until ok, at a rate of 0.9 a matter of a few times.
func (s *server) until(t *testing.T, path string, ok func(*http.Response, map[string]any, error) bool) (*http.Response, map[string]any, error) {
	t.Helper()
	for range 500 {
		if resp, body, err := s.post(path); ok(resp, body, err) {
			return resp, body, err
		}
	}
	t.Fatal("the fault never came")
	return nil, nil, nil
}

func status(code int) func(*http.Response, map[string]any, error) bool {
	return func(r *http.Response, _ map[string]any, err error) bool { return err == nil && r.StatusCode == code }
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		spec, kind string
		status     int
		retry      string
	}{
		{"429=0.9,retry=7s,seed=1", "rateLimited", 429, "7"},
		{"503=0.9,seed=1", "serverInternal", 503, "1"},
		{"nonce=0.9,seed=1", "badNonce", 400, ""},
	} {
		registry := prometheus.NewRegistry()
		s := newServer(t, c.spec, registry)
		resp, body, _ := s.until(t, "/acme/default/new-order", status(c.status))
		if body["type"] != "urn:ietf:params:acme:error:"+c.kind || resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("Retry-After") != c.retry ||
			resp.Header.Get("Replay-Nonce") != "fresh" || resp.Header.Get(Header) == "" || !strings.HasPrefix(fmt.Sprint(body["detail"]), "chaos: ") {
			t.Errorf("%s: %v %v", c.spec, resp.Header, body)
		}
		resp, body, _ = s.until(t, "/acme/default/new-order", status(200))
		if body["status"] != "valid" || resp.Header.Get("Replay-Nonce") != "inner" || resp.Header.Get(Header) == "" {
			t.Errorf("%s lets through: %v %v", c.spec, resp.Header, body)
		}
		if counted, err := registry.Gather(); err != nil || s.work.Load() == 0 || len(counted) != 1 || counted[0].GetMetric()[0].GetCounter().GetValue() < 1 {
			t.Errorf("%s: %v, %v", c.spec, counted, err)
		}
	}
}

func TestLostAnswers(t *testing.T) {
	s := newServer(t, "lost=0.9,seed=1", nil)
	before := s.work.Load()
	_, _, err := s.until(t, "/acme/default/new-order", func(_ *http.Response, _ map[string]any, err error) bool { return err != nil })
	if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if s.work.Load() == before {
		t.Error("the answer was lost before the work was done")
	}
}

func TestSlowFinalize(t *testing.T) {
	s := newServer(t, "slow=0.9,delay=150ms,seed=1", nil)
	for range 20 {
		begin := time.Now()
		if _, _, err := s.post("/acme/default/new-order"); err != nil || time.Since(begin) > 100*time.Millisecond*20 {
			t.Fatal("another request was slow: ", err)
		}
	}
	var took time.Duration
	for range 20 {
		begin := time.Now()
		if _, _, err := s.post("/acme/default/order/1/finalize"); err != nil {
			t.Fatal(err)
		}
		took = max(took, time.Since(begin))
	}
	if took < 150*time.Millisecond {
		t.Errorf("the slowest of 20 took %s", took)
	}
}

// TestProcessing: the order says processing, at its own URL too, and without a
// certificate; later it is valid, and stays so.
func TestProcessing(t *testing.T) {
	s := newServer(t, "processing=0.9,hold=300ms,seed=1", nil)
	order := ""
	for i := range 100 {
		order = fmt.Sprintf("/acme/default/order/%d", i)
		if _, body, err := s.post(order + "/finalize"); err == nil && body["status"] == "processing" {
			break
		}
	}
	resp, body, err := s.post(order)
	if err != nil || body["status"] != "processing" || body["certificate"] != nil || body["expires"] != "never" || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%v %v", body, err)
	}
	if _, body, err := s.post("/acme/default/order/other"); err != nil || body["status"] != "valid" {
		t.Errorf("another order: %v %v", body, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for body["status"] == "processing" && time.Now().Before(deadline) {
		_, body, _ = s.post(order)
	}
	if body["status"] != "valid" || body["certificate"] == nil {
		t.Errorf("%v", body)
	}
	for range 20 {
		if _, body, err := s.post(order + "/finalize"); err != nil || body["status"] != "valid" {
			t.Fatalf("it went back: %v %v", body, err)
		}
	}
}

func TestEveryAnswerSaysSo(t *testing.T) {
	s := newServer(t, "lost=0.5,seed=9", nil)
	for path, want := range map[string]string{"/page": "misbehaves on purpose", "/json": "{}"} {
		resp, err := s.Client().Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) || resp.Header.Get(Header) != "lost=0.5,delay=3s,hold=3s,retry=1s,seed=9" {
			t.Errorf("%s: %s %v %v", path, body, resp.Header, err)
		}
	}
}

func TestTheSameSeedMeansTheSameFaults(t *testing.T) {
	sequence := func(seed string) (out string) {
		s := newServer(t, "429=0.3,503=0.3,nonce=0.3,seed="+seed, nil)
		for range 60 {
			resp, _, err := s.post("/acme/default/new-order")
			if err != nil {
				t.Fatal(err)
			}
			out += strconv.Itoa(resp.StatusCode) + " "
		}
		return out
	}
	if a, b := sequence("5"), sequence("5"); a != b {
		t.Errorf("%s\n%s", a, b)
	}
	if sequence("5") == sequence("6") {
		t.Error("another seed, the same faults")
	}
}

func TestSpecs(t *testing.T) {
	for _, text := range []string{"", "0", "1", "nan", "-0.1", "nonce", "nonce=x", "nonce=0.95", "nonce=NaN", "seed=3", "nonce=0.1,seed=0", "nonce=0.1,delay=x", "nonce=0.1,delay=1h",
		"nonce=0.1,hold=0s", "nonce=0.1,retry=-1s", "everything=0.1", "nonce=0.1,,lost=0.1"} {
		if s, err := Parse(text); err == nil {
			t.Errorf("%q became %+v", text, s)
		}
	}
	all := parse(t, "0.1")
	if all.Limited != 0.1 || all.Processing != 0.1 || all.Seed == 0 {
		t.Errorf("%+v", all)
	}
	if back := parse(t, all.String()); back != all {
		t.Errorf("%+v became %+v", all, back)
	}
}

// Behind chaos is the server's real HTTP layer, whose own recovery and logging
// must not turn a lost answer into something else.
func TestAroundTheRealServer(t *testing.T) {
	mux := httpd.NewMux(httpd.NewMetrics(prometheus.NewRegistry()))
	mux.Group(httpd.OwnTypes, nil).Handle("POST /acme/default/x", func(*httpd.Request) (*httpd.Reply, error) {
		return httpd.JSON(200, map[string]string{"status": "valid"})
	})
	ln := httpd.NewMemory()
	spec := parse(t, "lost=0.5,503=0.2,seed=3")
	done := make(chan error, 1)
	go func() {
		done <- httpd.New(httpd.Config{Handler: mux, Outside: New(spec, nil, nil).Wrap}).Run(t.Context(), ln)
	}()
	client := ln.Client(nil)
	got := map[string]int{}
	for range 60 {
		resp, err := client.Post("http://x.test/acme/default/x", "application/jose+json", strings.NewReader("{}"))
		if err != nil {
			got["lost"]++
			continue
		}
		resp.Body.Close()
		got[resp.Status[:3]]++
	}
	if got["lost"] < 10 || got["200"] < 10 || got["503"] < 2 || len(got) != 3 {
		t.Error(got)
	}
}
