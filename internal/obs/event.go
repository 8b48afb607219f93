package obs

import (
	"context"
	"log/slog"
	"sync"
)

// Event is the unit of work that log lines belong to: one HTTP request or one
// tick of a loop. It is itself a context.Context, so beginning one costs a
// single allocation, and every log line written with that context (or a child
// of it) carries its ids and attributes.
//
// Attributes are added with Set while the work goes on; the owner writes them
// all in one wide line at the end.
type Event struct {
	context.Context

	RequestID string // shown to the user in problem documents, "" outside of requests
	Trace     Trace  // zero when the caller sent no traceparent and none was begun

	mu     sync.Mutex // guards attrs: a handler may fan out
	attrs  []slog.Attr
	inline [3]slog.Attr // first storage of attrs; most events need no more
}

// eventKey finds the Event in a context chain.
type eventKey struct{}

// NewEvent begins an event under ctx.
func NewEvent(ctx context.Context, requestID string, trace Trace) *Event {
	e := new(Event)
	e.Init(ctx, requestID, trace)
	return e
}

// Init begins an event in place, for owners that embed it in a larger
// allocation. The event must not be copied afterwards.
func (e *Event) Init(ctx context.Context, requestID string, trace Trace) {
	e.Context, e.RequestID, e.Trace = ctx, requestID, trace
	e.attrs = e.inline[:0]
}

// Value returns the event itself for its own key and defers to the parent.
func (e *Event) Value(key any) any {
	if _, ok := key.(eventKey); ok {
		return e
	}
	return e.Context.Value(key)
}

// Set adds attributes to the event; a key that is already there is replaced.
func (e *Event) Set(attrs ...slog.Attr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range attrs {
		e.set(a)
	}
}

// set replaces or appends one attribute. The caller holds mu.
func (e *Event) set(a slog.Attr) {
	for i := range e.attrs {
		if e.attrs[i].Key == a.Key {
			e.attrs[i] = a
			return
		}
	}
	e.attrs = append(e.attrs, a)
}

// Attrs calls add with each attribute, ids first.
func (e *Event) Attrs(add func(slog.Attr)) {
	if e.RequestID != "" {
		add(slog.String("request_id", e.RequestID))
	}
	if e.Trace.Valid() {
		add(slog.String("trace_id", e.Trace.TraceID()))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.attrs {
		add(a)
	}
}

// EventOf returns the event that ctx belongs to, or nil.
func EventOf(ctx context.Context) *Event {
	e, _ := ctx.Value(eventKey{}).(*Event)
	return e
}

// Set adds attributes to the event that ctx belongs to. Without an event it
// does nothing, so domain code need not know who called it.
func Set(ctx context.Context, attrs ...slog.Attr) {
	if e := EventOf(ctx); e != nil {
		e.Set(attrs...)
	}
}

// RequestID returns the request id of ctx, or "".
func RequestID(ctx context.Context) string {
	if e := EventOf(ctx); e != nil {
		return e.RequestID
	}
	return ""
}
