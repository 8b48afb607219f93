package obs

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// recorded returns a Tracer and what it records.
func recorded(sampler sdk.Sampler) (*Tracer, *tracetest.SpanRecorder) {
	rec := tracetest.NewSpanRecorder()
	return NewTracer(sdk.NewTracerProvider(sdk.WithSpanProcessor(rec), sdk.WithSampler(sampler)).Tracer("test")), rec
}

// untraced is what code does on its way when nothing is traced.
func untraced(ctx context.Context) {
	ctx, span, at := (*Tracer)(nil).Serve(ctx, "GET /", "")
	inner, step := Step(ctx, "step")
	step.Str("key", "value")
	step.Int("n", 1)
	_, ask := Ask(inner, "ask")
	_, begun := Begin(Carry(inner, ctx), "work")
	for _, s := range []*Span{span, step, ask, begun} {
		s.Name("x")
		s.End(nil)
	}
	if at.Valid() {
		panic("a trace out of nothing")
	}
}

func TestNothingTracedCostsNoMemory(t *testing.T) {
	ctx := context.Context(NewEvent(t.Context(), "r", Trace{}))
	if n := testing.AllocsPerRun(1000, func() { untraced(ctx) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkNothingTraced(b *testing.B) {
	ctx := context.Context(NewEvent(b.Context(), "r", Trace{}))
	b.ReportAllocs()
	for b.Loop() {
		untraced(ctx)
	}
}

// A trace that is not sampled costs no more below its first span.
func TestUnsampledTraceCostsNoMemoryBelow(t *testing.T) {
	tracer, rec := recorded(sdk.NeverSample())
	ctx, span, at := tracer.Serve(WithTracer(t.Context(), tracer), "GET /", "")
	if span != nil || !at.Valid() || at.Sampled() {
		t.Errorf("span %v at %v", span, at)
	}
	if n := testing.AllocsPerRun(1000, func() {
		_, s := Step(ctx, "step")
		s.End(nil)
		_, s = Begin(ctx, "work")
		s.End(nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := rec.Ended(); len(got) != 0 {
		t.Errorf("recorded %v", got)
	}
}

func TestSpansFollowTheCaller(t *testing.T) {
	tracer, rec := recorded(sdk.ParentBased(sdk.AlwaysSample()))
	base := WithTracer(t.Context(), tracer)
	ctx, span, at := tracer.Serve(base, "POST", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if at.TraceID() != "0af7651916cd43dd8448eb211c80319c" || at.SpanID() == "b7ad6b7169203331" || !at.Sampled() {
		t.Errorf("at %v", at)
	}
	_, step := Begin(ctx, "inner") // below a span it is a part of it
	step.End(errors.New("the disk is full"))
	later, outlives := Step(Carry(ctx, base), "later")
	span.Name("POST /x")
	span.End(status(403))
	outlives.End(nil)
	_, alone := Begin(base, "alone")
	alone.End(nil)
	if later == base {
		t.Error("the trace was not carried")
	}

	got := map[string]sdk.ReadOnlySpan{}
	for _, s := range rec.Ended() {
		got[s.Name()] = s
	}
	root := got["POST /x"]
	if root == nil || root.Parent().SpanID().String() != "b7ad6b7169203331" || root.Status().Code.String() != "Unset" {
		t.Fatalf("the request: %+v", root)
	}
	for _, name := range []string{"inner", "later"} {
		if s := got[name]; s == nil || s.Parent().SpanID() != root.SpanContext().SpanID() {
			t.Errorf("%s is no part of the request: %+v", name, s)
		}
	}
	if s := got["inner"]; s.Status().Code.String() != "Error" || s.Status().Description != "the disk is full" {
		t.Errorf("the failure: %+v", s.Status())
	}
	if s := got["alone"]; s == nil || s.Parent().IsValid() || s.SpanContext().TraceID() == root.SpanContext().TraceID() {
		t.Errorf("work that nobody asked for: %+v", s)
	}
}

// status is an error with an HTTP status.
type status int

func (s status) Error() string { return "status" }
func (s status) Status() int   { return int(s) }

func TestLogNamesTheTraceOfWorkInTheBackground(t *testing.T) {
	tracer, _ := recorded(sdk.AlwaysSample())
	var b bytes.Buffer
	log := NewLogger(&b, JSON, slog.LevelInfo)
	ctx, span := Begin(WithTracer(NewEvent(t.Context(), "", Trace{}), tracer), "work")
	defer span.End(nil)
	log.InfoContext(ctx, "done")
	if !strings.Contains(b.String(), `"trace_id":"`) || strings.Count(b.String(), "trace_id") != 1 {
		t.Errorf("%s", &b)
	}
}
