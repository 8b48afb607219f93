//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	lib "github.com/miekg/pkcs11"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/keys/pkcs11/pkcs11test"
	"chancery/internal/pki"
)

// bad is a token that misbehaves on command, with one key in it.
func bad(t *testing.T, change func(*Config)) (*pkcs11test.Shim, *Store, *keys.Signer) {
	t.Helper()
	k := pkcs11test.New(t)
	shim := k.Misbehave(t)
	k.Use(t)
	cfg := config(k)
	if change != nil {
		change(&cfg)
	}
	s := open(t, cfg)
	ref, err := s.Create(t.Context(), "key", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.NewSigner(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	return shim, s, signer
}

// sign makes and verifies one signature.
func sign(ctx context.Context, s *keys.Signer) error {
	tbs := []byte(time.Now().String())
	sig, err := s.SignTBS(ctx, tbs)
	if err != nil {
		return err
	}
	return pki.VerifyTBS(s.Public(), tbs, sig)
}

// mustBeUnavailable expects what a client is told while the token is away.
func mustBeUnavailable(t testing.TB, err error) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Status() != 503 || f.RetryAfter < time.Second {
		t.Errorf("want 503 with Retry-After, got %v", err)
	}
}

// TestSessionsKilledUnderLoad strikes sessions dead while many sign: nobody
// notices, and the module is not initialised again for it.
func TestSessionsKilledUnderLoad(t *testing.T) {
	for _, c := range []struct {
		name     string
		code     uint32
		closeAll bool
	}{
		{"the session is invalid", ckrSessionHandleInvalid, false},
		{"the session is closed", ckrSessionClosed, false},
		{"all sessions are closed, and the login with them", ckrSessionHandleInvalid, true},
		{"all sessions are closed behind our back", 0, true},
		{"the function failed", ckrFunctionFailed, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			shim, _, signer := bad(t, nil)
			shim.Set(pkcs11test.Code, c.code)
			if c.closeAll {
				shim.Set(pkcs11test.CloseAll, 1)
			}
			shim.Set(pkcs11test.Every, 40)
			hammer(t, signer, 8, 100)
			if shim.Get(pkcs11test.Injected) < 10 {
				t.Errorf("only %d strikes", shim.Get(pkcs11test.Injected))
			}
			if n := shim.Get(pkcs11test.Inits); n != 1 {
				t.Errorf("the module was initialised %d times", n)
			}
		})
	}
}

// hammer signs n times in each of some goroutines; all must succeed.
func hammer(t *testing.T, signer *keys.Signer, workers, n int) {
	t.Helper()
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range n {
				if err := sign(t.Context(), signer); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestDeviceErrorUnderLoad makes the device fail for an instant: it is opened
// anew, once for all, and only when nobody is in it.
func TestDeviceErrorUnderLoad(t *testing.T) {
	for _, code := range []uint32{ckrDeviceError, ckrGeneralError, ckrNotInitialized, ckrVendorDefined + 7} {
		t.Run(fmt.Sprintf("%#x", code), func(t *testing.T) {
			shim, _, signer := bad(t, nil)
			shim.Set(pkcs11test.Code, code)
			shim.Set(pkcs11test.Every, 100)
			shim.Set(pkcs11test.Delay, 1)
			hammer(t, signer, 8, 60)
			inits, strikes := shim.Get(pkcs11test.Inits), shim.Get(pkcs11test.Injected)
			if strikes < 3 || inits < 2 || inits > strikes+1 {
				t.Errorf("%d strikes, and the module was initialised %d times", strikes, inits)
			}
			if n := shim.Get(pkcs11test.Crimes); n != 0 {
				t.Errorf("the module was initialised %d times under a thread", n)
			}
		})
	}
}

// TestTokenGoneAndBack unplugs the device under load. Meanwhile callers are
// refused at once, and soon after it is back everything works again.
func TestTokenGoneAndBack(t *testing.T) {
	for _, code := range []uint32{ckrDeviceRemoved, ckrTokenNotPresent} {
		t.Run(fmt.Sprintf("%#x", code), func(t *testing.T) {
			shim, s, signer := bad(t, nil)
			hammer(t, signer, 4, 20)
			shim.Set(pkcs11test.Gone, code)
			deadline := time.Now().Add(2 * time.Second)
			var refused, slowest atomic.Int64
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for time.Now().Before(deadline) {
						began := time.Now()
						err := sign(t.Context(), signer)
						mustBeUnavailable(t, err)
						refused.Add(1)
						slowest.Store(max(slowest.Load(), int64(time.Since(began))))
					}
				})
			}
			all.Wait()
			if d := time.Duration(slowest.Load()); d > 4*time.Second {
				t.Errorf("a caller waited %s for a refusal", d)
			}
			if n := shim.Get(pkcs11test.Inits); n > 20 {
				t.Errorf("the module was initialised %d times in 2 s", n)
			}
			if _, err := s.List(t.Context()); err == nil {
				t.Error("the keys of a device that is away are listed")
			}
			logins := shim.Get(pkcs11test.Logins)
			shim.Set(pkcs11test.Gone, 0)
			back := time.Now()
			for sign(t.Context(), signer) != nil {
				if time.Since(back) > 5*time.Second {
					t.Fatal("no signature within 5 s of the return of the device")
				}
			}
			t.Logf("%d refusals; first signature %s after the device was back", refused.Load(), time.Since(back).Round(time.Millisecond))
			hammer(t, signer, 4, 20)
			if n := shim.Get(pkcs11test.Logins) - logins; n != 1 {
				t.Errorf("%d logins after the return, want 1", n)
			}
			if n := shim.Get(pkcs11test.Crimes); n != 0 {
				t.Errorf("the module was initialised %d times under a thread", n)
			}
		})
	}
}

// TestRealTokenMovedAway takes away the files of SoftHSM and brings them back.
func TestRealTokenMovedAway(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	cfg := config(k)
	s := open(t, cfg)
	ref, err := s.Create(t.Context(), "key", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	away := k.Dir + ".away"
	if err := os.Rename(k.Dir, away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(k.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), cfg)
	mustBeUnavailable(t, err)
	if err != nil && !strings.Contains(err.Error(), "chancery test") {
		t.Errorf("the error does not name the token: %v", err)
	}
	if err := errors.Join(os.Remove(k.Dir), os.Rename(away, k.Dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, cfg).Open(t.Context(), ref); err != nil {
		t.Error(err)
	}
}

// TestAnotherPartOfTheProcessClosesEverything uses the same library by a
// handle of its own.
func TestAnotherPartOfTheProcessClosesEverything(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	s := open(t, config(k))
	ref, err := s.Create(t.Context(), "key", pki.P384)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	other := lib.New(k.Module)
	defer other.Destroy()
	for range 5 {
		if err := other.CloseAllSessions(s.m.currentSlot()); err != nil {
			t.Fatal(err)
		}
		if err := keys.Prove(t.Context(), key); err != nil {
			t.Errorf("after all sessions were closed: %v", err)
		}
	}
	if err := other.Finalize(); err != nil {
		t.Fatal(err)
	}
	if err := keys.Prove(t.Context(), key); err != nil {
		t.Errorf("after the module was ended: %v", err)
	}
	if _, err := Open(t.Context(), config(k)); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second store on the module: %v", err)
	}
}

// TestWrongPIN: one attempt, a clear message, and the next one only with
// another PIN.
func TestWrongPIN(t *testing.T) {
	shim, s, signer := bad(t, nil)
	write := func(pin string) {
		t.Helper()
		if err := os.WriteFile(s.m.cfg.PINFile, []byte(pin+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	right, err := s.m.cfg.readPIN()
	if err != nil {
		t.Fatal(err)
	}
	write("wrong-and-secret")
	before := shim.Get(pkcs11test.Logins)
	shim.Set(pkcs11test.CloseAll, 1) // the login is lost
	shim.Set(pkcs11test.Every, 1)
	shim.Set(pkcs11test.Code, ckrSessionHandleInvalid)
	_ = sign(t.Context(), signer)
	shim.Set(pkcs11test.Every, 0)
	for range 20 {
		err = sign(t.Context(), signer)
	}
	if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), s.m.cfg.PINFile) || !strings.Contains(err.Error(), "refuses the PIN") {
		t.Errorf("a wrong PIN: %v", err)
	}
	if strings.Contains(fmt.Sprintf("%+v", err), "wrong-and-secret") {
		t.Errorf("the error has the PIN: %v", err)
	}
	if n := shim.Get(pkcs11test.Logins) - before; n != 1 {
		t.Errorf("a wrong PIN was tried %d times", n)
	}
	write(string(right))
	if err := sign(t.Context(), signer); err != nil {
		t.Errorf("after the PIN was put right: %v", err)
	}
}

// TestWrongPINAtTheStart: Open tries once, says what is wrong, and never takes
// the last try.
func TestWrongPINAtTheStart(t *testing.T) {
	k := pkcs11test.New(t)
	shim := k.Misbehave(t)
	k.Use(t)
	t.Setenv("TOKEN_PIN", "wrong-and-secret")
	var log strings.Builder
	cfg := Config{Module: k.Module, Token: k.Label, PINEnv: "TOKEN_PIN", Log: slog.New(slog.NewTextHandler(&log, nil))}
	_, err := Open(t.Context(), cfg)
	if !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), "$TOKEN_PIN") || !strings.Contains(err.Error(), "CKR_PIN_INCORRECT") {
		t.Errorf("a wrong PIN: %v", err)
	}
	if strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), "refuses the pin") {
		t.Errorf("the log: %s", log.String())
	}
	if n := shim.Get(pkcs11test.Logins); n != 1 {
		t.Errorf("%d logins", n)
	}
	for flag, word := range map[uint32]string{lib.CKF_USER_PIN_FINAL_TRY: "one try left", lib.CKF_USER_PIN_LOCKED: "locked"} {
		shim.Set(pkcs11test.Flags, flag)
		if _, err := Open(t.Context(), cfg); !fault.Is(err, fault.Precondition) || !strings.Contains(err.Error(), word) {
			t.Errorf("want %q, got %v", word, err)
		}
	}
	if n := shim.Get(pkcs11test.Logins); n != 1 {
		t.Errorf("%d logins, and one was allowed", n)
	}
	shim.Set(pkcs11test.Flags, 0)
	t.Setenv("TOKEN_PIN", k.PIN)
	open(t, cfg)
}

// TestSlowSigner: as many at once as there are sessions, as many waiting as
// allowed, and everybody else is refused at once.
func TestSlowSigner(t *testing.T) {
	shim, _, signer := bad(t, func(c *Config) { c.Sessions, c.Waiters = 3, 5 })
	shim.Set(pkcs11test.Delay, 1000)
	var served, refused atomic.Int64
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			began := time.Now()
			err := sign(t.Context(), signer)
			if err == nil {
				served.Add(1)
				return
			}
			mustBeUnavailable(t, err)
			refused.Add(1)
			if d := time.Since(began); d > 900*time.Millisecond {
				t.Errorf("refused after %s, want at once", d)
			}
		})
	}
	all.Wait()
	if served.Load() != 8 || refused.Load() != 22 {
		t.Errorf("%d served and %d refused, want 8 and 22", served.Load(), refused.Load())
	}
	if n := shim.Get(pkcs11test.MostBusy); n != 3 {
		t.Errorf("%d signatures at once, want 3", n)
	}
	shim.Set(pkcs11test.Delay, 0)
	if err := sign(t.Context(), signer); err != nil {
		t.Errorf("being busy is no failure of the device: %v", err)
	}
}

// TestHangingToken: nobody waits longer than the timeout or than his own
// deadline, threads stay bounded, the module is not touched, and when the
// token comes to itself the service is back.
func TestHangingToken(t *testing.T) {
	shim, _, signer := bad(t, func(c *Config) { c.Sessions, c.Timeout = 2, time.Second })
	defer shim.Set(pkcs11test.Hang, 0)
	shim.Set(pkcs11test.Hang, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := sign(ctx, signer); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 900*time.Millisecond {
		t.Errorf("a deadline of 50 ms ended after %s: %v", time.Since(began), err)
	}
	for range 6 {
		began := time.Now()
		mustBeUnavailable(t, sign(t.Context(), signer))
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("a caller waited %s", d)
		}
	}
	began = time.Now()
	mustBeUnavailable(t, sign(t.Context(), signer))
	if d := time.Since(began); d > 900*time.Millisecond {
		t.Errorf("a token that hangs is refused after %s, want at once", d)
	}
	if n := shim.Get(pkcs11test.Busy); n > 2 {
		t.Errorf("%d threads hang in the module", n)
	}
	shim.Set(pkcs11test.Hang, 0)
	back := time.Now()
	for sign(t.Context(), signer) != nil {
		if time.Since(back) > 5*time.Second {
			t.Fatal("no signature within 5 s")
		}
	}
	if shim.Get(pkcs11test.Crimes) != 0 || shim.Get(pkcs11test.Inits) != 1 {
		t.Error("the module was initialised while calls hung in it")
	}
}

// TestLoggedOnce: however often a signature is repeated in the token, one line
// is written to the signer's log, for the one that is handed out.
func TestLoggedOnce(t *testing.T) {
	shim, s, _ := bad(t, nil)
	refs, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Open(t.Context(), refs[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	signer, err := keys.NewSigner(key, func([32]byte) error { lines++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	shim.Set(pkcs11test.Code, ckrSessionHandleInvalid)
	shim.Set(pkcs11test.Every, 2)
	for range 10 {
		if err := sign(t.Context(), signer); err != nil {
			t.Fatal(err)
		}
	}
	if n := shim.Get(pkcs11test.Injected); lines != 10 || n < 5 {
		t.Errorf("%d lines for 10 signatures with %d repetitions", lines, n)
	}
	shim.Set(pkcs11test.Every, 1)
	if err := sign(t.Context(), signer); err == nil || lines != 10 {
		t.Errorf("a signature that was not made: %v, %d lines", err, lines)
	}
}

// TestImport brings keys of files into the token.
func TestImport(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	s := open(t, config(k))
	for _, kt := range []pki.KeyType{pki.P256, pki.P384, pki.RSA2048, pki.Ed25519} {
		key, err := keys.Generate(kt)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := s.Import(t.Context(), "imported-"+string(kt), key)
		if err != nil {
			t.Errorf("%s: %v", kt, err)
			continue
		}
		in, err := s.Open(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		message := []byte("signed in the token, verified with the key of the file")
		sig, err := pki.SignTBS(in, message)
		if err != nil {
			t.Fatal(err)
		}
		if err := pki.VerifyTBS(key.Public(), message, sig); err != nil {
			t.Errorf("%s: %v", kt, err)
		}
	}
	key, err := keys.Generate(pki.MLDSA44)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), "imported-pq", key); !fault.Is(err, fault.Invalid) {
		t.Errorf("ML-DSA: %v", err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), "imported-p521", other); err == nil {
		t.Error("a P-521 key is imported")
	}
}

// TestSignRefuses: what would sign something else than asked for.
func TestSignRefuses(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	s := open(t, config(k))
	ref, err := s.Create(t.Context(), "rsa", pki.RSA2048)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	if _, err := key.Sign(nil, digest, &rsa.PSSOptions{Hash: crypto.SHA256}); err == nil {
		t.Error("PSS is signed as PKCS #1")
	}
	if _, err := key.Sign(nil, digest[:31], crypto.SHA256); err == nil {
		t.Error("a short digest is signed")
	}
}

// TestOpenByURI finds keys by what names them, and refuses what does not.
func TestOpenByURI(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	cfg := config(k)
	s := open(t, cfg)
	ref, err := s.Create(t.Context(), "one", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	u, err := ParseURI(ref)
	if err != nil || u.Token != k.Label || u.Object != "one" || len(u.ID) != 16 || u.Type != "private" {
		t.Fatalf("the reference %s is %+v, %v", ref, u, err)
	}
	id := (&URI{ID: u.ID}).String()
	for _, good := range []string{"pkcs11:object=one", id, "pkcs11:token=chancery%20test;object=one", "pkcs11:model=SoftHSM%20v2;object=one;type=private"} {
		if _, err := s.Open(t.Context(), good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]fault.Code{"pkcs11:object=two": fault.NotFound, "pkcs11:token=other;object=one": fault.NotFound,
		"pkcs11:": fault.Invalid, "pkcs11:token=chancery%20test": fault.Invalid, "pkcs11:object=one;type=public": fault.Invalid} {
		if _, err := s.Open(t.Context(), bad); !fault.Is(err, want) {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Token = "pkcs11:token=chancery%20test;model=SoftHSM%20v2"
	open(t, cfg)
}

// TestOpenRefuses: each mistake in the configuration has its own message.
func TestOpenRefuses(t *testing.T) {
	k := pkcs11test.New(t)
	k.Use(t)
	loose := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(loose, []byte(k.PIN), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"cannot be read":             func(c *Config) { c.Module = "/nonexistent.so" },
		"cannot be loaded":           func(c *Config) { c.Module = k.PINFile },
		"token is empty":             func(c *Config) { c.Token = "" },
		`"nobody" is not there`:      func(c *Config) { c.Token = "nobody" },
		"must not hold a PIN":        func(c *Config) { c.Token = "pkcs11:token=x?pin-value=1234-secret" },
		"names an object":            func(c *Config) { c.Token = "pkcs11:token=x;object=y" },
		"cannot be opened":           func(c *Config) { c.PINFile = "/nonexistent" },
		"can be used by every user":  func(c *Config) { c.PINFile = loose },
		"no PIN is configured":       func(c *Config) { c.PINFile = "" },
		"which should hold the":      func(c *Config) { c.PINFile, c.PINEnv = "", "NOT_SET_ANYWHERE" },
		"NOTHING_IN_IT holds no PIN": func(c *Config) { c.PINFile, c.PINEnv = "", "NOTHING_IN_IT" },
	} {
		cfg := config(k)
		change(&cfg)
		t.Setenv("NOTHING_IN_IT", "")
		_, err := Open(t.Context(), cfg)
		if _, ok := errors.AsType[*fault.Error](err); !ok || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "1234-secret") {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	open(t, config(k)) // none of them left the module in use
}

// TestCodes compares our numbers with the headers.
func TestCodes(t *testing.T) {
	for ours, theirs := range map[uint]uint{
		ckrHostMemory: lib.CKR_HOST_MEMORY, ckrSlotIDInvalid: lib.CKR_SLOT_ID_INVALID, ckrGeneralError: lib.CKR_GENERAL_ERROR,
		ckrFunctionFailed: lib.CKR_FUNCTION_FAILED, ckrDeviceError: lib.CKR_DEVICE_ERROR, ckrDeviceMemory: lib.CKR_DEVICE_MEMORY,
		ckrDeviceRemoved: lib.CKR_DEVICE_REMOVED, ckrFunctionCanceled: lib.CKR_FUNCTION_CANCELED, ckrKeyHandleInvalid: lib.CKR_KEY_HANDLE_INVALID,
		ckrObjectHandleInvalid: lib.CKR_OBJECT_HANDLE_INVALID, ckrOperationActive: lib.CKR_OPERATION_ACTIVE,
		ckrOperationNotInit: lib.CKR_OPERATION_NOT_INITIALIZED, ckrPINIncorrect: lib.CKR_PIN_INCORRECT, ckrPINInvalid: lib.CKR_PIN_INVALID,
		ckrPINLenRange: lib.CKR_PIN_LEN_RANGE, ckrPINExpired: lib.CKR_PIN_EXPIRED, ckrPINLocked: lib.CKR_PIN_LOCKED,
		ckrSessionClosed: lib.CKR_SESSION_CLOSED, ckrSessionCount: lib.CKR_SESSION_COUNT, ckrSessionHandleInvalid: lib.CKR_SESSION_HANDLE_INVALID,
		ckrTokenNotPresent: lib.CKR_TOKEN_NOT_PRESENT, ckrTokenNotRecognized: lib.CKR_TOKEN_NOT_RECOGNIZED,
		ckrAlreadyLoggedIn: lib.CKR_USER_ALREADY_LOGGED_IN, ckrNotLoggedIn: lib.CKR_USER_NOT_LOGGED_IN,
		ckrPINNotInitialized: lib.CKR_USER_PIN_NOT_INITIALIZED, ckrNotInitialized: lib.CKR_CRYPTOKI_NOT_INITIALIZED,
		ckrAlreadyInitialized: lib.CKR_CRYPTOKI_ALREADY_INITIALIZED, ckrVendorDefined: lib.CKR_VENDOR_DEFINED,
	} {
		if ours != theirs {
			t.Errorf("%#x is %#x in the headers", ours, theirs)
		}
	}
	if got := ret("C_Sign", lib.Error(ckrDeviceRemoved)).Error(); got != "C_Sign: CKR_DEVICE_REMOVED (0x32)" {
		t.Error(got)
	}
}
