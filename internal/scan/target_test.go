package scan_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
)

// names returns the targets of an expression as text.
func names(t *testing.T, cfg scan.TargetConfig, expressions ...string) []string {
	t.Helper()
	set := scan.NewTargets(cfg)
	for _, e := range expressions {
		if err := set.Add(e); err != nil {
			t.Fatalf("%s: %v", e, err)
		}
	}
	var out []string
	for _, target := range set.List() {
		out = append(out, target.String())
	}
	return out
}

func TestTargetForms(t *testing.T) {
	for text, want := range map[string][]string{
		"example.com":                        {"example.com:443"},
		"Example.COM.:8443":                  {"example.com:8443"},
		"bücher.example":                     {"xn--bcher-kva.example:443"},
		"_sip.example.com":                   {"_sip.example.com:443"},
		"https://example.com/a/path?q":       {"example.com:443"},
		"https://example.com:8443/":          {"example.com:8443"},
		"mail.example.com:25":                {"smtp://mail.example.com:25"},
		"mail.example.com:587":               {"smtp://mail.example.com:587"},
		"db.example.com:5432":                {"postgres://db.example.com:5432"},
		"smtp://mail.example.com":            {"smtp://mail.example.com:587"},
		"smtps://mail.example.com":           {"mail.example.com:465"},
		"tls://mail.example.com:25":          {"mail.example.com:25"},
		"192.0.2.1":                          {"192.0.2.1:443"},
		"192.0.2.1/www.example.com":          {"192.0.2.1:443/www.example.com"},
		"192.0.2.1:8443/www.example.com":     {"192.0.2.1:8443/www.example.com"},
		"lb.example.com/www.example.com":     {"lb.example.com:443/www.example.com"},
		"[2001:db8::1]:8443":                 {"[2001:db8::1]:8443"},
		"2001:db8::1":                        {"[2001:db8::1]:443"},
		"[2001:db8::1]":                      {"[2001:db8::1]:443"},
		"2001:db8::4/127":                    {"[2001:db8::4]:443", "[2001:db8::5]:443"},
		"192.0.2.0/30":                       {"192.0.2.1:443", "192.0.2.2:443"},
		"192.0.2.0/31:8443":                  {"192.0.2.0:8443", "192.0.2.1:8443"},
		"192.0.2.7/32":                       {"192.0.2.7:443"},
		"192.0.2.7-192.0.2.9":                {"192.0.2.7:443", "192.0.2.8:443", "192.0.2.9:443"},
		"192.0.2.7-8:443,465":                {"192.0.2.7:443", "192.0.2.8:443", "192.0.2.7:465", "192.0.2.8:465"},
		"example.com:8000-8002":              {"example.com:8000", "example.com:8001", "example.com:8002"},
		"example.com:443,443":                {"example.com:443"},
		"www.example.com/www.example.com":    {"www.example.com:443"},
		"a-b.example.com":                    {"a-b.example.com:443"},
		"imap://[2001:db8::1]:143/mail.test": {"imap://[2001:db8::1]:143/mail.test"},
	} {
		if diff := cmp.Diff(want, names(t, scan.TargetConfig{}, text)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

// What Target.String prints, Add reads back as the same target.
func TestTargetTextIsReadBack(t *testing.T) {
	for _, text := range []string{"smtp://a.test:25", "a.test:25", "[2001:db8::1]:443/b.test", "192.0.2.1:5432/b.test", "mysql://a.test:3306"} {
		set := scan.NewTargets(scan.TargetConfig{Protocol: probe.TLS})
		if err := set.Add(text); err != nil || set.List()[0].String() != text {
			t.Errorf("%s: %v, %v", text, set.List(), err)
		}
	}
}

func TestPortsAndProtocolOfTheScanAreDefaults(t *testing.T) {
	cfg := scan.TargetConfig{Ports: []uint16{443, 25}}
	want := []string{"a.test:443", "smtp://a.test:25", "b.test:8443", "c.test:465"}
	if diff := cmp.Diff(want, names(t, cfg, "a.test", "b.test:8443", "smtps://c.test")); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"imap://a.test:143"}, names(t, scan.TargetConfig{Protocol: probe.IMAP}, "a.test")); diff != "" {
		t.Errorf("protocol (-want +got):\n%s", diff)
	}
}

func TestTargetsRefuseWhatCannotBeMeant(t *testing.T) {
	for _, text := range []string{
		"", "a b", "*.example.com", "example.com:0", "example.com:65536", "example.com:", "gopher://a.test", "192.0.2.300", "192.0.2.0/33",
		"192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "[2001:db8::1", "[2001:db8::1]x", "a..b", "-a.test", "a.test/", "a.test/b c", "a.test:x",
		"192.0.2.0:443/24", strings.Repeat("a", 2000), "10.0.0.0/8", "2001:db8::/32",
	} {
		set := scan.NewTargets(scan.TargetConfig{Max: 1000})
		if err := set.Add(text); !fault.Is(err, fault.Invalid) {
			t.Errorf("%.40q: %v, want a refusal", text, err)
		}
	}
}

func TestTargetFile(t *testing.T) {
	set := scan.NewTargets(scan.TargetConfig{})
	text := "# estate\n\n  a.test  # the first\nb.test:8443\nA.test\n"
	if err := set.Read(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if len(set.List()) != 2 || set.Duplicates() != 1 {
		t.Errorf("%v, %d duplicates", set.List(), set.Duplicates())
	}
	err := set.Read(strings.NewReader("a.test\nb c\n"))
	if err == nil || !strings.Contains(fault.As(err).Detail, "line 2") {
		t.Errorf("%v, want the line named", err)
	}
}

func FuzzTarget(f *testing.F) {
	for _, s := range []string{"a.test", "[::1]:443/x.test", "192.0.2.0/24:1-3", "smtp://a", "192.0.2.1-9", "::/127", "https://a/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set := scan.NewTargets(scan.TargetConfig{Max: 200})
		if err := set.Add(text); err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		for _, target := range set.List() {
			again := scan.NewTargets(scan.TargetConfig{Protocol: probe.TLS})
			if err := again.Add(target.String()); err != nil || again.List()[0] != target {
				t.Errorf("%q gives %s, which reads back as %v, %v", text, target, again.List(), err)
			}
		}
	})
}
