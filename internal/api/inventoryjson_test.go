package api_test

import (
	"bytes"
	"encoding/json/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/api"
)

// awkward are texts that JSON must escape, or that look as if it must.
var awkward = []string{"", "plain", `a "quoted" \ back/slash`, "tab\t line\n return\r null\x00 bell\a delete\x7f", "<script>&amp;\u2028\u2029", "grüße 例え 🔑", "\ufffd", strings.Repeat("x", 300) + `"`}

// A page of certificates is written byte for byte as encoding/json/v2 would.
func TestKnownPageIsWrittenAsByTheStandardEncoder(t *testing.T) {
	instants := []time.Time{{}, time.Unix(0, 0).UTC(), time.Date(2026, 3, 10, 12, 30, 0, 120_000_000, time.UTC), time.Date(2026, 3, 10, 12, 30, 0, 1, time.FixedZone("", 3600)),
		time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)}
	pages := []api.KnownPage{{}, {Page: api.Page[api.Known]{Items: []api.Known{}}}, {Page: api.Page[api.Known]{Items: []api.Known{{}}, Next: `a"b`}, Sort: "expires", Partial: true}}
	// Each member in turn has each awkward value, so that a member that is
	// forgotten, doubled or written under another name is seen.
	var every []api.Known
	fields := reflect.TypeFor[api.Known]()
	for i := range fields.NumField() {
		for _, v := range valuesFor(t, fields.Field(i).Type, instants) {
			k := api.Known{Names: []string{"a.example"}, Source: []string{"ca"}}
			reflect.ValueOf(&k).Elem().Field(i).Set(v)
			every = append(every, k)
		}
	}
	for _, text := range awkward {
		pages = append(pages, api.KnownPage{Page: api.Page[api.Known]{Items: every[:1], Next: text}, Sort: text})
	}
	pages = append(pages, api.KnownPage{Page: api.Page[api.Known]{Items: every}})
	for i := range pages {
		want, err := json.Marshal(pages[i])
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := api.Marshal(&got, pages[i]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("page %d: %s", i, diff)
		}
	}
}

// valuesFor returns values for a member of a type.
func valuesFor(t *testing.T, typ reflect.Type, instants []time.Time) (out []reflect.Value) {
	t.Helper()
	add := func(v any) { out = append(out, reflect.ValueOf(v)) }
	switch reflect.Zero(typ).Interface().(type) {
	case string:
		for _, s := range awkward {
			add(s)
		}
	case []string:
		add([]string(nil))
		add([]string{})
		add(awkward)
	case bool:
		add(true)
	case int:
		add(-7)
		add(1 << 40)
	case time.Time:
		for _, at := range instants {
			add(at)
		}
	case *time.Time:
		add((*time.Time)(nil))
		for i := range instants {
			add(&instants[i])
		}
	default:
		t.Fatalf("the encoder is not tested with a member of type %s", typ)
	}
	return out
}

// What JSON cannot hold is an error of both, and nothing is sent.
func TestKnownPageThatJSONCannotHold(t *testing.T) {
	for name, k := range map[string]api.Known{"text": {Owner: "\xff"}, "list": {Names: []string{"\xc0\x80"}}, "year": {NotAfter: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}} {
		p := api.KnownPage{Page: api.Page[api.Known]{Items: []api.Known{k}}}
		if _, err := json.Marshal(p); err == nil {
			t.Fatalf("%s: the standard encoder accepts it", name)
		}
		var got bytes.Buffer
		if err := api.Marshal(&got, p); err == nil || got.Len() > 0 {
			t.Errorf("%s: %v, %d octets were sent", name, err, got.Len())
		}
	}
}
