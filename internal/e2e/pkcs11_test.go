package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/keys/pkcs11/pkcs11test"
	"chancery/internal/testenv"
)

// tokenSite is an installation whose new keys are made in a token.
func tokenSite(t testing.TB, k *pkcs11test.Token) (*site, []string) {
	t.Helper()
	testenv.NeedBinary(t, "gcc")
	bin, err := tokenBuild()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.bin = bin
	s.flags = append(s.flags, "--no-limits")
	return s, append(k.Env(), "CHANCERY_KEYS_STORE=pkcs11", "CHANCERY_KEYS_PKCS11_MODULE="+k.Module, "CHANCERY_KEYS_PKCS11_TOKEN="+k.Label,
		"CHANCERY_KEYS_PKCS11_PIN_FILE="+k.PINFile, "CHANCERY_KEYS_PKCS11_SESSIONS=4")
}

// more waits until the clients have n more certificates, and returns how long
// the first of them took.
func (l *load) more(n int, limit time.Duration) time.Duration {
	l.t.Helper()
	before, _ := l.count()
	began, first := time.Now(), time.Duration(0)
	eventually(l.t, limit, func() error {
		now, _ := l.count()
		if now > before && first == 0 {
			first = time.Since(began)
		}
		if now < before+n {
			return fmt.Errorf("%d of %d certificates", now-before, n)
		}
		return nil
	})
	return first
}

// TestTokenUnderLoad keeps the keys of root, authority and responder in SoftHSM
// and takes sessions, login and device away while clients order and revoke: no
// order is lost, no serial is signed twice, and the service is back less than
// 5 s after the token is.
func TestTokenUnderLoad(t *testing.T) {
	t.Parallel()
	k := pkcs11test.New(t)
	shim := k.Misbehave(t)
	s, env := tokenSite(t, k)
	p := s.start(env...)
	l := startLoad(t, p, 4)
	l.more(20, time.Minute)

	for name, code := range map[string]uint32{"session": 0xB3, "device error": 0x30} { // CKR_SESSION_HANDLE_INVALID, CKR_DEVICE_ERROR
		struck := shim.Get(pkcs11test.Injected)
		shim.Set(pkcs11test.Code, code)
		shim.Set(pkcs11test.CloseAll, 1)
		shim.Set(pkcs11test.Every, 7)
		first := l.more(40, 2*time.Minute)
		t.Logf("%s: %d strikes during 40 certificates, the first after %s", name, shim.Get(pkcs11test.Injected)-struck, first.Round(time.Millisecond))
		shim.Set(pkcs11test.Every, 0)
	}

	inits := shim.Get(pkcs11test.Inits)
	shim.Set(pkcs11test.Gone, 0xE0) // CKR_TOKEN_NOT_PRESENT
	eventually(t, time.Minute, func() error {
		if n := shim.Get(pkcs11test.Inits) - inits; n < 4 {
			return fmt.Errorf("the server asked %d times whether the token is back", n)
		}
		return nil
	})
	shim.Set(pkcs11test.Gone, 0)
	if first := l.more(20, time.Minute); first > 5*time.Second {
		t.Errorf("the first certificate came %s after the token was back, want less than 5 s", first)
	} else {
		t.Logf("the first certificate came %s after the token was back", first.Round(time.Millisecond))
	}
	l.finish()
	if n := s.count(qProcessing); n != 0 {
		t.Errorf("%d orders are still processing when every client is content", n)
	}
	if n := shim.Get(pkcs11test.Crimes); n != 0 {
		t.Errorf("the module was initialised %d times under a thread", n)
	}
	l.keepsPromises()
	s.mustSignOnce()
	s.mustHaveKeysInToken(env)
	p.stop()
	s.doctor()
	issued, revoked := l.count()
	t.Logf("%d certificates, %d revoked; %d requests repeated, %d orders begun anew; %d signatures asked for, %d strikes, %d logins",
		issued, revoked, l.client.retries.Load(), l.lost.Load(), shim.Get(pkcs11test.Signs), shim.Get(pkcs11test.Injected), shim.Get(pkcs11test.Logins))

	p = s.start(env...) // the keys are still there
	mustIssue(t, s, l.client, "again.test")
	p.stop()
}

// mustSignOnce reads the signer's log: nothing was handed out twice.
func (s *site) mustSignOnce() {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.data, "signer.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if seen[line] {
			s.t.Errorf("two signatures of %s were handed out", line)
		}
		seen[line] = true
	}
}

// mustHaveKeysInToken runs `chancery doctor keys` beside the server.
func (s *site) mustHaveKeysInToken(env []string) {
	s.t.Helper()
	out := run(s.t, tool{name: s.bin, args: []string{"doctor", "keys", "--data", s.data}, env: env})
	if !strings.Contains(out, "all sign") || strings.Count(out, "pkcs11:token=chancery%20test;") < 3 || strings.Contains(out, "file:") {
		s.t.Errorf("doctor keys:\n%s", out)
	}
	// The key that signs checkpoints of the journal is no authority's.
	if files, err := filepath.Glob(filepath.Join(s.data, "keys", "*.key")); err != nil || len(files) != 1 || filepath.Base(files[0]) != "journal.key" {
		s.t.Errorf("keys in files: %v, %v", files, err)
	}
}

// TestTokenSettings shows the effect of each setting of the token.
func TestTokenSettings(t *testing.T) {
	t.Parallel()
	k := pkcs11test.New(t)
	shim := k.Misbehave(t)
	s, env := tokenSite(t, k)
	env = append(env, "CHANCERY_KEYS_RESPONDER_STORE=file", "CHANCERY_KEYS_PKCS11_TOKEN=pkcs11:token=chancery%20test;model=SoftHSM%20v2",
		"CHANCERY_KEYS_PKCS11_PIN_FILE=", "CHANCERY_KEYS_PKCS11_PIN_ENV=TOKEN_PIN", "TOKEN_PIN="+k.PIN,
		"CHANCERY_KEYS_PKCS11_SESSIONS=1", "CHANCERY_KEYS_PKCS11_WAITERS=1", "CHANCERY_KEYS_PKCS11_TIMEOUT=2s")
	p := s.start(env...)
	c := newClient(t, p)
	s.settle()
	out := run(t, tool{name: s.bin, args: []string{"doctor", "keys", "--data", s.data}, env: env})
	if strings.Count(out, "\tpkcs11:") != 2 || strings.Count(out, "\tocsp\tfile:") != 1 {
		t.Errorf("responder_store = file:\n%s", out)
	}

	const clients = 4
	shim.Set(pkcs11test.Delay, 700)
	var orders []acme.Order
	var bodies []acme.Finalize
	for i := range clients {
		_, o, body := halfway(t, s, c, fmt.Sprintf("s%d.test", i))
		orders, bodies = append(orders, o), append(bodies, body)
	}
	replies := make([]*reply, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			var err error
			if replies[i], err = c.once(t.Context(), orders[i].Finalize, bodies[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	refused := 0
	for _, r := range replies {
		if r != nil && r.status != http.StatusOK {
			mustBeUnavailable(t, r)
			refused++
		}
	}
	if refused != clients-2 { // one signs and one waits
		t.Errorf("%d of %d requests were refused with one session and one waiter", refused, clients)
	}
	if n := shim.Get(pkcs11test.MostBusy); n != 1 {
		t.Errorf("%d signatures at once with one session", n)
	}

	shim.Set(pkcs11test.Delay, 0)
	shim.Set(pkcs11test.Hang, 1)
	_, o, body := halfway(t, s, c, "hang.test")
	began := time.Now()
	r, err := c.once(t.Context(), o.Finalize, body)
	if err != nil {
		t.Fatal(err)
	}
	mustBeUnavailable(t, r)
	if d := time.Since(began); d < 1900*time.Millisecond || d > 8*time.Second {
		t.Errorf("a token that hangs was given up after %s, want 2 s", d)
	}
	shim.Set(pkcs11test.Hang, 0)
	mustIssue(t, s, c, "later.test")
	p.stop()
	s.doctor()
}

// TestTokenMistakes: what an operator gets wrong ends the start with one clear
// line, and a wrong PIN is tried once.
func TestTokenMistakes(t *testing.T) {
	t.Parallel()
	k := pkcs11test.New(t)
	shim := k.Misbehave(t)
	s, env := tokenSite(t, k)
	for _, c := range []struct {
		set  string
		code int
		want string
	}{
		{"CHANCERY_KEYS_PKCS11_MODULE=/nonexistent.so", 1, "/nonexistent.so cannot be read"},
		{"CHANCERY_KEYS_PKCS11_TOKEN=nobody", 75, `"nobody" is not there`},
		{"CHANCERY_KEYS_PKCS11_TOKEN=pkcs11:token=x?pin-value=secret1", 1, "must not hold a PIN"},
		{"CHANCERY_KEYS_PKCS11_PIN_FILE=" + writeFile(t, filepath.Join(t.TempDir(), "pin"), "wrong-secret1\n", 0o600), 1, "refuses the PIN"},
		{"CHANCERY_KEYS_RESPONDER_STORE=aws-kms", 1, "make build TAGS=awskms"},
	} {
		p := s.prepare(append(env, c.set)...)
		if err := p.begin(); err != nil {
			t.Fatal(err)
		}
		if !p.wait(time.Minute) {
			t.Fatalf("%s: the program runs, and should not", c.set)
		}
		text := p.log.String()
		if got := p.state.ExitCode(); got != c.code || !strings.Contains(text, c.want) || strings.Contains(text, "secret1") {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", c.set, got, c.code, c.want, text)
		}
	}
	if n := shim.Get(pkcs11test.Logins); n != 2 { // the wrong one, and the right one of the last case
		t.Errorf("%d logins", n)
	}
}

// TestPlainBuildHasNoStores: the program as it is released says what to build
// when it is asked for a token, and links no library of a key service.
func TestPlainBuildHasNoStores(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.prepare("CHANCERY_KEYS_STORE=pkcs11", "CHANCERY_KEYS_PKCS11_MODULE=/lib.so", "CHANCERY_KEYS_PKCS11_TOKEN=t", "CHANCERY_KEYS_PKCS11_PIN_ENV=PIN")
	if err := p.begin(); err != nil {
		t.Fatal(err)
	}
	if !p.wait(time.Minute) {
		t.Fatal("the program runs, and should not")
	}
	if text := p.log.String(); p.state.ExitCode() != 1 || !strings.Contains(text, "make build TAGS=pkcs11") {
		t.Errorf("exit code %d:\n%s", p.state.ExitCode(), text)
	}
	out := run(t, tool{name: "go", args: []string{"list", "-deps", "chancery/cmd/chancery"}, env: []string{"CGO_ENABLED=0"}})
	for _, module := range []string{"miekg/pkcs11", "aws-sdk-go-v2/service/kms", "keyvault/azkeys"} {
		if strings.Contains(out, module) {
			t.Errorf("the plain build links %s", module)
		}
	}
}
