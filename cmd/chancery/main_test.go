package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"chancery/internal/fault"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chancery": main})
}

// TestScripts runs testdata/*.txt: the command line as users type it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			// The race detector lets every process sleep a second at its end.
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit": expectExit,
		},
	})
}

// TestScriptsAgainstAServer runs testdata/server/*.txt, the command line as
// users type it, against a server whose data directory is $DATA.
func TestScriptsAgainstAServer(t *testing.T) {
	s, _ := startDev(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/server",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			e.Setenv("DATA", s.path("data"))
			return nil
		},
	})
}

// expectExit is `exit CODE PROGRAM ARGS...`: the exact exit code matters.
func expectExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit code program args...")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func TestReferenceIsFresh(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"man", "--markdown"}, env{stdout: &out, stderr: &errs}); code != exitOK {
		t.Fatalf("exit %d: %s", code, &errs)
	}
	got, err := os.ReadFile("../../docs/cli.md")
	if err != nil || !bytes.Equal(got, out.Bytes()) {
		t.Errorf("docs/cli.md is stale; run go generate ./cmd/chancery (%v)", err)
	}
}

func TestKindsAreFresh(t *testing.T) {
	got, err := os.ReadFile("../../docs/kinds.md")
	if err != nil || string(got) != kindsText() {
		t.Errorf("docs/kinds.md is stale; run go generate ./cmd/chancery (%v)", err)
	}
}

// TestHelpFitsOneScreen: 40 lines of 80 columns hold the whole program.
func TestHelpFitsOneScreen(t *testing.T) {
	var out bytes.Buffer
	e := env{stdout: &out, stderr: &out}
	if code := run(t.Context(), []string{"help"}, e); code != exitOK {
		t.Fatalf("exit %d: %s", code, &out)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) > 40 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if len(l) > 80 {
			t.Errorf("%d columns: %s", len(l), l)
		}
	}
	for _, s := range sections(e) {
		for _, c := range s.commands {
			if !strings.Contains(out.String(), "\n  "+c.Name()+" ") {
				t.Errorf("%s is not listed", c.Name())
			}
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
		text string
	}{
		{errors.New("open database: disk is full"), 1, "chancery: open database: disk is full\n"},
		{usagef("-x is unknown"), 2, "chancery: -x is unknown\nnext: chancery help\n"},
		{problems("chancery doctor", "2 rows are wrong"), 3, "chancery: 2 rows are wrong\nnext: chancery doctor\n"},
		{fault.New(fault.NotFound, "there is no certificate a1"), 1, "chancery: there is no certificate a1\n"},
		{fmt.Errorf("renew: %w", fault.Wrap(errors.New("dial tcp: refused"), fault.Unavailable, "the CA is away").Retry(time.Minute)), 75, "chancery: the CA is away: dial tcp: refused (try again in 1m0s)\n"},
		{fault.New(fault.RateLimited, "too many orders"), 75, "chancery: too many orders\n"},
	} {
		var b bytes.Buffer
		if code := report(&b, nil, c.err); code != c.code || b.String() != c.text {
			t.Errorf("%v: exit %d, %q", c.err, code, &b)
		}
	}
}

// list prints a sample listing with the given flags.
func list(t *testing.T, tty bool, format outFormat, color bool) string {
	t.Helper()
	var b bytes.Buffer
	p := &printer{w: &b, tty: tty, format: format, color: color}
	rows := [][]string{{"a.example", "47d", "ab:cd"}, {"evil\x1b[2J\tname\n", "1d", "ef"}}
	value := []map[string]any{{"name": "a.example", "days": 47}}
	if err := p.list([]column{{name: "name"}, {name: "expires"}, {name: "serial", wide: true}}, rows, value); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestListings(t *testing.T) {
	for _, c := range []struct {
		name string
		got  string
		want string
	}{
		{"table", list(t, true, outAuto, false), "NAME             EXPIRES\na.example        47d\nevil?[2J?name?   1d\n"},
		{"wide", list(t, true, outWide, false), "NAME             EXPIRES  SERIAL\na.example        47d      ab:cd\nevil?[2J?name?   1d       ef\n"},
		{"tsv", list(t, false, outTSV, false), "name\texpires\tserial\na.example\t47d\tab:cd\nevil?[2J?name?\t1d\tef\n"},
		{"json", list(t, false, outJSON, false), "[\n  {\n    \"days\": 47,\n    \"name\": \"a.example\"\n  }\n]\n"},
		{"yaml", list(t, false, outYAML, false), "- days: 47\n  name: a.example\n"},
	} {
		if got := strings.ReplaceAll(c.got, "  \n", "\n"); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(c.want), " ") {
			t.Errorf("%s:\n%q\n%q", c.name, got, c.want)
		}
	}
	if got := list(t, true, outAuto, true); !strings.Contains(got, "\x1b[1m") || strings.Contains(got, "\xff") || strings.Contains(got, "evil\x1b") {
		t.Errorf("colour: %q", got)
	}
}

func TestFormatFollowsTheTerminalAndTheFlags(t *testing.T) {
	var out bytes.Buffer
	for _, c := range []struct {
		flags outFlags
		want  outFormat
	}{{outFlags{}, outTSV}, {outFlags{json: true}, outJSON}, {outFlags{format: "yaml"}, outYAML}, {outFlags{format: "table"}, outText}} {
		p, err := c.flags.printer(env{stdout: &out})
		if err != nil || p.format != c.want || p.color {
			t.Errorf("%+v: %+v %v", c.flags, p, err)
		}
	}
	bad := outFlags{format: "xml"}
	if _, err := bad.printer(env{stdout: &out}); exitCode(err) != exitUsage {
		t.Errorf("-o xml: %v", err)
	}
}

func TestYAMLKeepsStringsStrings(t *testing.T) {
	got, err := toYAML([]byte(`{"serial":"0123","on":"yes","empty":"","list":[],"num":5,"t":"true","lines":"a\nb"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`serial: "0123"`, `"on": "yes"`, `empty: ""`, "list: []", "num: 5", `t: "true"`} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%s is missing from\n%s", want, got)
		}
	}
}
