package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Shared is what several kinds have in common.
type Shared struct {
	Directory string `toml:"directory"`
}

// kindSettings is what a kind of issuer might want to know.
type kindSettings struct {
	Shared
	Names    []string      `toml:"names"`
	Timeout  time.Duration `toml:"delay"`
	Count    int           `toml:"count" min:"1" max:"9"`
	On       bool          `toml:"on"`
	Password string        `toml:"password"`
}

func loadText(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path, environ)
}

const pluginText = `
[issuer.le]
kind = "acme"
workers = 3
limits = "letsencrypt"
directory = "https://a.test/directory"
names = ["a", "b"]
delay = "5m"
count = 4
on = true
password = "hunter2"

[issuer.own]
kind = "local"
fallbacks = ["le"]

[target.edge]
kind = "nginx"
collect = "0s"
directory = "/etc/nginx"
`

// The settings of a kind are read by the struct that the kind describes, from
// the file and from variables, and are printed without secrets.
func TestSettingsOfKinds(t *testing.T) {
	c, err := loadText(t, pluginText, "CHANCERY_ISSUER_LE_COUNT=7", "CHANCERY_ISSUER_LE_WORKERS=5", "CHANCERY_ISSUER_LE_NAMES=x,y,z")
	if err != nil {
		t.Fatal(err)
	}
	if errs := c.Check(); len(errs) > 0 {
		t.Fatal(errs)
	}
	var got kindSettings
	le := c.Issuer["le"]
	if err := le.Bind("le", &got); err != nil {
		t.Fatal(err)
	}
	want := kindSettings{Shared{"https://a.test/directory"}, []string{"x", "y", "z"}, 5 * time.Minute, 7, true, "hunter2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if le.Workers != 5 || le.Limits != "letsencrypt" || c.Issuer["own"].Workers != 8 || c.Target["edge"].Collect != 0 {
		t.Errorf("%+v %+v", le, c.Target)
	}
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); strings.Contains(text, "hunter2") || !strings.Contains(text, `directory = "https://a.test/directory"`) || !strings.Contains(text, `kind = "nginx"`) {
		t.Error(text)
	}
	again, err := loadText(t, b.String())
	if err != nil {
		t.Fatal(err)
	}
	var second kindSettings
	printed := again.Issuer["le"]
	if err := printed.Bind("le", &second); err != nil || second.Count != 7 || second.Directory != want.Directory {
		t.Errorf("what was printed reads as %+v, %v", second, err)
	}
}

// Unknown keys and wrong types of a kind are refused with file, line and key.
func TestSettingsOfKindsAreStrict(t *testing.T) {
	for text, want := range map[string]string{
		"[issuer.x]\nkind = \"k\"\ndirectry = \"a\"\n":           "c.toml:3: issuer.x.directry: unknown key; did you mean \"directory\"?",
		"[issuer.x]\nkind = \"k\"\ncount = 12\n":                 "c.toml:3: issuer.x.count: 12 is out of range",
		"[issuer.x]\nkind = \"k\"\non = \"maybe\"\n":             "c.toml:3: issuer.x.on: true or false belongs here",
		"[target.x]\nkind = \"k\"\n[target.x.more]\na = \"b\"\n": "target.x.more: unknown key",
	} {
		c, err := loadText(t, text)
		if err == nil {
			i := c.Issuer["x"]
			err = i.Bind("x", &kindSettings{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"[issuer.x]\nworkers = 2\n":                         "issuer.x.kind: must be set",
		"[issuer.x]\nkind = \"k\"\nfallbacks = [\"y\"]\n":   "is no other issuer",
		"[issuer.x]\nkind = \"k\"\nstaging = \"x\"\n":       "is no other issuer",
		"[issuer.x]\nkind = \"k\"\nstep_timeout = \"1h\"\n": "at most half of renew.lease",
		"[target.x]\nbatch = 5\n":                           "target.x.kind: must be set",
	} {
		c, err := loadText(t, text)
		if err == nil {
			err = errors.Join(c.Check()...)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := loadText(t, "[issuer.x]\nkind = \"k\"\nlimits = \"mine\"\n"); err == nil || !strings.Contains(err.Error(), "none of none, letsencrypt") {
		t.Errorf("limits: %v", err)
	}
}
