package httpd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"chancery/internal/fault"
)

// Reply is an answer that a handler has computed.
type Reply struct {
	Status      int    // 0 means 200
	ContentType string // "" for no body
	Body        []byte

	// ETag is the entity tag with its quotes, strong or weak, or "". With a
	// matching If-None-Match a GET or HEAD is answered 304 without the body.
	ETag string

	// LastModified is sent when not zero.
	LastModified time.Time

	// CacheControl is sent when not "".
	CacheControl string

	// RetryAfter is sent when > 0, in whole seconds, rounded up.
	RetryAfter time.Duration

	// Stream, when set, writes the body instead of Body. The header is out by
	// then, so its error only ends the connection and the log line. flush
	// sends what was written so far.
	Stream func(w io.Writer, flush func() error) error
}

// JSON returns a reply with v as its body.
func JSON(status int, v any) (*Reply, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return &Reply{Status: status, ContentType: "application/json", Body: body}, nil
}

// Bytes returns a 200 reply with a body that is already encoded.
func Bytes(contentType string, body []byte) *Reply {
	return &Reply{ContentType: contentType, Body: body}
}

// Redirect returns a reply that sends the client elsewhere.
func Redirect(r *Request, status int, location string) *Reply {
	r.SetHeader("Location", location)
	return &Reply{Status: status}
}

// Matches reports whether the client already has the entity with this tag, so
// that a handler can answer 304 before it computes anything.
func (r *Request) Matches(etag string) bool {
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead
	return safe && etag != "" && matches(r.Header.Values("If-None-Match"), etag)
}

// Retry returns the reply with RetryAfter set.
func (p *Reply) Retry(after time.Duration) *Reply { p.RetryAfter = after; return p }

// Seconds formats a delay for Retry-After: whole seconds, rounded up, at
// least 1. RFC 9110 also allows a date, which some ACME clients cannot read.
func Seconds(d time.Duration) string {
	n := int64(d / time.Second)
	if d%time.Second > 0 {
		n++
	}
	return strconv.FormatInt(max(n, 1), 10)
}

// header sets the reply's own headers. Their values live in x.
func (p *Reply) header(x *exchange, h http.Header, body bool) {
	set := func(key, value string) {
		if value != "" {
			x.set(h, key, value)
		}
	}
	if body {
		set("Content-Type", p.ContentType)
	}
	set("Etag", p.ETag)
	set("Cache-Control", p.CacheControl)
	if !p.LastModified.IsZero() {
		set("Last-Modified", Date(p.LastModified))
	}
	if p.RetryAfter > 0 {
		set("Retry-After", Seconds(p.RetryAfter))
	}
}

// Date formats an instant for a header (RFC 9110 section 5.6.7), as
// http.TimeFormat does in five times the time.
func Date(t time.Time) string {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.Format(http.TimeFormat)
	}
	hour, minute, second := t.Clock()
	b := make([]byte, 0, len(http.TimeFormat))
	b = append(b, t.Weekday().String()[:3]...)
	b = append(b, ", "...)
	b = append(two(b, day), ' ')
	b = append(b, month.String()[:3]...)
	b = append(two(two(append(b, ' '), year/100), year%100), ' ')
	b = append(two(b, hour), ':')
	b = append(two(b, minute), ':')
	return string(append(two(b, second), " GMT"...))
}

// two appends two digits.
func two(b []byte, n int) []byte { return append(b, byte('0'+n/10), byte('0'+n%10)) }

// bodyAllowed reports whether a response of that status may have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// matches implements If-None-Match (RFC 9110 section 13.1.2): weak comparison
// with each tag of the list, and "*" for anything.
func matches(headers []string, etag string) bool {
	want := strings.TrimPrefix(etag, "W/")
	for _, h := range headers {
		for h = strings.TrimSpace(h); h != ""; h = strings.TrimLeft(h, " \t,") {
			if h[0] == '*' {
				return true
			}
			var tag string
			if tag, h = cutTag(h); tag == "" {
				break // not a list of entity tags: ignore the rest
			}
			if tag == want {
				return true
			}
		}
	}
	return false
}

// cutTag returns the first entity tag of s, without W/ and with its quotes,
// and what follows. A comma may stand inside the quotes.
func cutTag(s string) (tag, rest string) {
	s = strings.TrimPrefix(s, "W/")
	if len(s) < 2 || s[0] != '"' {
		return "", ""
	}
	end := strings.IndexByte(s[1:], '"')
	if end < 0 {
		return "", ""
	}
	return s[:end+2], s[end+2:]
}

// Problem is the body of an error answer: RFC 7807, with the fields that
// RFC 8555 section 6.7 adds.
type Problem struct {
	Type        string       `json:"type"`
	Title       string       `json:"title,omitempty"`
	Detail      string       `json:"detail"`
	Status      int          `json:"status"`
	Instance    string       `json:"instance,omitempty"`
	RequestID   string       `json:"requestId,omitempty"`
	Algorithms  []string     `json:"algorithms,omitempty"`
	Subproblems []Subproblem `json:"subproblems,omitempty"`
}

// Subproblem is one part of a compound problem (RFC 8555 section 6.7.1).
type Subproblem struct {
	Type       string             `json:"type"`
	Detail     string             `json:"detail"`
	Identifier *ProblemIdentifier `json:"identifier,omitempty"`
}

// ProblemIdentifier names what a subproblem is about.
type ProblemIdentifier struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// TypeFunc spells a fault code as the problem type URI of one edge.
type TypeFunc func(fault.Code) string

// OwnTypes is the spelling outside of ACME.
func OwnTypes(code fault.Code) string { return "urn:chancery:error:" + string(code) }

// NewProblem renders e. The private cause of e is not part of it.
func NewProblem(e *fault.Error, types TypeFunc, requestID string) *Problem {
	p := &Problem{
		Type: types(e.Code), Detail: e.Detail, Status: e.Status(), Instance: e.Instance,
		RequestID: requestID, Algorithms: e.Algorithms,
	}
	for _, s := range e.Sub {
		sub := Subproblem{Type: types(s.Code), Detail: s.Detail}
		if s.IdentifierValue != "" {
			sub.Identifier = &ProblemIdentifier{Type: s.IdentifierType, Value: s.IdentifierValue}
		}
		p.Subproblems = append(p.Subproblems, sub)
	}
	return p
}

// problemReply renders err for the client. An unavailable or rate-limited
// answer always says when to come back (RFC 8555 section 6.6).
func problemReply(err error, types TypeFunc, requestID string) *Reply {
	e := fault.As(err)
	body, encErr := json.Marshal(NewProblem(e, types, requestID))
	if encErr != nil { // strings and ints only: cannot happen, and must not panic
		body = []byte(`{"type":"about:blank","detail":"internal error"}`)
	}
	after := e.RetryAfter
	if after <= 0 && (e.Status() == http.StatusServiceUnavailable || e.Status() == http.StatusTooManyRequests) {
		after = defaultRetry
	}
	return &Reply{
		Status: e.Status(), ContentType: "application/problem+json", Body: body,
		CacheControl: "no-store", RetryAfter: after,
	}
}

// defaultRetry is what a 429 or 503 without a better idea tells the client.
const defaultRetry = 5 * time.Second
