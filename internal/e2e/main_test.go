package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"chancery/internal/db/dbtest"
)

// work is the directory of everything that outlives one test: the binaries.
var work string

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	dir, err := os.MkdirTemp("", "chancery-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Some tests run the program as another user.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	work = dir
	return dbtest.Main(m)
}

// plainBuild and faultBuild are the program as it is released, and the one
// that dies at a fault point. Each is built once, when it is first wanted.
var (
	plainBuild = sync.OnceValues(func() (string, error) {
		if path := os.Getenv("CHANCERY_BINARY"); path != "" {
			return path, nil
		}
		return build("chancery", "CGO_ENABLED=0")
	})
	faultBuild = sync.OnceValues(func() (string, error) { return build("chancery-fault", "CGO_ENABLED=0", "-tags", "faultpoint") })
	// tokenBuild is the program that speaks to PKCS #11 tokens; it needs cgo.
	tokenBuild = sync.OnceValues(func() (string, error) { return build("chancery-pkcs11", "CGO_ENABLED=1", "-tags", "pkcs11") })
)

func build(name, cgo string, args ...string) (string, error) {
	path := filepath.Join(work, name)
	cmd := exec.Command("go", append(append([]string{"build"}, args...), "-o", path, "chancery/cmd/chancery")...)
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// binary returns the released program.
func binary(t testing.TB) string {
	t.Helper()
	path, err := plainBuild()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// spawner starts every long-lived child. Its thread lives as long as this
// process, so that the children die with the process (Pdeathsig follows the
// thread that forked), even if it is killed or its timeout strikes.
var spawner = sync.OnceValue(func() chan<- func() {
	jobs := make(chan func())
	go func() {
		runtime.LockOSThread()
		for job := range jobs {
			job()
		}
	}()
	return jobs
})

// spawn starts cmd so that it cannot outlive the tests.
func spawn(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	return <-started
}
