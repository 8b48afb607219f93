package api

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/obs"
)

// Problem is the body of every error (RFC 9457).
type Problem struct {
	Type      string         `json:"type" doc:"urn:chancery:error: and a code that programs can rely on"`
	Title     string         `json:"title,omitempty" doc:"What the HTTP status means"`
	Detail    string         `json:"detail" doc:"What is wrong, why, and what to do next"`
	Status    int            `json:"status" doc:"HTTP status"`
	RequestID string         `json:"requestId,omitempty" doc:"Under this id the server's log has the rest"`
	Errors    []FieldProblem `json:"errors,omitempty" doc:"Each part of the input that is wrong"`

	header http.Header
}

// FieldProblem is what is wrong with one part of the input. The value is not
// repeated: it may be a secret.
type FieldProblem struct {
	Location string `json:"location" doc:"Where: query.NAME, path.NAME or body.MEMBER"`
	Message  string `json:"message"`
}

// Error implements error.
func (p *Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders implements huma.HeadersError.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problem renders err for the client; what is our own fault goes to the log
// with its cause and to the client without.
func (s *Server) problem(ctx context.Context, op *huma.Operation, err error) *Problem {
	e := fault.As(err)
	if e.Status() >= http.StatusInternalServerError && e.Code != fault.Unavailable {
		s.log.LogAttrs(ctx, slog.LevelError, "operation failed", slog.String("operation", op.OperationID), slog.Any("error", err))
	} else {
		obs.Set(ctx, slog.String("refused", e.Error()))
	}
	p := &Problem{Type: httpd.OwnTypes(e.Code), Title: http.StatusText(e.Status()), Detail: e.Detail, Status: e.Status(),
		RequestID: obs.RequestID(ctx), header: http.Header{"Cache-Control": {"no-store"}}}
	if e.Status() == http.StatusUnauthorized {
		p.header.Set("WWW-Authenticate", `Bearer realm="chancery"`) // RFC 6750 section 3
	}
	if after := e.RetryAfter; after > 0 {
		p.header.Set("Retry-After", httpd.Seconds(after))
	}
	return p
}

// refuse answers a request that never reached its handler.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, op *huma.Operation, err error) {
	p := s.problem(r.Context(), op, err)
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	h.Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if err := json.MarshalWrite(w, p); err != nil {
		s.log.LogAttrs(r.Context(), slog.LevelDebug, "problem was not sent", slog.Any("error", err))
	}
}

// transform gives the library's own errors (input that does not fit the
// schema) the form of all others. It is called with every body.
func (s *Server) transform(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		if p, isProblem := v.(*Problem); isProblem {
			dropValidators(ctx)
			return p, nil
		}
		return v, nil
	}
	dropValidators(ctx)
	ctx.SetHeader("Cache-Control", "no-store")
	return s.invalid(ctx, m), nil
}

// dropValidators removes what described the answer that was not given.
func dropValidators(ctx huma.Context) {
	_, w := humago.Unwrap(ctx)
	w.Header().Del("ETag")
}

// invalid renders a failed validation.
func (s *Server) invalid(ctx huma.Context, m *huma.ErrorModel) *Problem {
	code := fault.Invalid
	switch m.Status {
	case http.StatusRequestEntityTooLarge:
		code = fault.TooLarge
	case http.StatusUnsupportedMediaType:
		code = fault.BadMediaType
	case http.StatusInternalServerError:
		code = fault.ServerInternal
	}
	p := &Problem{Type: httpd.OwnTypes(code), Title: m.Title, Detail: m.Detail, Status: m.Status, RequestID: obs.RequestID(ctx.Context())}
	var said []string
	for _, e := range m.Errors {
		if e == nil {
			continue
		}
		f := FieldProblem{Location: e.Location, Message: e.Message}
		if name, ok := strings.CutPrefix(e.Location, "query."); ok && e.Message == "unknown query parameter" {
			f.Message = fmt.Sprintf("unknown query parameter %.64q; known are: %s", name, strings.Join(queryNames(ctx.Operation()), ", "))
		}
		p.Errors = append(p.Errors, f)
		said = append(said, strings.TrimPrefix(f.Location+": "+f.Message, ": "))
	}
	if len(said) > 0 {
		slices.Sort(said)
		p.Detail = "the input is not valid: " + strings.Join(said, "; ")
	}
	return p
}

// queryNames lists the query parameters of an operation.
func queryNames(op *huma.Operation) []string {
	var names []string
	for _, p := range op.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	if len(names) == 0 {
		return []string{"none"}
	}
	slices.Sort(names)
	return names
}

// checkQuery refuses a query string that does not parse, or that gives a
// parameter twice: which of the two counts is a guess that differs by program.
func checkQuery(raw string) error {
	if raw == "" {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "the query string does not parse; encode special characters as %%XX")
	}
	for name, v := range values {
		if len(v) > 1 {
			return fault.New(fault.Invalid, "the query parameter %.64q is given %d times; give it once", name, len(v))
		}
	}
	return nil
}

// errorResponse documents what every operation may answer instead.
func (s *Server) errorResponse() map[string]*huma.Response {
	schema := s.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "Problem")
	return map[string]*huma.Response{"default": {
		Description: "A problem document",
		Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: schema}},
	}}
}
