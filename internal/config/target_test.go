package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// base is embedded in a kind's settings, as kinds do.
type base struct {
	Dir   string   `toml:"dir"`
	Files []string `toml:"files"`
}

// settings are those of a kind.
type settings struct {
	base
	Port  int           `toml:"port" min:"1" max:"65535"`
	Wait  time.Duration `toml:"wait"`
	Plain bool          `toml:"plain"`
}

const twoTargets = `[[target]]
name = "edge"
kind = "nginx"
probe = ["127.0.0.1:443"]
windows = ["02:00-05:00"]
dir = "/etc/live"
port = 8443
plain = true

[[target]]
name = "mail"
kind = "postfix"
collect = "0s"
settle = "2s"
dri = "/etc/mail"
port = "x"
`

func TestTargetsAndTheirSettings(t *testing.T) {
	c := load(t, twoTargets)
	if found := c.Check(); len(found) > 0 {
		t.Errorf("%v", found)
	}
	edge, mail := c.Target[0], c.Target[1]
	if edge.Name != "edge" || edge.Collect != 15*time.Minute || edge.Settle != 15*time.Second || len(edge.Windows) != 1 || mail.Collect != 0 || mail.Settle != 2*time.Second {
		t.Errorf("%+v\n%+v", edge, mail)
	}
	got := settings{Wait: time.Minute, base: base{Files: []string{"x"}}}
	if err := edge.Settings().Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := settings{base{"/etc/live", []string{"x"}}, 8443, time.Minute, true}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{}), cmp.AllowUnexported(base{})); diff != "" {
		t.Error(diff)
	}
	err := mail.Settings().Decode(new(settings))
	for _, want := range []string{`chancery.toml:15: target.mail.dri: unknown key; did you mean "dir"?`, `chancery.toml:16: target.mail.port: a number belongs here, not the string "x"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if got := edge.Settings().Problem(errors.New("dir: must be absolute")).Error(); !strings.HasSuffix(got, "chancery.toml:6: target.edge.dir: must be absolute") {
		t.Error(got)
	}
	if got := edge.Settings().Problem(errors.New("no such thing: really")).Error(); !strings.HasSuffix(got, "chancery.toml:1: target.edge: no such thing: really") {
		t.Error(got)
	}
}

func TestSettingsFromElsewhere(t *testing.T) {
	var got settings
	err := NewSettings("flag", map[string]any{"dir": "/x", "port": int64(0)}).Decode(&got)
	if got.Dir != "/x" || err == nil || err.Error() != "default: flag.port: 0 is out of range; 1 to 65535 is allowed" {
		t.Errorf("%+v %v", got, err)
	}
	if got := load(t, twoTargets).Target[1].Settings().Problem(errors.New("port: taken")).Error(); !strings.HasSuffix(got, "chancery.toml:16: target.mail.port: taken") {
		t.Error(got)
	}
	if err := (Target{}).Settings().Decode(&got); err != nil {
		t.Error(err)
	}
}

func TestMistakesInTargets(t *testing.T) {
	for _, c := range []struct {
		text string
		env  []string
		want []string
	}{
		{"[target]\nname = \"x\"\n", nil, []string{"chancery.toml:1: target: this is a list of sections; write [[target]] on a line of its own"}},
		{"target = 1\n", nil, []string{"chancery.toml:1: target: this is a list of sections; write [[target]] on a line of its own"}},
		{"[[target]]\nkind = 3\n", nil, []string{"chancery.toml:2: target.1.kind: a string belongs here, not the number 3"}},
		{"[[server]]\n", nil, []string{"chancery.toml:1: server: this is a section; write [server] on a line of its own"}},
		{"[[target]]\nname = \"c\"\nkind=\"x\"\n[[target]]\nname = \"c\"\nkind = \"y\"\n", nil, []string{
			"chancery.toml:5: target.c.name: there are two targets with this name",
		}},
		{"[[target]]\nprobe = []\nname = \"A b\"\n", nil, []string{
			"chancery.toml:3: target.A b.name: a name is 1 to 64 lower-case letters, digits and hyphens",
			"chancery.toml:1: target.A b.kind: must be set; `chancery targets kinds` lists what there is",
		}},
		{"", []string{"CHANCERY_TARGET_X=1", "CHANCERY_TARGET_SERVICE_HOST=1"}, []string{"$CHANCERY_TARGET_X: target: cannot be set by a variable; write [[target]] in the file"}},
	} {
		if diff := cmp.Diff(c.want, messages(t, c.text, c.env...)); diff != "" {
			t.Errorf("%s\n%s", c.text, diff)
		}
	}
}

func TestTargetsPrintAndReadBack(t *testing.T) {
	c := load(t, twoTargets)
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	again := load(t, b.String())
	var got settings
	if err := again.Target[0].Settings().Decode(&got); err != nil || got.Dir != "/etc/live" || got.Port != 8443 || len(again.Target) != 2 || again.Target[1].Settle != 2*time.Second {
		t.Errorf("%+v %v\n%s", got, err, b.String())
	}
}
