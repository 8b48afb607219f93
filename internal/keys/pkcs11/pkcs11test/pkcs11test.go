// Package pkcs11test makes PKCS #11 tokens for tests: SoftHSM, and a module in
// front of it that loses sessions, unplugs the device and delays on command.
package pkcs11test

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"chancery/internal/testenv"
)

// Token is a token of SoftHSM in a directory of its own.
type Token struct {
	Module  string // library to load
	Label   string
	PIN     string
	PINFile string
	Dir     string // where SoftHSM keeps its tokens
	conf    string
	env     []string
}

// New makes a token. Without SoftHSM the test is skipped, or fails in CI.
func New(t testing.TB) *Token {
	t.Helper()
	util := testenv.NeedBinary(t, "softhsm2-util")
	module := testenv.NeedBinary(t, "libsofthsm2.so", "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so")
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	k := &Token{Module: module, Label: "chancery test", PIN: "correct-horse-1", PINFile: filepath.Join(dir, "pin"),
		Dir: filepath.Join(dir, "tokens"), conf: conf, env: []string{"SOFTHSM2_CONF=" + conf}}
	write(t, k.PINFile, k.PIN+"\n")
	write(t, conf, fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", k.Dir))
	if err := os.Mkdir(k.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, k.env, util, "--init-token", "--free", "--label", k.Label, "--pin", k.PIN, "--so-pin", "officer-1234")
	return k
}

// Env is what a process needs in its environment to load the module.
func (k *Token) Env() []string { return k.env }

// Use sets the environment of this process.
func (k *Token) Use(t *testing.T) {
	t.Helper()
	for _, kv := range k.env {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(name), err, out)
	}
	return string(out)
}

//go:embed testdata/shim.c
var shimSource string

// Word is a word of the memory that test and shim share.
type Word int

// Commands. 0 is harmless everywhere.
const (
	Every     Word = iota // strike at each signature whose number this divides
	Code                  // what C_Sign returns then, after its session was closed
	Gone                  // what every call returns: the device is unplugged, and stays away until the next C_Initialize
	Delay                 // milliseconds that each C_Sign takes longer
	Hang                  // 1: C_Sign does not return
	Flags                 // more flags of the token
	CloseAll              // 1: strike all sessions of the token dead as well
	LoginCode             // what C_Login returns
)

// What the shim saw.
const (
	Signs    Word = iota + 16 // signatures asked for
	Logins                    // calls of C_Login
	Inits                     // calls of C_Initialize
	Busy                      // threads in C_Sign now
	MostBusy                  // and the most at once so far
	Crimes                    // C_Initialize or C_Finalize while a thread was in C_Sign
	Injected                  // strikes
	Opens                     // calls of C_OpenSession
)

// Shim is a module in front of SoftHSM.
type Shim struct {
	control string // path of the shared memory
	words   []uint32
}

// Misbehave puts a shim before the token: Module is replaced, and Env grows.
func (k *Token) Misbehave(t testing.TB) *Shim {
	t.Helper()
	gcc := testenv.NeedBinary(t, "gcc")
	dir := t.TempDir()
	headers := strings.TrimSpace(run(t, nil, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11"))
	source, module := filepath.Join(dir, "shim.c"), filepath.Join(dir, "shim.so")
	write(t, source, shimSource)
	run(t, nil, gcc, "-shared", "-fPIC", "-O1", "-Wall", "-I", headers, "-o", module, source, "-ldl", "-lpthread")
	s := &Shim{control: filepath.Join(dir, "control")}
	write(t, s.control, string(make([]byte, 4096)))
	s.mmap(t)
	k.env = append(k.env, "CHANCERY_TEST_SHIM="+s.control, "CHANCERY_TEST_SHIM_MODULE="+k.Module)
	k.Module = module
	return s
}

func (s *Shim) mmap(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile(s.control, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	s.words = unsafe.Slice((*uint32)(unsafe.Pointer(&mem[0])), 1024)
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
}

// Set gives a command.
func (s *Shim) Set(w Word, v uint32) { atomic.StoreUint32(&s.words[w], v) }

// Get reads a word.
func (s *Shim) Get(w Word) uint32 { return atomic.LoadUint32(&s.words[w]) }
