package fleet

import (
	"encoding/json/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestToken(t *testing.T) {
	want := Token{strings.Repeat("0", 26), strings.Repeat("s", 43), strings.Repeat("p", 43)}
	got, err := ParseToken(want.String())
	if err != nil || got != want || strings.Contains(want.Sent(), want.Pin) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "a.b.c", want.Sent(), want.String() + ".x", want.String() + "x"} {
		if _, err := ParseToken(bad); err == nil {
			t.Errorf("%q was taken for a token", bad)
		}
	}
}

func TestNames(t *testing.T) {
	for name, ok := range map[string]bool{"web1": true, "web1.example.com": true, "a": true, "": false, "Web": false, "-a": false, "a.": false, "a/b": false, "../x": false, strings.Repeat("a", 129): false} {
		if ValidName(name) != ok {
			t.Errorf("name %q: %v", name, !ok)
		}
	}
	for name, ok := range map[string]bool{"nginx": true, "": false, "../etc": false, "a b": false, strings.Repeat("a", 65): false} {
		if ValidTarget(name) != ok {
			t.Errorf("target %q: %v", name, !ok)
		}
	}
}

// Clip keeps the end, which is where programs say why, and never more than its
// bound or broken text.
func TestClip(t *testing.T) {
	long := strings.Repeat("ä", MaxText) + "why"
	got := Clip(long)
	if len(got) > MaxText || !strings.HasSuffix(got, "äwhy") || !utf8.ValidString(got) {
		t.Errorf("%d bytes, ends %q", len(got), got[len(got)-8:])
	}
	if got := Clip("a\x00b\xff"); got != "ab?" {
		t.Errorf("%q", got)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for _, bad := range []string{``, `[]`, `{"results":[],"more":1}`, `{"results":[]} {}`, `{"results":[],"results":[]}`, `{"results":[{"id":1}]}`} {
		var r Report
		if err := Decode([]byte(bad), &r); err == nil {
			t.Errorf("%s was read as %+v", bad, r)
		}
	}
	var r Report
	if err := Decode(make([]byte, MaxBody+1), &r); err == nil {
		t.Error("a message beyond the bound was read")
	}
}

// FuzzDecode: what was read is written and read again unchanged.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"generation":3,"instance":"x","results":[{"id":"a","leaf":"AA==","live":true,"csr":"AA==","took_ms":4}]}`))
	f.Add([]byte(`{"generation":3,"instance":"x","next":"y","version":"1","targets":["web"],"once":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Report
		if Decode(text, &r) == nil {
			again(t, r)
		}
		var w Wait
		if Decode(text, &w) == nil {
			again(t, w)
		}
		var e Enroll
		if Decode(text, &e) == nil {
			again(t, e)
		}
	})
}

func again[T any](t *testing.T, m T) {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var back T
	if err := Decode(text, &back); err != nil {
		t.Fatal(err)
	}
	second, err := json.Marshal(back)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(second)); diff != "" {
		t.Error(diff)
	}
}
