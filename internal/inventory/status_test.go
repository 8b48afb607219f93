package inventory

import (
	"slices"
	"testing"

	"chancery/internal/fault"
)

// From every status, whatever the facts, only listed transitions can follow.
func TestStatusFollowsFacts(t *testing.T) {
	reach := map[Status]bool{}
	for bits := range 16 {
		f := facts{retired: bits&1 != 0, revoked: bits&2 != 0, successor: bits&4 != 0, notAfter: 1000}
		now := int64(999)
		if bits&8 != 0 {
			now = 1000 // the end itself is past the end
		}
		got := f.status(now)
		reach[got] = true
		want := Active
		switch {
		case f.retired:
			want = Retired
		case f.revoked:
			want = Revoked
		case now == 1000:
			want = Expired
		case f.successor:
			want = Superseded
		}
		if got != want {
			t.Errorf("%+v at %d: %s, want %s", f, now, got, want)
		}
	}
	for _, s := range Statuses {
		if !s.Valid() || !reach[s] {
			t.Errorf("%s is never reached", s)
		}
		if _, ok := transitions[s]; !ok {
			t.Errorf("%s has no row in the table of transitions", s)
		}
		if slices.Contains(transitions[s], s) {
			t.Errorf("%s leads to itself", s)
		}
	}
	if slices.Contains(transitions[Expired], Active) || slices.Contains(transitions[Revoked], Active) {
		t.Error("what is over cannot become active")
	}
}

func TestSources(t *testing.T) {
	for i, name := range sourceNames {
		s, err := ParseSource(name)
		if err != nil || s != 1<<i || !s.Valid() || s.String() != name {
			t.Errorf("%s: %d %v", name, s, err)
		}
	}
	if _, err := ParseSource("moon"); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if Source(0).Valid() || Source(allSources+1).Valid() || (FromCA|FromScan).String() != "ca+scan" {
		t.Error("sets of sources")
	}
}

func TestAttribute(t *testing.T) {
	for name, want := range map[string]string{"CN=A,O=B": "A", "O=B,CN=A": "A", `CN=A\, Inc.,O=B`: "A, Inc.", "O=B": "", "OU=x+CN=A,O=B": "A", `CN=\`: "", "": ""} {
		if got := attribute(name, "CN="); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// A cursor is accepted exactly as it was made, for its own question.
func FuzzCursor(f *testing.F) {
	f.Add(encodeCursor("q", "expiry", int64(-5), "01abc"), "q")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, cursor, shape string) {
		parts, err := decodeCursor(cursor, shape, "tnt")
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		if again := encodeCursor(shape, parts...); again != cursor {
			t.Fatalf("%q and %q are one cursor", cursor, again)
		}
	})
}
