package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

const testSecret = "correct horse battery"

func testPassphrase(t testing.TB, secret string) Passphrase {
	t.Helper()
	p, err := NewPassphrase([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantFault(t *testing.T, err error, code fault.Code, text string) {
	t.Helper()
	if !fault.Is(err, code) || !strings.Contains(err.Error(), text) {
		t.Errorf("error is %v, want %s with %q", err, code, text)
	}
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

func TestGenerateSignsAndVerifies(t *testing.T) {
	for _, kt := range pki.KeyTypes {
		key, err := Generate(kt)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pki.KeyTypeOf(key.Public()); err != nil || got != kt {
			t.Errorf("%s: made a %s, %v", kt, got, err)
		}
		if err := pki.CheckKey(key.Public()); err != nil {
			t.Errorf("%s: %v", kt, err)
		}
		sig, err := pki.SignTBS(key, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		if err := pki.VerifyTBS(key.Public(), []byte("message"), sig); err != nil {
			t.Errorf("%s: %v", kt, err)
		}
		if err := pki.VerifyTBS(key.Public(), []byte("massage"), sig); !errors.Is(err, pki.ErrSignature) {
			t.Errorf("%s: a signature over other bytes: %v", kt, err)
		}
	}
	if key, err := Generate("dsa"); err == nil {
		t.Errorf("made a %T", key)
	}
}

func TestPassphraseNeverShows(t *testing.T) {
	p := testPassphrase(t, testSecret)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "passphrase", p, "config", struct{ P Passphrase }{p})
	asJSON, err := json.Marshal(map[string]any{"p": p, "in": struct{ P *Passphrase }{&p}})
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{log.String(), string(asJSON), p.String(), fmt.Errorf("open: %v", p).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		texts = append(texts, fmt.Sprintf(verb, p), fmt.Sprintf(verb, &p), fmt.Sprintf(verb, struct{ P Passphrase }{p}))
	}
	for _, text := range texts {
		if strings.Contains(text, "horse") || strings.Contains(text, fmt.Sprintf("%x", "horse")) || strings.Contains(text, "104 111 114") {
			t.Errorf("the passphrase shows in %s", text)
		}
	}
}

func TestPassphraseSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, text := range map[string]string{"plain": testSecret, "newline": testSecret + "\n", "crlf": testSecret + "\r\nsecond line"} {
		p, err := PassphraseFromFile(write(name, text, 0o640))
		if err != nil || string(p.secret) != testSecret {
			t.Errorf("%s: %q, %v", name, p.secret, err)
		}
	}
	_, err := PassphraseFromFile(write("open", testSecret, 0o644))
	wantFault(t, err, fault.Invalid, "chmod")
	_, err = PassphraseFromFile(write("short", "1234567", 0o600))
	wantFault(t, err, fault.Invalid, "8 to")
	_, err = PassphraseFromFile(write("long", strings.Repeat("x", maxPassphrase+1), 0o600))
	wantFault(t, err, fault.Invalid, "8 to")
	_, err = PassphraseFromFile(filepath.Join(dir, "absent"))
	wantFault(t, err, fault.Invalid, "absent")

	t.Setenv("CHANCERY_TEST_PASS", testSecret)
	if p, err := PassphraseFromEnv("CHANCERY_TEST_PASS"); err != nil || string(p.secret) != testSecret {
		t.Errorf("environment: %v", err)
	}
	_, err = PassphraseFromEnv("CHANCERY_TEST_NO_PASS")
	wantFault(t, err, fault.Invalid, "CHANCERY_TEST_NO_PASS")
	if !(Passphrase{}).IsZero() || testPassphrase(t, testSecret).IsZero() {
		t.Error("IsZero is wrong")
	}
}

func testSealer(t testing.TB, fill byte) *Sealer {
	t.Helper()
	s, err := newSealer(bytes.Repeat([]byte{fill}, masterLen))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	s := testSealer(t, 1)
	sealed := s.Seal([]byte("secret"), []byte("eab/1"))
	if len(sealed) != len("secret")+SealOverhead || bytes.Contains(sealed, []byte("secret")) || bytes.Equal(sealed, s.Seal([]byte("secret"), []byte("eab/1"))) {
		t.Errorf("sealed as %x", sealed)
	}
	if got, err := testSealer(t, 1).Open(sealed, []byte("eab/1")); err != nil || string(got) != "secret" {
		t.Errorf("opens as %q, %v", got, err)
	}
	if _, err := s.Open(sealed, []byte("eab/2")); !errors.Is(err, ErrUnseal) {
		t.Errorf("opens in another place: %v", err)
	}
	if _, err := testSealer(t, 2).Open(sealed, []byte("eab/1")); !errors.Is(err, ErrUnseal) {
		t.Errorf("opens with another master key: %v", err)
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := s.Open(changed, []byte("eab/1")); !errors.Is(err, ErrUnseal) {
			t.Errorf("opens with octet %d changed: %v", i, err)
		}
	}
	if _, err := newSealer(make([]byte, 31)); err == nil {
		t.Error("a short master key is accepted")
	}
}

func TestSealerKeys(t *testing.T) {
	s := testSealer(t, 1)
	if s.Key("nonce") != testSealer(t, 1).Key("nonce") || s.Key("nonce") == s.Key("seal") || s.Key("nonce") == testSealer(t, 2).Key("nonce") {
		t.Error("keys do not depend on exactly the master key and the purpose")
	}
}

func FuzzSealerOpen(f *testing.F) {
	s := testSealer(f, 1)
	f.Add(s.Seal([]byte("secret"), nil))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if secret, err := s.Open(sealed, []byte("other place")); !errors.Is(err, ErrUnseal) {
			t.Fatalf("%x opens as %q, %v", sealed, secret, err)
		}
	})
}

func TestSignerLogsBeforeItHandsOut(t *testing.T) {
	key, err := Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "signer.log")
	log, err := OpenSignerLog(path)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := NewSigner(key, log.Append)
	if err != nil {
		t.Fatal(err)
	}
	if signer.KeyType() != pki.P256 || !samePublic(signer.Public(), key.Public()) || len(signer.SPKI()) == 0 {
		t.Errorf("signer is %+v", signer)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			tbs := []byte{byte(i)}
			sig, err := signer.SignTBS(t.Context(), tbs)
			if err != nil {
				t.Error(err)
			} else if err := pki.VerifyTBS(signer.Public(), tbs, sig); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if sig, err := signer.SignTBS(t.Context(), []byte("x")); err == nil {
		t.Errorf("an unlogged signature was handed out: %x", sig)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[[32]byte]bool)
	if err := ReadSignerLog(bytes.NewReader(text), func(h [32]byte) error { seen[h] = true; return nil }); err != nil {
		t.Error(err)
	}
	for i := range 20 {
		if !seen[pki.Fingerprint([]byte{byte(i)})] {
			t.Errorf("message %d is not in the log", i)
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d hashes in the log", len(seen))
	}
	if err := ReadSignerLog(bytes.NewReader(text[:len(text)-5]), func([32]byte) error { return nil }); err == nil {
		t.Error("a torn last line is not noticed")
	}
}

func TestSignerHonoursContext(t *testing.T) {
	signer, err := new(Throwaways).Signer(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := signer.SignTBS(ctx, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("signed for a caller who left: %v", err)
	}
}

func FuzzReadSignerLog(f *testing.F) {
	f.Add([]byte(strings.Repeat("0123456789abcdef", 4) + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		if err := ReadSignerLog(bytes.NewReader(text), func([32]byte) error { n++; return nil }); err == nil && n*65 != len(text) {
			t.Fatalf("%d lines in %d octets", n, len(text))
		}
	})
}

func TestThrowawaysAreMadeOnce(t *testing.T) {
	var keys Throwaways
	var wg sync.WaitGroup
	got := make([]*Signer, 8)
	for i := range got {
		wg.Go(func() {
			signer, err := keys.Signer(pki.RSA2048)
			if err != nil {
				t.Error(err)
			}
			got[i] = signer
		})
	}
	wg.Wait()
	for _, s := range got {
		if s != got[0] {
			t.Error("two callers got two keys")
		}
	}
	if other, err := keys.Signer(pki.P256); err != nil || other == got[0] || other.KeyType() != pki.P256 {
		t.Errorf("another type: %v", err)
	}
	if _, err := keys.Signer("dsa"); err == nil {
		t.Error("an unknown type is accepted")
	}
}

// What a linter sees has the form that the real signature will have; but for
// ML-DSA it is a signature of the very bytes.
func TestThrowawaysSign(t *testing.T) {
	var keys Throwaways
	for _, kt := range []pki.KeyType{pki.P256, pki.P384, pki.Ed25519, pki.RSA2048, pki.MLDSA65} {
		s, err := keys.Signer(kt)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			tbs := fmt.Appendf(nil, "to be signed, %d", i)
			sig, err := s.SignTBS(t.Context(), tbs)
			if err != nil {
				t.Fatal(err)
			}
			switch key := s.key.(type) {
			case *exchanged:
				sum := sha256.Sum256(tbs)
				got := new(big.Int).Exp(new(big.Int).SetBytes(sig), key.key.D, key.key.N)
				want := append(append([]byte{0}, sha256Info...), sum[:]...)
				if b := got.FillBytes(make([]byte, key.key.Size())); len(sig) != len(b) || !bytes.HasPrefix(b, []byte{0, 1, 0xff}) || !bytes.HasSuffix(b, want) {
					t.Errorf("%s: the signature opens as %x", kt, b)
				}
			case *oneSignature:
				if len(sig) != 3309 { // FIPS 204, table 2
					t.Errorf("%s: a signature of %d octets", kt, len(sig))
				}
			default:
				if err := pki.VerifyTBS(s.Public(), tbs, sig); err != nil {
					t.Errorf("%s: %v", kt, err)
				}
			}
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "issuing-1", "root.2026_p384", strings.Repeat("a", maxName)} {
		if err := CheckName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "..", "../a", "a/b", "/etc/passwd", `a\b`, "a..b", ".a", "a.", "-a", "a\x00", "a\n", "A", "ü", "a b", strings.Repeat("a", maxName+1)} {
		wantFault(t, CheckName(name), fault.Invalid, "not a key name")
	}
}

func diffRefs(t *testing.T, s Store, want ...string) {
	t.Helper()
	got, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
