package importer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"software.sslmate.com/src/go-pkcs12"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/inventory/importer"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

var epoch = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// pair is a certificate with its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (p pair) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})
}

func (p pair) keyPEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func newPair(t testing.TB, name string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.AddDate(0, 1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key}
}

func read(t testing.TB, name string, data []byte, passwords ...string) importer.File {
	t.Helper()
	f, err := importer.Read(name, data, importer.Options{SeenAt: epoch, Passwords: passwords})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// ders returns what f found, by content.
func ders(f importer.File) (out []string) {
	for _, o := range f.Observations {
		out = append(out, string(o.DER))
	}
	return out
}

func TestPEMBundle(t *testing.T) {
	a, b := newPair(t, "a.example.com"), newPair(t, "b.example.com")
	text := slicesOf([]byte("Bag Attributes\n  friendlyName: a\n"), a.pem(), a.keyPEM(t), []byte("# comment\n"), b.pem(),
		[]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"))
	f := read(t, "bundle.txt", text)
	if diff := cmp.Diff([]string{string(a.cert.Raw), string(b.cert.Raw)}, ders(f)); diff != "" || f.Format != importer.PEM {
		t.Fatal(f.Format, diff)
	}
	if f.Keys != 1 || len(f.Refused) != 2 {
		t.Fatalf("%d keys, refused %+v", f.Keys, f.Refused)
	}
}

func slicesOf(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestDERAndSeveralInARow(t *testing.T) {
	a, b := newPair(t, "a.example.com"), newPair(t, "b.example.com")
	f := read(t, "x", slicesOf(a.cert.Raw, b.cert.Raw, []byte{0x30, 0x82}))
	if diff := cmp.Diff([]string{string(a.cert.Raw), string(b.cert.Raw)}, ders(f)); diff != "" || len(f.Refused) != 1 {
		t.Fatal(diff, f.Refused)
	}
}

// Files that OpenSSL and Java's keytool wrote.
func TestForeignFiles(t *testing.T) {
	dir := t.TempDir()
	a := newPair(t, "a.example.com")
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("a.pem"), a.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("a.key"), a.keyPEM(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ name, line string }{
		{"modern.p12", "openssl pkcs12 -export -in a.pem -inkey a.key -out modern.p12 -passout pass:secret"},
		{"empty.p12", "openssl pkcs12 -export -in a.pem -inkey a.key -out empty.p12 -passout pass:"},
		{"trusted.pem", "openssl x509 -in a.pem -trustout -addtrust serverAuth -out trusted.pem"},
		{"trust.jks", "keytool -importcert -noprompt -storetype JKS -alias one -file a.pem -keystore trust.jks -storepass changeit"},
		{"key.jks", "keytool -importkeystore -srckeystore modern.p12 -srcstoretype PKCS12 -srcstorepass secret -destkeystore key.jks -deststoretype JKS -deststorepass changeit -destkeypass changeit"},
		{"key.jceks", "keytool -importkeystore -srckeystore modern.p12 -srcstoretype PKCS12 -srcstorepass secret -destkeystore key.jceks -deststoretype JCEKS -deststorepass changeit -destkeypass changeit"},
		{"trust.p12", "keytool -importcert -noprompt -storetype PKCS12 -alias one -file a.pem -keystore trust.p12 -storepass changeit"},
	} {
		t.Run(step.name, func(t *testing.T) {
			args := strings.Fields(step.line)
			if _, err := exec.LookPath(args[0]); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip("SKIPPED: ", err)
			}
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", step.line, err, out)
			}
			data, err := os.ReadFile(file(step.name))
			if err != nil {
				t.Fatal(err)
			}
			f := read(t, step.name, data, "wrong", "secret")
			if diff := cmp.Diff([]string{string(a.cert.Raw)}, ders(f)); diff != "" || len(f.Refused) != 0 {
				t.Fatal(diff, f.Refused)
			}
		})
	}
}

func TestPKCS12Refusals(t *testing.T) {
	a := newPair(t, "a.example.com")
	data, err := pkcs12.Modern.Encode(a.key, a.cert, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	_, err = importer.Read("x.p12", data, importer.Options{SeenAt: epoch})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "no password") {
		t.Fatal(err)
	}
	costly, err := pkcs12.Modern.WithIterations(2048).Encode(a.key, a.cert, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	// 2048 rounds become 2^31-1: the lengths around grow, so patch a count that
	// is as long.
	huge := bytes.ReplaceAll(costly, []byte{0x02, 0x02, 0x08, 0x00}, []byte{0x02, 0x02, 0x08, 0x01})
	if bytes.Equal(huge, costly) {
		t.Fatal("no count of rounds found")
	}
	if _, err := importer.Read("x.p12", huge, importer.Options{SeenAt: epoch, Passwords: []string{"secret"}}); !fault.Is(err, fault.Invalid) {
		t.Fatal(err)
	}
	many, err := pkcs12.Modern.WithIterations(3_000_000).Encode(a.key, a.cert, nil, "secret")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = importer.Read("x.p12", many, importer.Options{SeenAt: epoch, Passwords: []string{"secret"}})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "rounds") || time.Since(start) > 100*time.Millisecond {
		t.Fatal(err, time.Since(start))
	}
}

func TestTable(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		s := inventory.New(d)
		a, b := newPair(t, "a.example.com"), newPair(t, "b.example.com")
		opt := importer.Options{Owner: "first", Tags: map[string]string{"from": "file"}}
		rep, err := importer.Import(ctx, s, "two.pem", slicesOf(a.pem(), b.pem(), a.keyPEM(t)), opt, "test", epoch)
		if err != nil || rep.New != 2 || rep.Keys != 1 {
			t.Fatalf("%+v %v", rep, err)
		}
		table := "\xef\xbb\xbfName, Owner,team,tag:app,managed\na.example.com,pay,core,shop,yes\nmissing.example.com,x,,,\n,,,,\n*.example.com,x,,,\nb.example.com,none,,,\nshort\nb.example.com,,,\"with, comma\",no\n"
		rep, err = importer.Import(ctx, s, "owners.csv", []byte(table), importer.Options{}, "test", epoch)
		if err == nil || !fault.Is(err, fault.Invalid) {
			t.Fatal(err) // owner "none" is reserved; nothing behind it is applied in silence
		}
		table = strings.Replace(table, "b.example.com,none,,,\n", "", 1)
		rep, err = importer.Import(ctx, s, "owners.csv", []byte(table), importer.Options{}, "test", epoch.Add(time.Minute))
		if err != nil || rep.Assigned != 1 || len(rep.Refused) != 4 {
			t.Fatalf("%+v %v", rep, err)
		}
		p, err := s.List(ctx, inventory.Query{Filter: inventory.Filter{Owners: []string{"pay"}, Tags: []string{"app=shop", "from=file"}, Managed: new(true)}})
		if err != nil || len(p.Certificates) != 1 || p.Certificates[0].CommonName != "a.example.com" || p.Certificates[0].Team != "core" {
			t.Fatalf("%+v %v", p, err)
		}
	})
}

func TestTableRefusals(t *testing.T) {
	for name, text := range map[string]string{
		"empty":       "",
		"no key":      "owner,team\na,b\n",
		"unknown":     "name,price\na.example.com,1\n",
		"twice":       "name,owner,owner\na.example.com,a,b\n",
		"many column": "name" + strings.Repeat(",tag:x", 50) + "\n",
	} {
		if _, err := importer.Read("x.csv", []byte(text), importer.Options{SeenAt: epoch}); !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.TooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestUnknownFormatAndSize(t *testing.T) {
	if _, err := importer.Read("x", []byte("hello"), importer.Options{}); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if _, err := importer.Read("x", make([]byte, importer.MaxFile+1), importer.Options{}); !fault.Is(err, fault.TooLarge) {
		t.Error(err)
	}
}

// A key store that claims more than it has costs nothing.
func TestJKSClaims(t *testing.T) {
	head := func(entries uint32, rest ...byte) []byte {
		b := []byte{0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2}
		return append(binary.BigEndian.AppendUint32(b, entries), rest...)
	}
	if _, err := importer.Read("x", head(1<<31), importer.Options{SeenAt: epoch}); !fault.Is(err, fault.TooLarge) {
		t.Error(err)
	}
	f := read(t, "x", head(3, 0, 0, 0, 2, 0, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 'X', '.', '5', '0', '9', 0xff, 0xff, 0xff, 0xff))
	if len(f.Refused) != 1 || len(f.Observations) != 0 {
		t.Errorf("%+v", f)
	}
}

func TestWatchOffersChangesOnce(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	write := func(name, text string, at time.Time) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(t.TempDir(), "outside.pem")
	if err := errors.Join(os.WriteFile(secret, []byte("x"), 0o600), os.Symlink(secret, filepath.Join(dir, "link.pem"))); err != nil {
		t.Fatal(err)
	}
	write("a.pem", "one", epoch)
	write("deep/er/b.CRT", "two", epoch)
	write("notes.txt", "no", epoch)
	w, err := importer.NewWatch(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	poll := func(now time.Time, refuse string) string {
		t.Helper()
		var got []string
		_, err := w.Poll(ctx, now, func(name string, data []byte) error {
			got = append(got, fmt.Sprintf("%s=%s", name, data))
			if string(data) == refuse {
				return fault.New(fault.Invalid, "bad")
			}
			return nil
		})
		if (err != nil) != (refuse != "" && strings.Contains(fmt.Sprint(got), "="+refuse)) {
			t.Fatal(got, err)
		}
		return strings.Join(got, " ")
	}
	later := epoch.Add(time.Hour)
	if got := poll(later, ""); got != "a.pem=one deep/er/b.CRT=two" {
		t.Fatal(got)
	}
	if got := poll(later, ""); got != "" {
		t.Fatal("offered again: ", got)
	}
	write("a.pem", "half", later)
	if got := poll(later.Add(time.Second), "half"); got != "a.pem=half" {
		t.Fatal(got)
	}
	if got := poll(later.Add(2*time.Second), "half"); got != "a.pem=half" {
		t.Fatal("a fresh file that failed is not offered again: ", got)
	}
	if got := poll(later.Add(time.Minute), "half"); got != "a.pem=half" {
		t.Fatal(got)
	}
	if got := poll(later.Add(time.Minute), "half"); got != "" {
		t.Fatal("an old bad file is offered for ever: ", got)
	}
	if n, err := w.Poll(ctx, later, func(string, []byte) error { return errors.New("database down") }); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	write("c.der", "three", later)
	if _, err := w.Poll(ctx, later, func(string, []byte) error { return errors.New("database down") }); err == nil {
		t.Fatal("an error of ours is swallowed")
	}
	if got := poll(later, ""); got != "c.der=three" {
		t.Fatal("a file is lost when the database is down: ", got)
	}
}

// No input panics, and whatever is taken is bounded.
func FuzzRead(f *testing.F) {
	a := newPair(f, "a.example.com")
	f.Add("x", a.cert.Raw)
	f.Add("x.pem", slicesOf(a.pem(), a.keyPEM(f)))
	f.Add("x.csv", []byte("name,owner,tag:a\nx.example,\"a\nb\",c\n"))
	f.Add("x.jks", []byte("\xfe\xed\xfe\xed\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05X.509\x00\x00\x00\x02\x30\x00"))
	p12, err := pkcs12.Modern.WithIterations(1).Encode(a.key, a.cert, nil, "changeit")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("x.p12", p12)
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		got, err := importer.Read(name, data, importer.Options{SeenAt: epoch})
		if err != nil && fault.As(err).Code == fault.ServerInternal {
			t.Fatal(err)
		}
		size := 0
		for _, o := range got.Observations {
			size += len(o.DER)
		}
		if size > len(data)+1024 && got.Format != importer.PKCS12 && got.Format != importer.PEM {
			t.Fatalf("%d bytes of certificates from %d", size, len(data))
		}
		if len(got.Observations) != len(got.Items) {
			t.Fatal("items and observations differ")
		}
	})
}
