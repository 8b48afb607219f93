package config

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const sourceText = `
[source.main]
kind = "vault-pki"
interval = "5m"
owner_tag = "team"
rate = "20 per 1s"
url = "https://vault.test:8200"
token_file = "/run/token"
`

// kindOfSource is what a kind of source might want to know.
type kindOfSource struct {
	URL       string `toml:"url" format:"url"`
	TokenFile string `toml:"token_file"`
	Depth     int    `toml:"depth" min:"1" max:"9"`
}

// The settings of a source's kind come from the file and from variables, and
// what is printed reads the same.
func TestSourceSettings(t *testing.T) {
	c := load(t, sourceText, "CHANCERY_SOURCE_MAIN_DEPTH=7", "CHANCERY_SOURCE_MAIN_INTERVAL=10m")
	if errs := c.Check(); len(errs) > 0 {
		t.Fatal(errs)
	}
	s, got := c.CloudSource["main"], kindOfSource{}
	if err := s.Bind("main", &got); err != nil {
		t.Fatal(err)
	}
	if got != (kindOfSource{"https://vault.test:8200", "/run/token", 7}) || s.Interval != 10*time.Minute || s.OwnerTag != "team" || s.Rate != (Rate{Count: 20, Per: time.Second}) || !s.Enabled {
		t.Errorf("%+v %+v", s, got)
	}
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	printed, again := load(t, b.String()).CloudSource["main"], kindOfSource{}
	if err := printed.Bind("main", &again); err != nil || again != got || printed.Interval != s.Interval {
		t.Errorf("what was printed reads as %+v, %v", again, err)
	}
}

// Unknown keys and bad values name file, line and key.
func TestSourceSettingsAreStrict(t *testing.T) {
	for text, want := range map[string]string{
		"[source.x]\nkind = \"k\"\ntokn_file = \"a\"\n":            "chancery.toml:3: source.x.tokn_file: unknown key; did you mean \"token_file\"?",
		"[source.x]\nkind = \"k\"\ndepth = 12\n":                   "chancery.toml:3: source.x.depth: 12 is out of range",
		"[source.x]\nkind = \"k\"\nurl = \"here\"\n":               "\"here\" is not a URL",
		"[source.x]\ninterval = \"1h\"\n":                          "source.x.kind: must be set",
		"[source.x]\nkind = \"k\"\ninterval = \"1s\"\n":            "source.x.interval: must be at least 10s",
		"[source.x]\nkind = \"k\"\ntimeout = \"1s\"\n":             "source.x.timeout: must be at least 10s",
		"[source.x]\nkind = \"k\"\n[source.x.more]\nurl = \"b\"\n": "source.x.more: unknown key",
	} {
		c, err := Load(write(t, text), nil)
		if err == nil {
			s := c.CloudSource["x"]
			err = errors.Join(append(c.Check(), s.Bind("x", &kindOfSource{}))...)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
