// Package fleet holds the messages between a server and its agents: the programs
// that put certificates into service on hosts which the server cannot reach.
//
// An agent only ever dials out. It posts JSON to four paths below Prefix, over
// TLS in which it authenticates itself with a certificate (but for enroll):
//
//	enroll  a token and a certificate request -> an identity
//	wait    held until there is something to do, or the hold ends -> tasks
//	report  requests for certificates, and what became of deployments
//	renew   a certificate request -> the identity's next certificate
//
// Private keys never travel. A task names targets that the agent's own
// configuration has, and nothing else of its host.
package fleet

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Prefix is the path below which agents ask.
const Prefix = "/agent/v1/"

// ALPN is what an agent offers beside HTTP in its TLS hello: the server asks
// only those for a certificate who do, and nobody else notices.
const ALPN = "chancery-agent/1"

// NameSuffix ends the DNS name in an agent's certificate, after its id.
const NameSuffix = ".agent.chancery.internal"

// Bounds of messages.
const (
	MaxBody    = 1 << 20 // bytes of a message
	MaxBatch   = 100     // tasks of an answer, and reports of a message
	MaxTargets = 256     // targets of an agent
	MaxText    = 8 << 10 // bytes of an error or of what a program said
	MaxCSR     = 16 << 10
)

// Session is who an agent is beside its certificate. Each start of the program
// and each renewal moves Generation on by one and replaces Instance: of two
// agents with one identity, one has an old pair.
type Session struct {
	Generation int64  `json:"generation"`
	Instance   string `json:"instance"`
	// Next, if set, asks for a new generation with this instance. The agent
	// writes it down before it asks, so asking again changes nothing more.
	Next string `json:"next,omitempty"`
}

// Enroll asks for an identity.
type Enroll struct {
	Token    string `json:"token"` // without its pin, which is for the agent
	Name     string `json:"name"`
	Version  string `json:"version"`
	Instance string `json:"instance"`
	CSR      []byte `json:"csr"` // DER; only its key counts
}

// Identity answers Enroll and Renew.
type Identity struct {
	ID         string   `json:"id"`
	Generation int64    `json:"generation"`
	Chain      [][]byte `json:"chain"` // DER, leaf first
	Roots      string   `json:"roots"` // PEM, of the server's own authorities
}

// Renew asks for the next certificate of an identity.
type Renew struct {
	Session
	CSR []byte `json:"csr"`
}

// Wait asks for tasks.
type Wait struct {
	Session
	Version string   `json:"version"`
	Targets []string `json:"targets"` // names of those that the agent's configuration has
	Once    bool     `json:"once,omitempty"`
}

// Tasks answers Wait.
type Tasks struct {
	Generation int64  `json:"generation"`
	Tasks      []Task `json:"tasks"`
	AfterMS    int64  `json:"after_ms,omitzero"` // ask again after so long; 0 = at once
	Pending    bool   `json:"pending,omitempty"` // something is being issued for this agent
}

// Task is one thing to do. Without a chain it asks for a certificate request of
// a key that the agent makes; with one, that it is put into service.
type Task struct {
	ID      string   `json:"id"` // of the assignment
	Names   []string `json:"names"`
	Targets []string `json:"targets"`
	Chain   [][]byte `json:"chain,omitempty"` // DER, leaf first
}

// Report says what an agent did.
type Report struct {
	Session
	Results []Result `json:"results"`
}

// Result is about one task.
type Result struct {
	ID   string `json:"id"`             // of the assignment
	Leaf []byte `json:"leaf,omitempty"` // SHA-256 of the certificate it is about; none: only a request
	Live bool   `json:"live,omitempty"` // every target serves it, as far as its probe says
	// Error and Stderr say why not; TookMS is how long it took.
	Error  string `json:"error,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	TookMS int64  `json:"took_ms,omitempty"`
	// CSR is for the next key, so that a renewal needs no question (DER).
	CSR []byte `json:"csr,omitempty"`
}

// Received answers Report.
type Received struct {
	Results int `json:"results"`
}

var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,126}[a-z0-9])?$`)
	targetPattern = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
)

// ValidName reports whether s can name an agent: letters, digits, inner dots
// and hyphens, all lower-case, at most 128.
func ValidName(s string) bool { return namePattern.MatchString(s) }

// ValidTarget reports whether s can name a target.
func ValidTarget(s string) bool { return targetPattern.MatchString(s) }

// Pin is the base64url SHA-256 of a public key (its SubjectPublicKeyInfo).
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Token is an enrolment token: "ID.SECRET.PIN".
type Token struct{ ID, Secret, Pin string }

// String returns the text that an operator carries to the host.
func (t Token) String() string { return t.ID + "." + t.Secret + "." + t.Pin }

// Sent returns the part that the server is shown.
func (t Token) Sent() string { return t.ID + "." + t.Secret }

// ParseToken reads the text of a token.
func ParseToken(s string) (Token, error) {
	p := strings.Split(s, ".")
	if len(p) != 3 || len(p[0]) != 26 || len(p[1]) != 43 || len(p[2]) != 43 {
		return Token{}, errors.New("the token is not one that `chancery agents token create` printed: ID.SECRET.PIN")
	}
	return Token{p[0], p[1], p[2]}, nil
}

// Decode reads a message strictly: no unknown member, nothing after it.
func Decode(b []byte, into any) error {
	if len(b) > MaxBody {
		return fmt.Errorf("the message has more than %d bytes", MaxBody)
	}
	return json.UnmarshalRead(bytes.NewReader(b), into, json.RejectUnknownMembers(true))
}

// Clip bounds text of a program or an error, and keeps its end: the last line
// is the one that says why.
func Clip(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "?")
	if len(s) > MaxText {
		s = strings.ToValidUTF8(s[len(s)-MaxText:], "")
	}
	return s
}
