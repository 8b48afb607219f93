package obs

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

// Format says how log lines are written.
type Format string

// Log formats.
const (
	Auto Format = "auto" // text on a terminal, JSON elsewhere
	JSON Format = "json"
	Text Format = "text"
)

// Valid reports whether f is a known format.
func (f Format) Valid() bool { return f == Auto || f == JSON || f == Text }

// NewLogger returns a logger whose lines carry the ids and attributes of the
// event their context belongs to. level may be a *slog.LevelVar, so that it
// can be turned while the program runs.
func NewLogger(w io.Writer, format Format, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if format == Text || (format == Auto && isTerminal(w)) {
		return slog.New(handler{slog.NewTextHandler(w, opts)})
	}
	return slog.New(handler{slog.NewJSONHandler(w, opts)})
}

// Discard returns a logger that writes nothing.
func Discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// handler adds the event's attributes to each record.
type handler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h handler) Handle(ctx context.Context, r slog.Record) error {
	e := EventOf(ctx)
	if e != nil {
		var few [10]slog.Attr
		attrs := few[:0]
		e.Attrs(func(a slog.Attr) { attrs = append(attrs, a) })
		r.AddAttrs(attrs...)
	}
	if traced.Load() && (e == nil || !e.Trace.Valid()) { // work that nobody asked for may be traced, too
		if at := trace.SpanContextFromContext(ctx); at.IsValid() {
			r.AddAttrs(slog.String("trace_id", at.TraceID().String()))
		}
	}
	if err := h.Handler.Handle(ctx, r); err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
