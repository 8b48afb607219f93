package packaging_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"chancery/internal/config"
	"chancery/internal/obs"
	"chancery/internal/testenv"
)

func itoa(n int32) string { return strconv.Itoa(int(n)) }

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}

// commandExists holds a command line against the reference of the program,
// which a test of cmd/chancery keeps fresh.
func commandExists(t *testing.T, args []string) {
	t.Helper()
	reference := read(t, "../docs/cli.md")
	name, rest := "chancery", args
	for len(rest) > 0 && strings.Contains(reference, "\n## "+name+" "+rest[0]+"\n") {
		name, rest = name+" "+rest[0], rest[1:]
	}
	_, text, ok := strings.Cut(reference, "\n## "+name+"\n")
	if !ok {
		t.Errorf("there is no command %v", args)
		return
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for i, a := range rest {
		switch {
		case strings.HasPrefix(a, "--"):
			if !regexp.MustCompile(`(?m)^ +(-\w, )?` + a + `\b`).MatchString(text) {
				t.Errorf("%s has no flag %s", name, a)
			}
		case strings.HasPrefix(a, "$"): // more flags, from the environment
		case i == 0 || !strings.HasPrefix(rest[i-1], "--"):
			t.Errorf("there is no command %s %s", name, a)
		}
	}
}

func TestCommandsThatDoNotExistAreNoticed(t *testing.T) {
	for _, bad := range [][]string{{"serve", "--no-such-flag"}, {"serf"}, {"ca", "inti", "--offline"}} {
		sub := &testing.T{}
		commandExists(sub, bad)
		if !sub.Failed() {
			t.Errorf("%v was taken", bad)
		}
	}
}

// answers checks that the debug listener has paths.
func answers(t *testing.T, paths ...string) {
	t.Helper()
	h := obs.NewDebug(obs.NewMetrics(obs.Build{}), obs.Build{}, obs.Discard()).Handler()
	for _, path := range paths {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusOK {
			t.Errorf("GET %s: %d", path, w.Code)
		}
	}
}

var execStart = regexp.MustCompile(`(?m)^ExecStart=/usr/bin/chancery (.*)$`)

func TestUnits(t *testing.T) {
	tool := testenv.NeedBinary(t, "systemd-analyze")
	self, err := os.Executable()
	check(t, err)
	for name, exposed := range map[string]string{"chancery.service": "20", "chancery-agent.service": "35"} { // tenths, see systemd-analyze(1)
		text := read(t, "systemd/"+name)
		line := execStart.FindStringSubmatch(text)
		if line == nil {
			t.Fatalf("%s starts nothing", name)
		}
		commandExists(t, strings.Fields(line[1]))
		// The check wants the program to be there.
		unit := filepath.Join(t.TempDir(), name)
		check(t, os.WriteFile(unit, []byte(strings.ReplaceAll(text, "/usr/bin/chancery", self)), 0o644))
		if out, err := exec.Command(tool, "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := exec.Command(tool, "security", "--offline=yes", "--threshold="+exposed, unit).CombinedOutput(); err != nil {
			t.Errorf("%s is exposed more than %s: %v\n%s", name, exposed, err, out[max(0, len(out)-200):])
		}
	}
}

func TestShippedConfiguration(t *testing.T) {
	for _, file := range []string{"debian/chancery.toml", "debian/agent.toml.example"} {
		c, err := config.Load(file, nil)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		for _, p := range c.Check() {
			t.Error(p)
		}
	}
}

var (
	dockerEnv    = regexp.MustCompile(`(CHANCERY_[A-Z0-9_]+=\S+)`)
	dockerExpose = regexp.MustCompile(`(?m)^EXPOSE (.*)$`)
	dockerExec   = regexp.MustCompile(`(?m)CMD \["/usr/bin/chancery", (.*)\]$`)
)

// TestDockerfile lints the file and holds it against the program; no image is
// built here, because that takes an engine.
func TestDockerfile(t *testing.T) {
	text := read(t, "container/Dockerfile")
	c, err := config.Load("", regexp.MustCompile(dockerEnv.String()).FindAllString(text, -1))
	check(t, err)
	for _, p := range c.Check() {
		t.Error(p)
	}
	want := strings.ReplaceAll(c.Server.Listen+c.Server.HTTPListen+c.Server.DebugListen, ":", " ")
	if got := dockerExpose.FindStringSubmatch(text); got == nil || " "+got[1] != want {
		t.Errorf("exposed are %q, listened on%s", got, want)
	}
	healthy := dockerExec.FindStringSubmatch(text)
	if healthy == nil {
		t.Fatal("there is no health check")
	}
	commandExists(t, strings.Split(strings.NewReplacer(`"`, "", ", ", ",").Replace(healthy[1]), ","))
	commandExists(t, []string{"serve"})
	for _, must := range []string{"\nFROM scratch\n", "\nUSER 65532:65532\n", "\nENTRYPOINT [\"/usr/bin/chancery\"]\n", "VOLUME [\"" + c.Server.Data + "\"]"} {
		if !strings.Contains(text, must) {
			t.Errorf("%q is missing", must)
		}
	}

	dir := testenv.NodeModules(t, "dockerfile-utils")
	cmd := exec.Command("node", "-e", `const {validate} = require("dockerfile-utils");
		for (const d of validate(require("fs").readFileSync(0, "utf8"), {})) console.log(d.range.start.line + 1, d.message);`)
	cmd.Dir = dir
	for broken, input := range map[bool]string{false: text, true: strings.Replace(text, "EXPOSE", "EXPOSED", 1)} {
		cmd := *cmd
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil || (len(out) > 0) != broken {
			t.Errorf("broken %v: %v\n%s", broken, err, out)
		}
	}
}

// TestDebianPackage builds the package, installs it into a root of its own,
// runs what was installed, and purges it.
func TestDebianPackage(t *testing.T) {
	for _, tool := range []string{"dpkg", "dpkg-deb", "useradd"} {
		testenv.NeedBinary(t, tool)
	}
	if os.Getuid() != 0 {
		testenv.Skip(t, "only root can install a package")
	}
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "DEB_COMPRESS=none", "SOURCE_DATE_EPOCH=1700000000", "CGO_ENABLED=0", "DEBIAN_FRONTEND=noninteractive")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	program, deb := filepath.Join(dir, "program"), filepath.Join(dir, "a.deb")
	run("go", "build", "-o", program, "../cmd/chancery")
	run("debian/build.sh", program, program, "v1.2.3-4-gabcdef", runtime.GOARCH, deb)
	again := filepath.Join(dir, "b.deb")
	run("debian/build.sh", program, program, "v1.2.3-4-gabcdef", runtime.GOARCH, again)
	if read(t, deb) != read(t, again) {
		t.Error("the same sources made another package")
	}
	if got := strings.TrimSpace(run("dpkg-deb", "-f", deb, "Version")); got != "1.2.3+4.gabcdef" {
		t.Errorf("version %s", got)
	}

	root := filepath.Join(dir, "root")
	for _, d := range []string{"etc", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/log"} {
		check(t, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/shadow": "root:*:1::::::\n", "etc/gshadow": "root:*::\n", "var/lib/dpkg/status": "", "var/lib/dpkg/available": ""} {
		check(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	dpkg := func(args ...string) string {
		return run("dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-depends"}, args...)...)
	}
	dpkg("--install", deb)
	if passwd := read(t, filepath.Join(root, "etc/passwd")); !strings.Contains(passwd, "\nchancery:") || !strings.Contains(passwd, ":/var/lib/chancery:/usr/sbin/nologin") {
		t.Errorf("users: %s", passwd)
	}
	state, err := os.Stat(filepath.Join(root, "var/lib/chancery"))
	check(t, err)
	if state.Mode().Perm() != 0o700 {
		t.Errorf("the data directory has mode %o", state.Mode().Perm())
	}
	installed := filepath.Join(root, "usr/bin/chancery")
	conf := filepath.Join(root, "etc/chancery/chancery.toml")
	if out := run(installed, "config", "check", "--config", conf); strings.Contains(out, "problem") {
		t.Error(out)
	}
	for _, file := range []string{"lib/systemd/system/chancery.service", "lib/systemd/system/chancery-agent.service", "usr/share/man/man1/chancery-serve.1.gz",
		"usr/share/bash-completion/completions/chancery", "usr/share/zsh/vendor-completions/_chancery", "usr/share/fish/vendor_completions.d/chancery.fish"} {
		if info, err := os.Stat(filepath.Join(root, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	serves(t, installed, conf, filepath.Join(root, "var/lib/chancery"))

	// What an administrator changed stays at an upgrade; keys stay for ever.
	check(t, os.WriteFile(conf, append([]byte("# ours\n"), read(t, conf)...), 0o644))
	dpkg("--force-confdef", "--force-confold", "--install", deb)
	if !strings.HasPrefix(read(t, conf), "# ours\n") {
		t.Error("an upgrade replaced the configuration")
	}
	if out := dpkg("--purge", "chancery"); !strings.Contains(out, "is kept") {
		t.Errorf("the purge does not say what stays: %s", out)
	}
	for _, gone := range []string{conf, installed} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", gone, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(root, "var/lib/chancery/keys/*.key")); err != nil || len(left) == 0 {
		t.Errorf("the purge deleted keys of authorities (%v)", err)
	}
}

// serves makes an authority with the installed program and configuration, as
// docs/install.md says, and serves until it is ready.
func serves(t *testing.T, program, conf, data string) {
	t.Helper()
	environ := append(os.Environ(), "CHANCERY_SERVER_DATA="+data, "CHANCERY_SERVER_LISTEN=127.0.0.1:0", "CHANCERY_SERVER_HTTP_LISTEN=localhost:0", "CHANCERY_SERVER_DEBUG_LISTEN=")
	start := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = environ
		return cmd
	}
	if out, err := start("ca", "init", "--offline", "--config", conf).CombinedOutput(); err != nil {
		t.Fatalf("ca init: %v\n%s", err, out)
	}
	cmd := start("serve", "--config", conf)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	first := make([]byte, 256)
	n, err := out.Read(first)
	if err != nil || !strings.HasPrefix(string(first[:n]), "chancery is ready") {
		t.Errorf("serve said %q (%v)", first[:n], err)
	}
	check(t, cmd.Process.Signal(os.Interrupt))
	go func() { // what else it says
		for err == nil {
			_, err = out.Read(first)
		}
	}()
	if state, err := cmd.Process.Wait(); err != nil || state.ExitCode() != 0 {
		t.Errorf("serve ended with %v (%v)", state, err)
	}
}

func TestReleaseNamesEveryScript(t *testing.T) {
	for _, script := range []string{"postinst", "prerm", "postrm", "build.sh"} {
		info, err := os.Stat("debian/" + script)
		check(t, err)
		if info.Mode()&0o111 == 0 {
			t.Errorf("debian/%s is no program", script)
		}
		if out, err := exec.Command("sh", "-n", "debian/"+script).CombinedOutput(); err != nil {
			t.Errorf("debian/%s: %s", script, out)
		}
	}
	makefile := read(t, "../Makefile")
	for _, target := range []string{"deb", "release"} {
		if !slices.Contains(regexp.MustCompile(`(?m)^[a-z-]+:`).FindAllString(makefile, -1), target+":") {
			t.Errorf("make has no target %s", target)
		}
	}
}
