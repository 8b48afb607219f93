package acme

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

func TestTypeURI(t *testing.T) { // RFC 8555 section 6.7
	for code := range registered {
		if got, want := TypeURI(code), "urn:ietf:params:acme:error:"+string(code); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
	for code, want := range map[fault.Code]string{
		fault.Unavailable:  "urn:ietf:params:acme:error:serverInternal",
		fault.NotFound:     "urn:ietf:params:acme:error:malformed",
		fault.Conflict:     "urn:ietf:params:acme:error:malformed",
		fault.Invalid:      "urn:ietf:params:acme:error:malformed",
		fault.Precondition: "urn:ietf:params:acme:error:malformed",
		fault.TooLarge:     "urn:ietf:params:acme:error:malformed",
		fault.BadMethod:    "urn:ietf:params:acme:error:malformed",
		fault.BadMediaType: "urn:ietf:params:acme:error:malformed",
		fault.Forbidden:    "urn:ietf:params:acme:error:unauthorized",
		"somethingNew":     "urn:chancery:error:somethingNew", // never in ACME's namespace
	} {
		if got := TypeURI(code); got != want {
			t.Errorf("%s: %s, want %s", code, got, want)
		}
	}
}

func TestNewProblem(t *testing.T) { // RFC 8555 sections 6.2, 6.7 and 6.7.1
	if NewProblem(nil) != nil {
		t.Error("no error is no problem")
	}
	e := fault.Wrap(errors.New("secret"), fault.Compound, "two names failed").
		WithSub(fault.Sub{Code: fault.CAA, Detail: "CAA forbids", IdentifierType: "dns", IdentifierValue: "a.test"}).
		WithSub(fault.Sub{Code: fault.DNS, Detail: "no answer"})
	e.Instance, e.Algorithms = "https://ca.test/terms", []string{"ES256"}
	want := &Problem{
		Type: acmeErrors + "compound", Detail: "two names failed", Status: 400, Instance: "https://ca.test/terms", Algorithms: []string{"ES256"},
		Subproblems: []Problem{
			{Type: acmeErrors + "caa", Detail: "CAA forbids", Identifier: &pki.Identifier{Type: pki.DNS, Value: "a.test"}},
			{Type: acmeErrors + "dns", Detail: "no answer"},
		},
	}
	if diff := cmp.Diff(want, NewProblem(e)); diff != "" {
		t.Error(diff)
	}
	busy := NewProblem(fault.New(fault.Unavailable, "queue is full").Retry(time.Second))
	if busy.Status != 503 || busy.Code() != fault.ServerInternal {
		t.Errorf("unavailable: %+v, want 503 serverInternal", busy)
	}
	if p := NewProblem(errors.New("secret")); p.Status != 500 || p.Code() != fault.ServerInternal || strings.Contains(string(p.AppendJSON(nil)), "secret") {
		t.Errorf("a foreign error shows as %s", p.AppendJSON(nil))
	}
}

func TestProblemThereAndBack(t *testing.T) {
	sent := fault.New(fault.RejectedIdentifier, "not ours").WithSub(fault.Sub{Code: fault.RejectedIdentifier, Detail: "b", IdentifierType: "dns", IdentifierValue: "x.test"})
	p := ParseProblem(ProblemType+"; charset=utf-8", sent.Status(), NewProblem(sent).AppendJSON(nil))
	got := p.Fault(3 * time.Second)
	if got.Code != sent.Code || got.Detail != sent.Detail || got.RetryAfter != 3*time.Second {
		t.Errorf("got %+v, want %+v", got, sent)
	}
	if diff := cmp.Diff(sent.Sub, got.Sub); diff != "" {
		t.Error(diff)
	}
	var back *Problem
	if !errors.As(got, &back) || back.Status != 400 {
		t.Errorf("the problem is not the cause of %v", got)
	}
	if text := p.Error(); text != "rejectedIdentifier: not ours; dns:x.test: rejectedIdentifier: b" {
		t.Errorf("text %q", text)
	}
}

func TestParseProblemOfBrokenReplies(t *testing.T) {
	for _, tt := range []struct {
		name, contentType string
		status            int
		body              string
		want              fault.Code
	}{
		{"HTML of a proxy", "text/html", 502, "<html>", fault.Unavailable},
		{"no type at all", "", 503, "", fault.Unavailable},
		{"broken JSON", ProblemType, 500, `{"type":`, fault.Unavailable},
		{"array", ProblemType, 500, `[]`, fault.Unavailable},
		{"duplicate type", ProblemType, 400, `{"type":"a","type":"b"}`, fault.ServerInternal},
		{"too long", ProblemType, 400, `{"type":"` + strings.Repeat("x", MaxBody) + `"}`, fault.ServerInternal},
		{"too deep", ProblemType, 400, strings.Repeat(`{"subproblems":[`, 40) + strings.Repeat("]}", 40), fault.ServerInternal},
		{"foreign namespace", ProblemType, 400, `{"type":"urn:x:malformed"}`, fault.ServerInternal},
		{"no type member", ProblemType, 400, `{"detail":"hm"}`, fault.ServerInternal},
		{"plain JSON media type", "application/json", 400, `{"type":"urn:ietf:params:acme:error:badCSR"}`, fault.BadCSR},
		{"code of a later RFC", ProblemType, 400, `{"type":"urn:ietf:params:acme:error:onionCAARequired"}`, "onionCAARequired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := ParseProblem(tt.contentType, tt.status, []byte(tt.body))
			if got := p.Fault(0); got.Code != tt.want || p.Status != tt.status || p.Error() == "" {
				t.Errorf("%+v as %v, want code %s", p, got, tt.want)
			}
		})
	}
}

// acme.sh ran, and others printed, what a server wrote; see ParseProblem.
func TestParseProblemTextIsHarmless(t *testing.T) {
	body := `{"type":"urn:ietf:params:acme:error:dns","detail":"a\u001b[31mred\r\nb\u202e\u0000` + strings.Repeat("é", 4000) + `",` +
		`"subproblems":[{"type":"t\n","detail":"x\ty","identifier":{"type":"d\u0007","value":"v\n"}}` + strings.Repeat(`,{"type":"t"}`, 2*maxSubproblems) + `]}`
	p := ParseProblem(ProblemType, 400, []byte(body))
	if p.Code() != fault.DNS {
		t.Fatalf("got %+v", p)
	}
	if text := p.Error(); strings.ContainsAny(text, "\x1b\r\n\x00\x07\t\u202e") {
		t.Errorf("text %.60q keeps control characters", text)
	}
	if len(p.Detail) > maxProblemText || len(p.Subproblems) != maxSubproblems {
		t.Errorf("kept %d bytes and %d subproblems", len(p.Detail), len(p.Subproblems))
	}
}

func FuzzParseProblem(f *testing.F) {
	f.Add(someProblem.AppendJSON(nil))
	f.Add([]byte(`{"type":"urn:ietf:params:acme:error:dns","subproblems":[{}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		p := ParseProblem(ProblemType, 400, body)
		if p.Type == "" || p.Status != 400 || strings.ContainsAny(p.Error(), "\x1b\r\n\x00") || p.Fault(0).Code == "" {
			t.Errorf("%q gave %+v", body, p)
		}
	})
}
