package cloudtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Suite describes a kind to Run.
type Suite struct {
	Kind  cloud.Kind
	Start func(testing.TB) *Server
	// List and Get are the operations that list, and that fetch one ("": the
	// list has the certificates).
	List, Get string
	PageSize  int  // items of a full page of the real service
	Tokens    bool // pages have tokens
	Tags      bool // certificates have tags
	// Name makes the name of an item; nil: "c1", ...
	Name func(i int) string
}

// Run holds a kind against what every source must do.
func Run(t *testing.T, u Suite) {
	for name, f := range map[string]func(*testing.T, Suite){"lists everything": everything, "known certificates cost the list alone": known,
		"throttles slow it down": throttles, "failures pass": failures, "refusals are explained": refusals, "endless answers end": endless,
		"the same page again is an error": loops, "redirects are not followed": redirects, "a broken certificate spares the others": broken,
		"it ends when told to": cancelled, "check needs one request": check} {
		t.Run(name, func(t *testing.T) { f(t, u) })
	}
}

// world is a server with n certificates, and a source that reads it.
type world struct {
	*Server
	src   cloud.Source
	reg   *prometheus.Registry
	certs map[string][]byte
}

func (u *Suite) world(t *testing.T, n int) *world {
	t.Helper()
	w := &world{Server: u.Start(t), reg: prometheus.NewRegistry(), certs: map[string][]byte{}}
	for i, der := range Certificates(t, n, "cloud.test") {
		name := fmt.Sprintf("c%d", i)
		if u.Name != nil {
			name = u.Name(i)
		}
		w.certs[name] = der
		w.Put(Item{Name: name, DER: der, Tags: map[string]string{"team": "pay"}})
	}
	w.src = w.Open(t, u.Kind, cloud.NewGates(w.reg))
	return w
}

// hurry gives the source a rate that no real provider has.
func (w *world) hurry(t *testing.T, u *Suite) {
	t.Helper()
	w.Rate = cloud.Rate{PerSecond: 1e5, Burst: 1e5}
	w.src = w.Open(t, u.Kind, cloud.NewGates(nil))
}

// List collects a list.
func List(ctx context.Context, src cloud.Source, since cloud.Since) (certs []cloud.Cert, err error) {
	for c, err := range src.List(ctx, since) {
		if err != nil {
			return certs, err
		}
		if c.Ref != "" {
			certs = append(certs, c)
		}
	}
	return certs, nil
}

func (w *world) list(t *testing.T, since cloud.Since) []cloud.Cert {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	certs, err := List(ctx, w.src, since)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// same fails unless certs are those of the server.
func (w *world) same(t *testing.T, u *Suite, certs []cloud.Cert) {
	t.Helper()
	have, refs := map[string]bool{}, map[string]bool{}
	for i := range certs {
		c := &certs[i]
		if err := c.Check(); err != nil || c.Err != nil || c.DER == nil {
			t.Fatalf("%s: %v, %v, %d bytes", c.Ref, err, c.Err, len(c.DER))
		}
		if refs[c.Ref] {
			t.Errorf("%s comes twice", c.Ref)
		}
		refs[c.Ref], have[string(c.DER)] = true, true
		if u.Tags && c.Tags["team"] != "pay" {
			t.Errorf("%s has the tags %v", c.Ref, c.Tags)
		}
	}
	for name, der := range w.certs {
		if !have[string(der)] {
			t.Errorf("%s is missing", name)
		}
	}
	if len(certs) != len(w.certs) {
		t.Errorf("%d of %d", len(certs), len(w.certs))
	}
}

func everything(t *testing.T, u Suite) {
	w := u.world(t, u.PageSize*2+3)
	w.hurry(t, &u)
	w.same(t, &u, w.list(t, cloud.Since{}))
	if want := 3; u.Tokens && w.Requests(u.List) < want {
		t.Errorf("%d requests for %d pages", w.Requests(u.List), want)
	}
}

func known(t *testing.T, u Suite) {
	w := u.world(t, 12)
	versions := map[string]string{}
	for _, c := range w.list(t, cloud.Since{}) {
		versions[c.Ref] = c.Version
	}
	w.Reset()
	since := cloud.Since{Known: func(_ context.Context, items []cloud.Item) ([]bool, error) {
		out := make([]bool, len(items))
		for i := range items {
			out[i] = versions[items[i].Ref] == items[i].Version
		}
		return out, nil
	}}
	for _, c := range w.list(t, since) {
		if c.DER != nil {
			t.Errorf("%s was fetched again", c.Ref)
		}
	}
	if n := w.Requests(u.Get); u.Get != "" && n != 0 {
		t.Errorf("%d certificates were fetched again", n)
	}
	var name string
	for name = range w.certs {
		break
	}
	fresh := Certificates(t, 1, "renewed.test")[0]
	w.Put(Item{Name: name, DER: fresh, Revoked: true})
	var news []cloud.Cert
	for _, c := range w.list(t, since) {
		if c.DER != nil {
			news = append(news, c)
		}
	}
	if len(news) != 1 || !bytes.Equal(news[0].DER, fresh) {
		t.Errorf("after a renewal %d are news", len(news))
	}
}

// Sum adds up the series of a metric, of those with a label value if one is
// given.
func Sum(t testing.TB, reg *prometheus.Registry, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			match := f.GetName() == name
			for i := 0; i+1 < len(labels); i += 2 {
				found := false
				for _, l := range m.Label {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				match = match && found
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func throttles(t *testing.T, u Suite) {
	w := u.world(t, 6)
	w.Do(func() {
		w.Fault = func(op string, n int) *Fault {
			if op == u.List && n == 1 || op == u.Get && n%3 == 1 && n < 6 {
				return &Fault{Status: 429, Header: http.Header{"Retry-After": {"1"}}}
			}
			return nil
		}
	})
	begin := time.Now()
	w.same(t, &u, w.list(t, cloud.Since{}))
	if took := time.Since(begin); took < time.Second {
		t.Errorf("Retry-After: 1 was not honoured: %s", took)
	}
	if n := Sum(t, w.reg, "chancery_source_throttles_total"); n < 1 {
		t.Errorf("%v throttles were counted", n)
	}
	full := 0.0
	quiet := u.world(t, 1)
	quiet.list(t, cloud.Since{})
	full = Sum(t, quiet.reg, "chancery_source_rate", "operation", u.List)
	if now := Sum(t, w.reg, "chancery_source_rate", "operation", u.List); now >= full*0.75 || now <= 0 {
		t.Errorf("after a throttle the rate is %v, before %v", now, full)
	}
}

func failures(t *testing.T, u Suite) {
	w := u.world(t, 4)
	w.Do(func() {
		w.Fault = func(op string, n int) *Fault {
			if (op == u.List || op == u.Get) && n <= 2 {
				return &Fault{Status: 500, Body: "oops"}
			}
			return nil
		}
	})
	w.same(t, &u, w.list(t, cloud.Since{}))
	w.Reset()
	w.Do(func() { w.Fault = func(string, int) *Fault { return &Fault{Status: 500} } })
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := List(ctx, w.src, cloud.Since{}); err == nil {
		t.Error("a list that always fails is no error")
	}
}

func refusals(t *testing.T, u Suite) {
	w := u.world(t, 1)
	w.Do(func() {
		w.Fault = func(op string, _ int) *Fault {
			if op == u.List {
				return &Fault{Status: 403, Body: "{}"}
			}
			return nil
		}
	})
	if _, err := List(context.Background(), w.src, cloud.Since{}); !fault.Is(err, fault.Precondition) {
		t.Errorf("credentials without permission: %v", err)
	}
	if n := w.Requests(u.List); n > 2 {
		t.Errorf("%d attempts with credentials that are refused", n)
	}
}

func endless(t *testing.T, u Suite) {
	w := u.world(t, 1)
	w.Do(func() {
		w.Fault = func(op string, n int) *Fault {
			if op == u.List {
				return &Fault{Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"x": "`, Endless: true}
			}
			return nil
		}
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := List(ctx, w.src, cloud.Since{}); err == nil {
		t.Error("an answer without an end was taken")
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 600<<20 {
		t.Errorf("it took %d MB of memory", grown>>20)
	}
}

func loops(t *testing.T, u Suite) {
	if !u.Tokens {
		t.Skip("this list has no pages")
	}
	w := u.world(t, 4)
	w.Do(func() { w.Loop, w.PageSize = true, 2 })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := List(ctx, w.src, cloud.Since{}); err == nil || ctx.Err() != nil {
		t.Errorf("a list that goes in circles: %v", err)
	}
}

func redirects(t *testing.T, u Suite) {
	w := u.world(t, 1)
	var asked atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer thief.Close()
	w.Do(func() {
		w.Fault = func(op string, _ int) *Fault {
			if op == u.List {
				return &Fault{Status: 307, Header: http.Header{"Location": {thief.URL}}}
			}
			return nil
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := List(ctx, w.src, cloud.Since{}); err == nil || asked.Load() > 0 {
		t.Errorf("a redirect: %v, followed %d times", err, asked.Load())
	}
}

func broken(t *testing.T, u Suite) {
	w := u.world(t, 3)
	var name string
	for name = range w.certs {
		break
	}
	w.Put(Item{Name: name})
	good, bad := 0, 0
	for _, c := range w.list(t, cloud.Since{}) {
		if c.Err != nil {
			bad++
		} else if c.DER != nil {
			good++
		}
	}
	if good != 2 || bad != 1 {
		t.Errorf("%d good, %d bad", good, bad)
	}
}

func cancelled(t *testing.T, u Suite) {
	w := u.world(t, 3)
	w.Do(func() { w.Delay = time.Minute })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := List(ctx, w.src, cloud.Since{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 10*time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}

func check(t *testing.T, u Suite) {
	w := u.world(t, u.PageSize+1)
	c, ok := w.src.(cloud.Checker)
	if !ok {
		t.Fatal("the source cannot check itself")
	}
	if err := c.Check(context.Background()); err != nil || w.Requests(u.Get) != 0 {
		t.Error(err)
	}
	if n := w.Requests(u.List); n < 1 || n > 2 { // Azure asks for the way to sign in first
		t.Errorf("%d requests", n)
	}
}
