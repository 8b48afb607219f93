package perspective

import (
	"crypto/tls"
	"encoding/json/v2"
	"strings"
	"testing"

	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
)

// ClientTLS is what the asking side speaks, for tests.
func ClientTLS(k *Key, peer Pin) (*tls.Config, error) { return k.tlsConfig(peer) }

func good(asked []byte) answer {
	return answer{Question: digest(asked), Perspective: "p", Region: "eu", Agrees: true, Steps: []challenge.Step{{Query: "a.test"}}}
}

func TestAnswersAreReadStrictly(t *testing.T) {
	asked := []byte("question")
	read := func(change func(*answer)) error {
		a := good(asked)
		change(&a)
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		_, err = parseAnswer(text, asked, "p", "eu")
		return err
	}
	if err := read(func(*answer) {}); err != nil {
		t.Error(err)
	}
	if err := read(func(a *answer) { a.Agrees, a.Code, a.Problem = false, fault.DNS, "NXDOMAIN" }); err != nil {
		t.Error(err)
	}
	for what, change := range map[string]func(*answer){
		"another question":           func(a *answer) { a.Question = digest([]byte("other")) },
		"another perspective":        func(a *answer) { a.Perspective = "q" },
		"another region":             func(a *answer) { a.Region = "us" },
		"agreement with a problem":   func(a *answer) { a.Problem = "x" },
		"agreement with a code":      func(a *answer) { a.Code = fault.DNS },
		"disagreement without one":   func(a *answer) { a.Agrees = false },
		"disagreement without class": func(a *answer) { a.Agrees, a.Problem = false, "x" },
		"a failure of its own":       func(a *answer) { a.Agrees, a.Code, a.Problem = false, fault.ServerInternal, "x" },
		"a text with control codes":  func(a *answer) { a.Agrees, a.Code, a.Problem = false, fault.DNS, "\x1b[2J" },
		"a long text":                func(a *answer) { a.Steps[0].URL = strings.Repeat("x", maxText+1) },
		"too many records":           func(a *answer) { a.CAARecords = make([]string, 8*maxLines+1) },
	} {
		if read(change) == nil {
			t.Errorf("%s is taken", what)
		}
	}
	for _, text := range []string{"", "null", "{}", `{"agrees":true}`, `[]`} {
		if _, err := parseAnswer([]byte(text), asked, "p", "eu"); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	asked := []byte("question")
	text, err := json.Marshal(good(asked))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"question":"x","perspective":"p","region":"eu","agrees":false,"code":"dns","problem":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseAnswer(b, asked, "p", "eu")
		if err != nil {
			return
		}
		if o.Verdict != challenge.Agrees && o.Verdict != challenge.Disagrees || o.Perspective != "p" || len(o.Problem) > maxText {
			t.Errorf("%q became %+v", b, o)
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"method":"http-01","identifier_type":"dns","identifier":"a.test","account":"x","issuers":["ca.test"]}`))
	f.Add([]byte(`{"method":"dns-persist-01","identifier_type":"ip","identifier":"::1","account":"x","issuers":[],"persist":{"Issuers":["a"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQuestion(b)
		if err != nil {
			return
		}
		text, err := q.encode()
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", b, err)
		}
		if _, err := parseQuestion(text); err != nil {
			t.Errorf("%q cannot be read again: %v", text, err)
		}
	})
}
