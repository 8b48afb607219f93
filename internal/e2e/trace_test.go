package e2e

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"chancery/internal/api"
	apiclient "chancery/internal/api/client"
)

// traceSink is a collector: it takes OTLP over HTTP in protobuf.
type traceSink struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*tracepb.Span
	service string // of the last resource
	faults  []string
}

func startSink(t *testing.T) *traceSink {
	t.Helper()
	s := &traceSink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.take(r); err != nil {
			s.mu.Lock()
			s.faults = append(s.faults, err.Error())
			s.mu.Unlock()
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *traceSink) take(r *http.Request) error {
	if r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || r.Header.Get("X-Collector-Key") != "s3cret" {
		return fmt.Errorf("%s %s, %v", r.Method, r.URL.Path, r.Header)
	}
	body, err := gzip.NewReader(r.Body)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	var req collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(text, &req); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range req.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			if a.Key == "service.name" {
				s.service = a.Value.GetStringValue()
			}
		}
		for _, ss := range rs.ScopeSpans {
			s.spans = append(s.spans, ss.Spans...)
		}
	}
	return nil
}

// path is the names of a span and of what it is a part of, the outermost first.
func (s *traceSink) path(span *tracepb.Span) string {
	names := []string{span.Name}
	for {
		i := slices.IndexFunc(s.spans, func(x *tracepb.Span) bool { return string(x.SpanId) == string(span.ParentSpanId) })
		if i < 0 {
			slices.Reverse(names)
			return strings.Join(names, " > ")
		}
		span = s.spans[i]
		names = append(names, span.Name)
	}
}

// paths maps every path that was seen to its trace ids.
func (s *traceSink) paths() map[string][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string][]string{}
	for _, span := range s.spans {
		p := s.path(span)
		out[p] = append(out[p], hex.EncodeToString(span.TraceId))
	}
	return out
}

// traced sends a traceparent with every request.
type traced struct {
	next   http.RoundTripper
	parent string
}

func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Traceparent", t.parent)
	return t.next.RoundTrip(r)
}

// scanOnce runs a schedule of one target and waits for its pass.
func scanOnce(t *testing.T, admin *apiclient.Client, target string) {
	t.Helper()
	v, err := apiclient.Post[api.Schedule](t.Context(), admin, "/scan/schedules", api.ScheduleSpec{Name: "traced", Targets: target, Interval: "1d"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		passes, _, err := apiclient.List[api.Pass](t.Context(), admin, "/scan/passes", url.Values{"schedule": {v.ID}}, 1)
		if err == nil && (len(passes) == 0 || passes[0].State == "running") {
			err = fmt.Errorf("passes %+v", passes)
		}
		return err
	})
}

// TestTraces: one issuance and one renewal arrive at a collector as whole
// traces, and the log has the id of the trace that the client began.
func TestTraces(t *testing.T) {
	t.Parallel()
	sink := startSink(t)
	s := newSite(t)
	s.resolve("traced.test")
	headers := filepath.Join(t.TempDir(), "headers")
	writeFile(t, headers, "# of the collector\nX-Collector-Key: s3cret\n", 0o600)
	p := s.start("CHANCERY_TRACE_ENDPOINT="+sink.URL+"/v1/traces", "CHANCERY_TRACE_SAMPLE_PERCENT=100", "CHANCERY_TRACE_HEADERS_FILE="+headers,
		"CHANCERY_LOG_FORMAT=json")

	const ours = "0af7651916cd43dd8448eb211c80319c"
	c := newClient(t, p)
	c.web = &http.Client{Transport: traced{c.web.Transport, "00-" + ours + "-b7ad6b7169203331-01"}}
	order, o, err := c.order(t.Context(), "traced.test")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := request(newKey(t), "traced.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.finalize(t.Context(), order, o, csr); err != nil {
		t.Fatal(err)
	}
	// A caller that does not want its trace recorded gets its way.
	c.web = &http.Client{Transport: traced{c.web.Transport.(traced).next, "00-11111111111111111111111111111111-b7ad6b7169203331-00"}}
	if err := c.fetch(t.Context(), p.ready.Directory, nil); err == nil {
		t.Fatal("a directory was decoded into nothing")
	}

	admin, err := apiclient.New(apiclient.Config{Server: strings.TrimSuffix(p.ready.API, api.Prefix), HTTP: s.web(),
		Token: strings.TrimSpace(readFile(t, filepath.Join(s.data, "admin.token")))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := apiclient.Post[api.Managed](t.Context(), admin, "/managed", api.ManagedSpec{Name: "own", Names: []string{"renewed.test"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, func() error {
		m, err := apiclient.Get[api.Managed](t.Context(), admin, "/managed/own", nil)
		if err == nil && m.State != "idle" {
			err = fmt.Errorf("state %s", m.State)
		}
		return err
	})
	scanOnce(t, admin, s.listen)
	p.stop() // sends what is left

	if sink.service != "chancery" || len(sink.faults) > 0 {
		t.Errorf("service %q, faults %v", sink.service, sink.faults)
	}
	got := sink.paths()
	finalize := "POST /acme/{ca}/order/{id}/finalize"
	for _, want := range []string{
		"POST /acme/{ca}/new-order > acme.new_order > db.transaction",
		"POST /acme/{ca}/challenge/{authz}/{type} > acme.validate",
		finalize + " > acme.finalize > ca.issue > ca.sign",
		finalize + " > acme.finalize > ca.issue > db.transaction",
	} {
		if ids := got[want]; !slices.Contains(ids, ours) {
			t.Errorf("%s: traces %v, want %s", want, ids, ours)
		}
	}
	for _, want := range []string{
		"POST /api/v1/managed > db.transaction",
		"renew.issue > issuer.issue > ca.issue > ca.sign",
		"renew.issue > db.transaction",
		"scan.shard",
	} {
		if len(got[want]) == 0 || slices.Contains(got[want], ours) {
			t.Errorf("%s: traces %v", want, got[want])
		}
	}
	if t.Failed() {
		for path, ids := range got {
			t.Logf("%4d %s", len(ids), path)
		}
	}
	for path, ids := range got {
		if slices.Contains(ids, strings.Repeat("1", 32)) {
			t.Errorf("recorded against the caller's will: %s", path)
		}
	}
	if !strings.Contains(p.log.String(), `"trace_id":"`+ours+`"`) {
		t.Error("the log does not name the trace")
	}
	if strings.Contains(p.log.String(), "s3cret") {
		t.Error("the log has a header's value")
	}
}
