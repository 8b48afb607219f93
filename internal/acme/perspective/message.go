package perspective

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// path is where an agent takes questions. A number in it that grows would
// stand for messages that older agents cannot read.
const path = "/perspective/v1/observe"

// contentType of both messages.
const contentType = "application/json"

// Bounds of messages, in octets and elements. They hold what the validators
// record at most, with room.
const (
	maxMessage = 64 << 10
	maxText    = 2048
	maxLines   = 64
)

// Question is what a perspective is asked: to validate a challenge and check
// CAA, or to check CAA alone.
type Question struct {
	Method  challenge.Type
	Request challenge.Request // for CAA alone: Identifier and AccountURL
	CAAOnly bool
	Issuers []string // issuer domain names that mean the CA
}

// question is a Question on the wire.
type question struct {
	Method           challenge.Type     `json:"method"`
	IdentifierType   pki.IdentifierType `json:"identifier_type"`
	Identifier       string             `json:"identifier"`
	Token            string             `json:"token,omitempty"`
	KeyAuthorization string             `json:"key_authorization,omitempty"`
	Account          string             `json:"account"`
	Subdomains       bool               `json:"subdomains,omitempty"`
	Persist          *challenge.Persist `json:"persist,omitempty"`
	CAAOnly          bool               `json:"caa_only,omitempty"`
	Issuers          []string           `json:"issuers"`
}

func (q *Question) encode() ([]byte, error) {
	r := &q.Request
	b, err := json.Marshal(question{Method: q.Method, IdentifierType: r.Identifier.Type, Identifier: r.Identifier.Value, Token: r.Token,
		KeyAuthorization: r.KeyAuthorization, Account: r.AccountURL, Subdomains: r.Subdomains, Persist: r.Persist, CAAOnly: q.CAAOnly, Issuers: q.Issuers})
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	return b, nil
}

// parseQuestion reads a question. Whether it makes sense is for the
// validators, which judge every field before they contact anybody.
func parseQuestion(b []byte) (q Question, err error) {
	var w question
	if err := strict(b, &w); err != nil {
		return q, fault.New(fault.Malformed, "the question cannot be read: %v", err)
	}
	id, err := pki.ParseIdentifier(w.IdentifierType, w.Identifier)
	if err != nil {
		return q, err
	}
	if w.Account == "" || w.Method == "" || len(w.Issuers) > maxLines {
		return q, fault.New(fault.Malformed, "the question lacks its method or account, or names too many issuers")
	}
	return Question{w.Method, challenge.Request{Identifier: id, Token: w.Token, KeyAuthorization: w.KeyAuthorization, AccountURL: w.Account,
		Subdomains: w.Subdomains, Persist: w.Persist}, w.CAAOnly, w.Issuers}, nil
}

// answer is an observation on the wire.
type answer struct {
	Question    string           `json:"question"` // digest of what was asked
	Perspective string           `json:"perspective"`
	Region      string           `json:"region"`
	Agrees      bool             `json:"agrees"`
	Code        fault.Code       `json:"code,omitempty"`    // of Problem, unless it agrees
	Problem     string           `json:"problem,omitempty"` // printable ASCII
	Steps       []challenge.Step `json:"validation_record,omitempty"`
	CAAFound    string           `json:"caa_found,omitempty"`
	CAARecords  []string         `json:"caa_records,omitempty"`
}

// digest binds an answer to its question.
func digest(question []byte) string {
	sum := sha256.Sum256(question)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// verdicts are the classes of problem that a look at an identifier can end in.
// Any other is about the perspective, and no observation.
var verdicts = []fault.Code{fault.CAA, fault.Connection, fault.DNS, fault.IncorrectResponse, fault.Malformed, fault.TLS, fault.Unauthorized}

var errAnswer = errors.New("the answer is not one to this question")

// parseAnswer reads the answer to a question, which must come from the
// perspective and the region that were asked.
func parseAnswer(b, asked []byte, name, region string) (challenge.Observation, error) {
	var w answer
	if err := strict(b, &w); err != nil {
		return challenge.Observation{}, fmt.Errorf("read answer: %w", err)
	}
	if w.Perspective != name || w.Region != region {
		return challenge.Observation{}, fmt.Errorf("the agent calls itself %.64q in region %.64q; the configuration says otherwise", w.Perspective, w.Region)
	}
	if w.Question != digest(asked) || w.Agrees != (w.Problem == "") || w.Agrees != (w.Code == "") || !w.Agrees && !slices.Contains(verdicts, w.Code) {
		return challenge.Observation{}, errAnswer
	}
	if !bounded(&w) {
		return challenge.Observation{}, errors.New("the answer has a text that is too long or not printable")
	}
	o := challenge.Observation{Perspective: name, Region: region, Verdict: challenge.Disagrees, Code: w.Code, Problem: w.Problem,
		Steps: w.Steps, CAAFound: w.CAAFound, CAARecords: w.CAARecords}
	if w.Agrees {
		o.Verdict = challenge.Agrees
	}
	return o, nil
}

// bounded reports whether every text of an answer may be stored and shown.
func bounded(w *answer) bool {
	texts := append([]string{w.Problem, w.CAAFound}, w.CAARecords...)
	for i := range w.Steps {
		s := &w.Steps[i]
		if len(s.Resolved) > maxLines || len(s.Tried) > maxLines {
			return false
		}
		texts = append(append(texts, s.URL, s.Hostname, s.Query), s.Chain...)
	}
	return len(texts) <= 8*maxLines && !slices.ContainsFunc(texts, func(s string) bool {
		return len(s) > maxText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	})
}

// strict reads exactly one JSON value without unknown or repeated members.
func strict(b []byte, v any) error {
	if len(b) > maxMessage {
		return errors.New("the message is too long")
	}
	return json.Unmarshal(b, v, json.RejectUnknownMembers(true))
}
