package pki

import "testing"

func TestPatterns(t *testing.T) {
	for pattern, names := range map[string]map[string]bool{
		"example.com":   {"example.com": true, "www.example.com": false, "*.example.com": false, "xexample.com": false, "example.com.evil.test": false, "10.0.0.1": false},
		"*.example.com": {"example.com": false, "www.example.com": true, "a.b.example.com": true, "*.example.com": true, "*.a.example.com": true, "xexample.com": false},
		"EXAMPLE.com":   {"example.com": true},
		"10.0.0.0/8":    {"10.1.2.3": true, "11.1.2.3": false, "example.com": false, "::ffff:10.1.2.3": true},
		"fd00::/8":      {"fd00::1": true, "10.0.0.1": false, "fe80::1": false},
	} {
		p, err := ParsePattern(pattern)
		if err != nil {
			t.Errorf("%s: %v", pattern, err)
			continue
		}
		for name, want := range names {
			id, err := ParseIdentifier(DNS, name)
			if err != nil {
				if id, err = ParseIdentifier(IP, name); err != nil {
					continue // such an identifier cannot be ordered at all
				}
			}
			if p.Match(id) != want {
				t.Errorf("%s and %s: want %v", pattern, name, want)
			}
		}
		if again, err := ParsePattern(p.String()); err != nil || again != p {
			t.Errorf("%s reads back as %v, %v", p, again, err)
		}
	}
	if (Pattern{}).Match(Identifier{Type: DNS}) || MatchAny(nil, Identifier{Type: DNS, Value: "a.test"}) || (Pattern{}).Match(Identifier{}) {
		t.Error("nothing matches something")
	}
}

func TestParsePatternRefuses(t *testing.T) {
	for _, s := range []string{"", "*", "*.", "*.*.test", "a..test", "a b.test", "10.0.0.1/8", "10.0.0.0/33", "/", "::ffff:10.0.0.0/104", "10.0.0.1", "ex*mple.com", "https://a.test/"} {
		if p, err := ParsePattern(s); err == nil || p != (Pattern{}) {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
	if l, err := ParsePatterns([]string{"a.test", "/"}); err == nil || l != nil {
		t.Errorf("%v, %v", l, err)
	}
	if l, err := ParsePatterns(nil); err != nil || l != nil {
		t.Errorf("%v, %v", l, err)
	}
	if l, err := ParsePatterns([]string{}); err != nil || l == nil {
		t.Errorf("an empty list became %v, %v: nothing would become anything", l, err)
	}
}
