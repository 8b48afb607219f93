package obs

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Tracer begins traces. It travels in the context that everything is run with
// (WithTracer), so that no package needs a field for it. Without one nothing is
// traced, and the calls below cost a look into the context and no memory.
type Tracer struct{ otel trace.Tracer }

// traced is set when a Tracer is made: until then no context has a span, and a look
// through all that one is made of can be spared.
var traced atomic.Bool

// NewTracer returns a Tracer over one of OpenTelemetry; obs/otlp makes those.
func NewTracer(t trace.Tracer) *Tracer {
	traced.Store(true)
	return &Tracer{t}
}

// tracerKey finds the Tracer in a context.
type tracerKey struct{}

// WithTracer returns a context under which traces are begun by t; nil: none are.
func WithTracer(ctx context.Context, t *Tracer) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, t)
}

// TracerOf returns the Tracer of ctx, or nil.
func TracerOf(ctx context.Context) *Tracer {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	return t
}

// Span is one timed step of a trace that is recorded. A nil *Span takes every
// call and does nothing.
//
// Values are names, numbers and words of the program; never a secret, a key or
// the body of a request.
type Span struct{ otel trace.Span }

// Serve begins the span of a request that came from outside, below the trace
// that its traceparent names, if any. The Trace is for the log: it is valid
// whether the span is recorded or not. t may be nil.
func (t *Tracer) Serve(ctx context.Context, name, traceparent string) (context.Context, *Span, Trace) {
	from := ParseTrace(traceparent)
	if t == nil {
		return ctx, nil, from.Child()
	}
	if from.Valid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: from.trace, SpanID: from.span, TraceFlags: trace.TraceFlags(from.flags), Remote: true}))
	}
	ctx, s := t.otel.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	sc := s.SpanContext()
	at := Trace{trace: sc.TraceID(), span: sc.SpanID(), flags: byte(sc.TraceFlags())}
	if !s.IsRecording() {
		return ctx, nil, at
	}
	return ctx, &Span{s}, at
}

// Begin begins a span: a part of the one in ctx, or else a trace of its own, for
// work that nobody asked for just now.
func Begin(ctx context.Context, name string) (context.Context, *Span) {
	if t := TracerOf(ctx); t != nil && !trace.SpanContextFromContext(ctx).IsValid() {
		return started(t.otel.Start(ctx, name))
	}
	return Step(ctx, name)
}

// Step begins a span as a part of the one in ctx. Where nothing is recorded it
// returns ctx and nil.
func Step(ctx context.Context, name string) (context.Context, *Span) {
	return step(ctx, name, trace.SpanKindInternal)
}

// Ask is Step for a request to somebody else.
func Ask(ctx context.Context, name string) (context.Context, *Span) {
	return step(ctx, name, trace.SpanKindClient)
}

func step(ctx context.Context, name string, kind trace.SpanKind) (context.Context, *Span) {
	if !traced.Load() {
		return ctx, nil
	}
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nil
	}
	t := TracerOf(ctx)
	if t == nil {
		return ctx, nil
	}
	return started(t.otel.Start(ctx, name, trace.WithSpanKind(kind)))
}

func started(ctx context.Context, s trace.Span) (context.Context, *Span) {
	if !s.IsRecording() {
		return ctx, nil
	}
	return ctx, &Span{s}
}

// Carry puts the span of from into to: for work that a request began and that
// outlives it.
func Carry(from, to context.Context) context.Context {
	if !traced.Load() {
		return to
	}
	s := trace.SpanFromContext(from)
	if !s.IsRecording() {
		return to
	}
	return WithTracer(trace.ContextWithSpan(to, s), TracerOf(from))
}

// Name renames the span.
func (s *Span) Name(name string) {
	if s != nil {
		s.otel.SetName(name)
	}
}

// Str adds a value.
func (s *Span) Str(key, value string) {
	if s != nil {
		s.otel.SetAttributes(attribute.String(key, value))
	}
}

// Int adds a number.
func (s *Span) Int(key string, value int) {
	if s != nil {
		s.otel.SetAttributes(attribute.Int(key, value))
	}
}

// End ends the span. An error that is not the caller's fault marks it as
// failed; one that is, only says so.
func (s *Span) End(err error) {
	if s == nil {
		return
	}
	if err != nil {
		var blame interface{ Status() int }
		s.otel.SetAttributes(attribute.String("error.message", err.Error()))
		if !errors.As(err, &blame) || blame.Status() >= 500 {
			s.otel.SetStatus(codes.Error, err.Error())
		}
	}
	s.otel.End()
}
