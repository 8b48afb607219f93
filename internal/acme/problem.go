package acme

import (
	json "encoding/json/v2"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// ProblemType is the media type of problem documents (RFC 7807 section 3).
const ProblemType = "application/problem+json"

const (
	acmeErrors = "urn:ietf:params:acme:error:"
	ownErrors  = "urn:chancery:error:"

	maxProblemText = 4 << 10 // bytes of a foreign text that are kept
	maxSubproblems = 256     // of a foreign document that are kept
)

// Problem is a problem document (RFC 7807, RFC 8555 section 6.7).
type Problem struct {
	Type        string          `json:"type"`
	Detail      string          `json:"detail,omitempty"`
	Status      int             `json:"status,omitzero"` // HTTP status
	Instance    string          `json:"instance,omitempty"`
	Algorithms  []string        `json:"algorithms,omitempty"` // of badSignatureAlgorithm
	Identifier  *pki.Identifier `json:"identifier,omitempty"` // of a subproblem
	Subproblems []Problem       `json:"subproblems,omitempty"`
}

// registered are the error types that RFC 8555 section 6.7 and its extensions
// define; only these may stand after acmeErrors.
var registered = map[fault.Code]bool{
	fault.AccountDoesNotExist: true, fault.AlreadyReplaced: true, fault.AlreadyRevoked: true,
	fault.BadAttestationStatement: true, fault.BadCSR: true, fault.BadNonce: true, fault.BadPublicKey: true, fault.BadRevocationReason: true,
	fault.BadSignatureAlgorithm: true, fault.CAA: true, fault.Compound: true, fault.Connection: true,
	fault.DNS: true, fault.ExternalAccountRequired: true, fault.IncorrectResponse: true,
	fault.InvalidContact: true, fault.InvalidProfile: true, fault.Malformed: true, fault.OrderNotReady: true,
	fault.RateLimited: true, fault.RejectedIdentifier: true, fault.ServerInternal: true, fault.TLS: true,
	fault.Unauthorized: true, fault.UnknownDelegation: true, fault.UnsupportedContact: true, fault.UnsupportedIdentifier: true,
	fault.UserActionRequired: true, fault.AutoRenewalCanceled: true, fault.AutoRenewalExpired: true,
	fault.AutoRenewalCancellationInvalid: true, fault.AutoRenewalRevocationNotSupported: true,
}

// edge maps our own codes to the ACME type that clients act upon rightly. The
// HTTP status stays that of the code, so nothing is lost. Unavailable becomes
// serverInternal (with its 503 and Retry-After) and not rateLimited: the
// latter blames the account's own use, and clients then sleep the account.
var edge = map[fault.Code]fault.Code{
	fault.NotFound:     fault.Malformed,
	fault.Conflict:     fault.Malformed,
	fault.Invalid:      fault.Malformed,
	fault.Precondition: fault.Malformed,
	fault.TooLarge:     fault.Malformed,
	fault.BadMethod:    fault.Malformed,
	fault.BadMediaType: fault.Malformed,
	fault.Forbidden:    fault.Unauthorized,
	fault.Unavailable:  fault.ServerInternal,
}

// TypeURI returns the "type" of a problem document on the ACME edge for code:
// an ACME type for ACME's codes and those that edge maps, else a URN of our
// own (RFC 8555 section 6.7 forbids to invent names in ACME's namespace).
func TypeURI(code fault.Code) string {
	if acme, ok := edge[code]; ok {
		code = acme
	}
	if registered[code] {
		return acmeErrors + string(code)
	}
	return ownErrors + string(code)
}

// NewProblem returns the public face of err for the ACME edge. An error that
// is not a *fault.Error shows nothing of itself. NewProblem(nil) is nil.
// RetryAfter is not part of the document: it is a header of the reply.
func NewProblem(err error) *Problem {
	e := fault.As(err)
	if e == nil {
		return nil
	}
	p := &Problem{Type: TypeURI(e.Code), Detail: e.Detail, Status: e.Status(), Instance: e.Instance, Algorithms: e.Algorithms}
	for _, s := range e.Sub {
		p.Subproblems = append(p.Subproblems, subproblem(s))
	}
	return p
}

func subproblem(s fault.Sub) Problem {
	p := Problem{Type: TypeURI(s.Code), Detail: s.Detail}
	if s.IdentifierType != "" || s.IdentifierValue != "" {
		p.Identifier = &pki.Identifier{Type: pki.IdentifierType(s.IdentifierType), Value: s.IdentifierValue}
	}
	return p
}

// AppendJSON appends p as JSON.
func (p *Problem) AppendJSON(dst []byte) []byte {
	w := begin(dst)
	w.str("type", p.Type)
	w.strIf("detail", p.Detail)
	w.intIf("status", int64(p.Status))
	w.strIf("instance", p.Instance)
	w.stringsIf("algorithms", p.Algorithms)
	if p.Identifier != nil {
		w.name("identifier")
		w.dst = appendIdentifier(w.dst, *p.Identifier)
	}
	if len(p.Subproblems) > 0 {
		w.name("subproblems")
		w.dst = append(w.dst, '[')
		for i := range p.Subproblems {
			if i > 0 {
				w.dst = append(w.dst, ',')
			}
			w.dst = p.Subproblems[i].AppendJSON(w.dst)
		}
		w.dst = append(w.dst, ']')
	}
	return w.end()
}

// ParseProblem reads the error reply of a foreign server. status is the HTTP
// status of the reply, which wins over the document's. A reply that is not a
// problem document, or a broken one, gives a Problem made of the status alone:
// the caller always has something to show and to classify. Text is cut and
// control characters are replaced, since it ends in logs and terminals.
func ParseProblem(contentType string, status int, body []byte) *Problem {
	p := Problem{}
	media, _, err := mime.ParseMediaType(contentType)
	if err == nil && (media == ProblemType || media == "application/json") && len(body) <= MaxBody &&
		checkObject(body) == nil && json.Unmarshal(body, &p) == nil {
		p.sanitize()
	} else {
		p = Problem{Detail: strings.TrimSpace(http.StatusText(status) + " (the server sent no problem document)")}
	}
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if status != 0 {
		p.Status = status
	}
	return &p
}

func (p *Problem) sanitize() {
	p.Type, p.Detail, p.Instance = tidy(p.Type), tidy(p.Detail), tidy(p.Instance)
	for i, a := range p.Algorithms {
		p.Algorithms[i] = tidy(a)
	}
	if id := p.Identifier; id != nil {
		id.Type, id.Value = pki.IdentifierType(tidy(string(id.Type))), tidy(id.Value)
	}
	p.Subproblems = p.Subproblems[:min(len(p.Subproblems), maxSubproblems)]
	for i := range p.Subproblems {
		p.Subproblems[i].sanitize()
	}
}

func tidy(s string) string {
	s = printable(s)
	if len(s) > maxProblemText {
		s = strings.ToValidUTF8(s[:maxProblemText], "")
	}
	return s
}

// printable replaces what could steer a terminal or hide text: control and
// format characters, line breaks included.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// Code returns the ACME error code of p, or "" when its type is not ACME's.
// An unknown code of ACME's namespace is returned as it is.
func (p *Problem) Code() fault.Code {
	code, ok := strings.CutPrefix(p.Type, acmeErrors)
	if !ok {
		return ""
	}
	return fault.Code(code)
}

// Error returns type and detail, and those of the subproblems. It makes
// *Problem the error of a refused request on the client's side.
func (p *Problem) Error() string {
	var b strings.Builder
	p.write(&b)
	for i := range p.Subproblems {
		b.WriteString("; ")
		p.Subproblems[i].write(&b)
	}
	return b.String()
}

func (p *Problem) write(b *strings.Builder) {
	if p.Identifier != nil {
		b.WriteString(p.Identifier.String() + ": ")
	}
	b.WriteString(strings.TrimPrefix(p.Type, acmeErrors))
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
}

// Fault returns p as a *fault.Error with p as its cause, for a client that
// shows it to its own user. A type that is not ACME's becomes Unavailable for
// a 5xx status and serverInternal for the rest. after is the Retry-After of
// the reply.
func (p *Problem) Fault(after time.Duration) *fault.Error {
	code := p.Code()
	switch {
	case code != "":
	case p.Status >= 500:
		code = fault.Unavailable
	default:
		code = fault.ServerInternal
	}
	e := fault.Wrap(p, code, "%s", p.Detail).Retry(after)
	e.Instance, e.Algorithms = p.Instance, p.Algorithms
	for i := range p.Subproblems {
		e = e.WithSub(p.Subproblems[i].sub())
	}
	return e
}

func (p *Problem) sub() fault.Sub {
	s := fault.Sub{Code: p.Code(), Detail: p.Detail}
	if p.Identifier != nil {
		s.IdentifierType, s.IdentifierValue = string(p.Identifier.Type), p.Identifier.Value
	}
	return s
}
