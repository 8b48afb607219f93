// Package otlp sends traces to a collector: OpenTelemetry's SDK and its OTLP
// exporter over HTTP (protobuf, OTLP 1.x section "OTLP/HTTP"), made the way the
// rest of the program is: nothing global, failures in our log and metrics.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"chancery/internal/obs"
)

// Config says where traces go.
type Config struct {
	// Endpoint is the URL that spans are posted to, path included.
	Endpoint string

	// Headers go with each request: what the collector wants to see.
	Headers map[string]string

	// Ratio is the share of traces that are recorded, 0 to 1. A caller may ask
	// for less: who sends a traceparent must not choose what we spend.
	Ratio float64

	// Instance tells replicas apart.
	Instance string

	Build    obs.Build
	Log      *slog.Logger          // nil: discard
	Registry prometheus.Registerer // nil: not measured
}

// Bounds of what is kept and sent.
const (
	queueSize   = 4096 // spans that wait; more are dropped, nobody ever waits
	batchSize   = 512
	batchDelay  = 2 * time.Second
	sendTimeout = 10 * time.Second
	maxValue    = 1024 // bytes of one value of a span
)

// Exporter records spans and sends them.
type Exporter struct {
	provider *trace.TracerProvider
	tracer   *obs.Tracer
}

// New returns a running exporter; Close it. Nothing is sent before the first
// span ends, so a collector that is down stops nothing.
func New(ctx context.Context, cfg Config) (*Exporter, error) {
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	opts := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(cfg.Endpoint), otlptracehttp.WithTimeout(sendTimeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression)}
	if len(cfg.Headers) > 0 { // none given: those of the environment stay
		opts = append(opts, otlptracehttp.WithHeaders(cfg.Headers))
	}
	to, err := otlptracehttp.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("open trace exporter: %w", err)
	}
	s := &sender{SpanExporter: to, log: cfg.Log, spans: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "chancery_trace_spans_total", Help: "Spans by outcome: sent to the collector, or lost."}, []string{"outcome"})}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(s.spans)
	}
	ratio := trace.TraceIDRatioBased(cfg.Ratio)
	limits := trace.NewSpanLimits()
	limits.AttributeValueLengthLimit = maxValue
	p := trace.NewTracerProvider(
		trace.WithBatcher(s, trace.WithMaxQueueSize(queueSize), trace.WithMaxExportBatchSize(batchSize),
			trace.WithBatchTimeout(batchDelay), trace.WithExportTimeout(sendTimeout)),
		trace.WithSampler(trace.ParentBased(ratio, trace.WithRemoteParentSampled(ratio))),
		trace.WithRawSpanLimits(limits),
		trace.WithResource(resource.NewSchemaless(attribute.String("service.name", "chancery"),
			attribute.String("service.version", cfg.Build.Version), attribute.String("service.instance.id", cfg.Instance))))
	return &Exporter{p, obs.NewTracer(p.Tracer("chancery"))}, nil
}

// Tracer returns what begins traces.
func (e *Exporter) Tracer() *obs.Tracer { return e.tracer }

// Close sends what is left, for at most as long as ctx lasts.
func (e *Exporter) Close(ctx context.Context) error {
	if err := e.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("close trace exporter: %w", err)
	}
	return nil
}

// sender counts what is sent, and keeps failures out of the library's own
// global handler.
type sender struct {
	trace.SpanExporter
	log   *slog.Logger
	spans *prometheus.CounterVec
}

// ExportSpans implements trace.SpanExporter. A failure loses the batch; the
// exporter below has tried again already.
func (s *sender) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	outcome := "sent"
	if err := s.SpanExporter.ExportSpans(ctx, spans); err != nil {
		outcome = "lost"
		s.log.LogAttrs(ctx, slog.LevelWarn, "traces were not sent", slog.Int("spans", len(spans)), slog.Any("error", err))
	}
	s.spans.WithLabelValues(outcome).Add(float64(len(spans)))
	return nil
}

// maxHeaderFile bounds a file with headers, in bytes.
const maxHeaderFile = 16 << 10

// ReadHeaders reads a file of "Name: value" lines; empty lines and lines that
// begin with # say nothing.
func ReadHeaders(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read trace headers: %w", err)
	}
	return ParseHeaders(string(text))
}

// ParseHeaders is ReadHeaders for the text of the file. Its errors do not show
// the text, which is a secret as a rule.
func ParseHeaders(text string) (map[string]string, error) {
	if len(text) > maxHeaderFile {
		return nil, errors.New("trace headers are longer than 16 KiB")
	}
	out := map[string]string{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); !ok || !token(name) || strings.ContainsFunc(value, control) {
			return nil, fmt.Errorf("line %d of the trace headers is not \"Name: value\"", n)
		}
		out[name] = strings.TrimSpace(value)
	}
	return out, nil
}

// token reports whether s can name a header (RFC 9110 section 5.6.2).
func token(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c))
	})
}

func control(c rune) bool { return c != '\t' && (c < ' ' || c == 0x7f) }
