package exec_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/exec"
	"chancery/internal/acme/solver/solvertest"
	"chancery/internal/issuer"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/testenv"
)

// program is an operator's program: it drives nsupdate, which knows nothing of
// us, from our JSON.
const program = `#!/usr/bin/env node
const doc = JSON.parse(require("fs").readFileSync(0, "utf8"))
if (doc.zone.startsWith("no-such")) { console.error("unknown zone\x1b[31m"); process.exit(1) }
if (doc.zone.startsWith("busy")) process.exit(75)
if (doc.zone.startsWith("slow")) { setTimeout(() => {}, 60000); return }
const quote = (v) => '"' + v + '"'
let text = "server " + process.env.SERVER.replace(":", " ") + "\nzone " + doc.zone + "\n"
for (const r of doc.remove) text += "update delete " + r.name + ". " + r.type + " " + quote(r.value) + "\n"
for (const r of doc.add) text += "update add " + r.name + ". " + r.ttl + " " + r.type + " " + quote(r.value) + "\n"
require("child_process").execFileSync("nsupdate", ["-k", process.env.KEY, "-v"], { input: text + "send\n" })
`

func TestProvider(t *testing.T) {
	testenv.NeedBinary(t, "node")
	testenv.NeedBinary(t, "nsupdate")
	s := solvertest.StartBIND(t, "example.test")
	path := filepath.Join(t.TempDir(), "hook.js")
	if err := os.WriteFile(path, []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	env := []string{"SERVER=" + s.Addr.String(), "KEY=" + solvertest.File(t, solvertest.TSIGKey)}
	open := func(timeout time.Duration) solver.Provider {
		return solvertest.Open(t, exec.Kind, &exec.Config{Command: []string{path}, Env: env, Timeout: timeout})
	}
	p := open(30 * time.Second)
	solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test", Values: s.Values})

	record := []solver.Record{{Name: "x.test", Value: "v"}}
	err := p.Apply(t.Context(), "no-such.test", record, nil)
	if err == nil || !strings.Contains(err.Error(), "unknown zone") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("error %q has not what the program said, or what steers a terminal", err)
	}
	issuertest.WantClass(t, p.Apply(t.Context(), "busy.test", record, nil), issuer.Unavailable)
	if err := open(300*time.Millisecond).Apply(t.Context(), "slow.test", record, nil); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a program that hangs: %v", err)
	}
}

func TestMistakesAreFoundEarly(t *testing.T) {
	for name, c := range map[string]exec.Config{"no command": {}, "relative": {Command: []string{"hook.sh"}}, "missing": {Command: []string{"/nonexistent"}},
		"env": {Command: []string{"/bin/true"}, Env: []string{"X"}}} {
		if _, err := exec.Kind.Open(solver.Env{}, &c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
