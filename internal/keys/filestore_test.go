package keys

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

var _ Store = (*FileStore)(nil)

func openTestStore(t testing.TB, dir string) *FileStore {
	t.Helper()
	s, err := OpenFileStore(dir, testPassphrase(t, testSecret))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newDir is a directory that does not exist yet.
func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "keys") }

func mustOpen(t *testing.T, s *FileStore, ref string) crypto.Signer {
	t.Helper()
	key, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestFileStoreKeepsEveryKeyType(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	diffRefs(t, s)
	made := make(map[string]crypto.PublicKey)
	for _, kt := range pki.KeyTypes {
		ref, err := s.Create(t.Context(), "ca-"+string(kt), kt)
		if err != nil {
			t.Fatal(err)
		}
		if ref != "file:ca-"+string(kt) {
			t.Errorf("reference %s", ref)
		}
		made[ref] = mustOpen(t, s, ref).Public()
	}
	again := openTestStore(t, dir) // a restart
	for ref, pub := range made {
		if !samePublic(mustOpen(t, again, ref).Public(), pub) {
			t.Errorf("%s is another key after a restart", ref)
		}
	}
	diffRefs(t, again, "file:ca-ed25519", "file:ca-ml-dsa-44", "file:ca-ml-dsa-65", "file:ca-ml-dsa-87", "file:ca-p256", "file:ca-p384", "file:ca-rsa2048", "file:ca-rsa3072", "file:ca-rsa4096")
	if len(again.derived) != 1 {
		t.Errorf("opening all keys took %d key derivations", len(again.derived))
	}
}

func TestFileStoreModesAndLeftovers(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	if _, err := s.Create(t.Context(), "a", pki.P256); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || !bytes.HasPrefix(text, []byte("-----BEGIN ")) || bytes.Contains(text, []byte("BEGIN PRIVATE")) {
			t.Errorf("%s holds %.40q, %v", e.Name(), text, err)
		}
	}
	if len(entries) != 2 {
		t.Errorf("files: %v", entries)
	}
}

func TestFileStoreRefuses(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	ref, err := s.Create(t.Context(), "a", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	before := mustOpen(t, s, ref).Public()

	_, err = s.Create(t.Context(), "a", pki.P384)
	wantFault(t, err, fault.Conflict, "already")
	if !samePublic(before, mustOpen(t, s, ref).Public()) {
		t.Error("the key was replaced")
	}
	_, err = s.Create(t.Context(), "../a", pki.P256)
	wantFault(t, err, fault.Invalid, "not a key name")
	_, err = s.Open(t.Context(), "file:../a")
	wantFault(t, err, fault.Invalid, "not a key name")
	_, err = s.Open(t.Context(), "file:b")
	wantFault(t, err, fault.NotFound, "no key named")
	_, err = s.Open(t.Context(), "pkcs11:a")
	wantFault(t, err, fault.NotFound, "file:NAME")
	_, err = OpenFileStore(dir, testPassphrase(t, "wrong passphrase"))
	wantFault(t, err, fault.Invalid, "passphrase does not open")
	_, err = OpenFileStore(dir, Passphrase{})
	wantFault(t, err, fault.Invalid, "needs a passphrase")
}

func TestFileStoreRefusesUnsafeModes(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	if _, err := s.Create(t.Context(), "a", pki.P256); err != nil {
		t.Fatal(err)
	}
	chmod := func(path string, mode os.FileMode) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	key, master := filepath.Join(dir, "a.key"), filepath.Join(dir, masterFile)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o644} {
		chmod(key, mode)
		_, err := s.Open(t.Context(), "file:a")
		wantFault(t, err, fault.Invalid, "chmod 600 "+key)
	}
	chmod(master, 0o644)
	_, err := OpenFileStore(dir, testPassphrase(t, testSecret))
	wantFault(t, err, fault.Invalid, "chmod 600 "+master)
	chmod(master, 0o600)
	chmod(dir, 0o750)
	_, err = OpenFileStore(dir, testPassphrase(t, testSecret))
	wantFault(t, err, fault.Invalid, "chmod 700 "+dir)
	chmod(dir, 0o700)
}

func TestFileStoreReportsDamage(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	if _, err := s.Create(t.Context(), "a", pki.P256); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "a.key")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	flipped := bytes.Clone(block.Bytes)
	flipped[len(flipped)-1] ^= 1
	for name, text := range map[string][]byte{
		"empty":     {},
		"cut off":   good[:len(good)/2],
		"plain key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{0x30, 0}}),
		"flipped":   pem.EncodeToMemory(&pem.Block{Type: pemEncryptedKey, Bytes: flipped}),
		"short DER": pem.EncodeToMemory(&pem.Block{Type: pemEncryptedKey, Bytes: block.Bytes[:40]}),
		"huge":      bytes.Repeat([]byte("x"), maxKeyFile+1),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := s.Open(t.Context(), "file:a")
		if err == nil {
			t.Errorf("%s opens as %T", name, key)
		}
		wantFault(t, err, fault.Invalid, path)
	}
	if err := os.WriteFile(filepath.Join(dir, masterFile), good, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenFileStore(dir, testPassphrase(t, testSecret))
	wantFault(t, err, fault.Invalid, "backup")
}

// TestFileStoresRace opens one new directory from several stores at once, as
// replicas on a shared volume do: all must end up with the same master key,
// and only one may create a given name.
func TestFileStoresRace(t *testing.T) {
	dir := newDir(t)
	pass := testPassphrase(t, testSecret)
	stores := make([]*FileStore, 4)
	created := make([]bool, len(stores))
	var wg sync.WaitGroup
	for i := range stores {
		wg.Go(func() {
			s, err := OpenFileStore(dir, pass)
			if err != nil {
				t.Error(err)
				return
			}
			stores[i] = s
			_, err = s.Create(t.Context(), "a", pki.P256)
			created[i] = err == nil
			if err != nil && !fault.Is(err, fault.Conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winners := 0
	for i, s := range stores {
		if s == nil {
			t.Fatal("a store did not open")
		}
		if s.Sealer().Key("x") != stores[0].Sealer().Key("x") {
			t.Error("two stores in one directory have two master keys")
		}
		if created[i] {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d stores created the same key", winners)
	}
}

func TestSealerSurvivesRestart(t *testing.T) {
	dir := newDir(t)
	sealed := openTestStore(t, dir).Sealer().Seal([]byte("secret"), []byte("row"))
	got, err := openTestStore(t, dir).Sealer().Open(sealed, []byte("row"))
	if err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := openTestStore(t, newDir(t)).Sealer().Open(sealed, []byte("row")); !errors.Is(err, ErrUnseal) {
		t.Errorf("another store opens it: %v", err)
	}
}

func TestCopyToChangesThePassphrase(t *testing.T) {
	old, dir := openTestStore(t, newDir(t)), newDir(t)
	var pubs []crypto.PublicKey
	for _, name := range []string{"a", "b"} {
		ref, err := old.Create(t.Context(), name, pki.P256)
		if err != nil {
			t.Fatal(err)
		}
		pubs = append(pubs, mustOpen(t, old, ref).Public())
	}
	sealed := old.Sealer().Seal([]byte("secret"), nil)
	pass := testPassphrase(t, "another passphrase")
	if err := old.CopyTo(t.Context(), dir, pass); err != nil {
		t.Fatal(err)
	}
	wantFault(t, old.CopyTo(t.Context(), dir, pass), fault.Conflict, "already holds")
	_, err := OpenFileStore(dir, testPassphrase(t, testSecret))
	wantFault(t, err, fault.Invalid, "passphrase does not open")
	s, err := OpenFileStore(dir, pass)
	if err != nil {
		t.Fatal(err)
	}
	if !samePublic(mustOpen(t, s, "file:a").Public(), pubs[0]) || !samePublic(mustOpen(t, s, "file:b").Public(), pubs[1]) {
		t.Error("the copy has other keys")
	}
	if secret, err := s.Sealer().Open(sealed, nil); err != nil || string(secret) != "secret" {
		t.Errorf("the copy opens a sealed secret as %q, %v", secret, err)
	}
}

func openssl(t *testing.T, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: the openssl binary is not installed; apt-get install openssl")
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, out)
	}
	return out
}

func TestOpenSSLReadsKeyFiles(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	for _, kt := range []pki.KeyType{pki.P256, pki.P384, pki.RSA2048, pki.Ed25519} {
		ref, err := s.Create(t.Context(), string(kt), kt)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := NewSigner(mustOpen(t, s, ref), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := openssl(t, "pkey", "-in", filepath.Join(dir, string(kt)+keySuffix), "-passin", "pass:"+testSecret, "-pubout", "-outform", "DER")
		if !bytes.Equal(got, signer.SPKI()) {
			t.Errorf("%s: openssl reads another public key", kt)
		}
		if out := openssl(t, "asn1parse", "-in", filepath.Join(dir, string(kt)+keySuffix)); !bytes.Contains(out, []byte(":scrypt")) || !bytes.Contains(out, []byte("aes-256-cbc")) {
			t.Errorf("%s: not scrypt and AES-256:\n%s", kt, out)
		}
	}
}

// TestFileStoreReadsOpenSSLKeys puts keys that OpenSSL encrypted into the
// directory, as an operator who brings an existing CA does.
func TestFileStoreReadsOpenSSLKeys(t *testing.T) {
	dir := newDir(t)
	s := openTestStore(t, dir)
	for name, args := range map[string][]string{
		"scrypt": {"-v2", "aes-256-cbc", "-scrypt"},
		"pbkdf2": {"-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "10000"},
		"aes128": {"-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA256"},
	} {
		plain, path := filepath.Join(t.TempDir(), "plain.pem"), filepath.Join(dir, name+keySuffix)
		openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", plain)
		openssl(t, append([]string{"pkcs8", "-topk8", "-in", plain, "-out", path, "-passout", "pass:" + testSecret}, args...)...)
		want := openssl(t, "pkey", "-in", plain, "-pubout", "-outform", "DER")
		signer, err := NewSigner(mustOpen(t, s, "file:"+name), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(signer.SPKI(), want) {
			t.Errorf("%s: another key", name)
		}
	}
	plain := filepath.Join(t.TempDir(), "plain.pem")
	openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", plain)
	openssl(t, "pkcs8", "-topk8", "-in", plain, "-out", filepath.Join(dir, "des.key"), "-passout", "pass:"+testSecret, "-v2", "des3")
	_, err := s.Open(t.Context(), "file:des")
	wantFault(t, err, fault.Invalid, "AES")
}

func FuzzDecrypt(f *testing.F) {
	cheap := kdf{salt: "0123456789abcdef", n: 2, r: 1, p: 1}
	pass := testPassphrase(f, testSecret)
	derive := func(k kdf, size int) ([]byte, error) {
		if k.n > 1<<10 || k.rounds > 1000 || k.p > 2 || k.r > 8 {
			return nil, errors.New("too slow for a fuzz test")
		}
		return k.derive(pass, size)
	}
	key, err := Generate(pki.P256)
	if err != nil {
		f.Fatal(err)
	}
	der, err := encrypt(key, cheap, derive)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, der []byte) {
		if key, err := decrypt(der, derive); (key == nil) == (err == nil) {
			t.Fatalf("%v, %v", key, err)
		}
	})
}

func TestKDFBounds(t *testing.T) {
	for _, k := range []kdf{
		{n: 1 << 30, r: 8, p: 1}, {n: 1 << 14, r: 1 << 30, p: 1}, {n: 1 << 14, r: 8, p: 1 << 20}, {n: -2, r: 8, p: 1}, {n: 1 << 14, r: 0, p: 1}, {rounds: 1 << 30}, {rounds: 0},
	} {
		if err := k.check(); err == nil {
			t.Errorf("%+v is accepted", k)
		}
	}
	if err := newKDF().check(); err != nil {
		t.Error(err)
	}
}

// BenchmarkStart is what a restart of "chancery dev" spends here: open the
// store and two keys.
func BenchmarkStart(b *testing.B) {
	dir := newDir(b)
	s := openTestStore(b, dir)
	for _, name := range []string{"issuing", "ocsp"} {
		if _, err := s.Create(b.Context(), name, pki.P256); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		s := openTestStore(b, dir)
		for _, ref := range []string{"file:issuing", "file:ocsp"} {
			if _, err := s.Open(b.Context(), ref); err != nil {
				b.Fatal(err)
			}
		}
	}
}
