package otlp

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/obs"
)

func TestParseHeaders(t *testing.T) {
	got, err := ParseHeaders("# key of the collector\n\nX-Key: a: b\r\n Authorization:Bearer x \n")
	if diff := cmp.Diff(map[string]string{"X-Key": "a: b", "Authorization": "Bearer x"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{"secret", "a b: c", ": x", "x: a\x00b", strings.Repeat("#\n", maxHeaderFile)} {
		if _, err := ParseHeaders(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
}

func FuzzParseHeaders(f *testing.F) {
	f.Add("X-Key: value\n# comment\n")
	f.Add("a:\tb\r\n\r\n:c")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseHeaders(text)
		if err != nil {
			return
		}
		h := http.Header{}
		for name, value := range got {
			h.Set(name, value)
		}
		var b strings.Builder
		if err := h.Write(&b); err != nil || strings.Count(b.String(), "\r\n") != len(h) {
			t.Errorf("%q became %q", text, b.String())
		}
	})
}

// counted returns how many spans had an outcome.
func counted(t *testing.T, reg *prometheus.Registry, outcome string) float64 {
	t.Helper()
	r, err := obs.Read(reg)
	if err != nil {
		t.Fatal(err)
	}
	return r.Sum("chancery_trace_spans_total", "outcome", outcome)
}

// A collector that is away loses spans and nothing else.
func TestWhatIsNotTakenIsCounted(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusOK)
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
	defer sink.Close()
	for outcome, code := range map[string]int64{"sent": http.StatusOK, "lost": http.StatusBadRequest} {
		status.Store(code)
		reg := prometheus.NewRegistry()
		e, err := New(t.Context(), Config{Endpoint: sink.URL + "/v1/traces", Ratio: 1, Registry: reg})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, span := obs.Begin(obs.WithTracer(t.Context(), e.Tracer()), "work")
			span.End(nil)
		}
		if err := e.Close(t.Context()); err != nil {
			t.Errorf("%s: %v", outcome, err)
		}
		if got := counted(t, reg, outcome); got != 3 {
			t.Errorf("%v spans were %s, want 3", got, outcome)
		}
	}
}

// Who calls from outside may ask for less, never for more.
func TestCallersDoNotChooseWhatIsRecorded(t *testing.T) {
	sink := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer sink.Close()
	for _, c := range []struct {
		ratio  float64
		flags  string
		record bool
	}{{0, "01", false}, {0, "00", false}, {1, "01", true}, {1, "00", false}} {
		e, err := New(t.Context(), Config{Endpoint: sink.URL, Ratio: c.ratio})
		if err != nil {
			t.Fatal(err)
		}
		_, span, at := e.Tracer().Serve(t.Context(), "GET", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"+c.flags)
		if (span != nil) != c.record || at.TraceID() != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("ratio %v, flags %s: span %v at %v", c.ratio, c.flags, span, at)
		}
		span.End(nil)
		if err := e.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
