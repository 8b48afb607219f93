package keystore_test

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/deploy/keystore"
	"chancery/internal/pki"
	"chancery/internal/testenv"
)

// config is a target below dir.
func config(t *testing.T, dir string) *keystore.Config {
	c := keystore.Kind.Config().(*keystore.Config)
	c.Dir = filepath.Join(dir, "live")
	c.PasswordFile = deploytest.WriteFile(t, filepath.Join(dir, "password"), "changeit\n")
	return c
}

// opens says what is wrong with the keystore of an item.
func opens(c *keystore.Config, item *deploy.Item) error {
	data, err := os.ReadFile(filepath.Join(c.Dir, item.ID, "keystore.p12"))
	if err != nil {
		return err
	}
	_, cert, chain, err := pkcs12.DecodeChain(data, "changeit")
	if err != nil {
		return err
	}
	if pki.Fingerprint(cert.Raw) != pki.Fingerprint(item.Chain[0]) || len(chain) != 1 {
		return fmt.Errorf("%s: another certificate", item.ID)
	}
	return nil
}

func TestSuite(t *testing.T) {
	dir := t.TempDir()
	c := config(t, dir)
	deploytest.Run(t, deploytest.Suite{
		Kind: keystore.Kind, Config: c, Served: func(item *deploy.Item) error { return opens(c, item) },
		Break: func(t *testing.T) func() {
			if err := os.Rename(c.PasswordFile, c.PasswordFile+"x"); err != nil {
				t.Fatal(err)
			}
			return func() { os.Rename(c.PasswordFile+"x", c.PasswordFile) }
		},
		Spoil: func(item *deploy.Item) { item.Key = nil },
	})
}

// Java opens both encodings and finds the key entry with its chain.
func TestJavaOpensIt(t *testing.T) {
	keytool := testenv.NeedBinary(t, "keytool")
	for _, encoding := range []keystore.Encoding{keystore.Modern, keystore.Legacy} {
		dir := t.TempDir()
		c := config(t, dir)
		c.Encoding = encoding
		target, err := keystore.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
		if err != nil {
			t.Fatal(err)
		}
		item := deploytest.NewCA(t).Item(t, "app", "app.test")
		deploytest.AllLive(t, deploy.Run(t.Context(), target, []deploy.Item{item}, deploy.Options{}))
		out, err := exec.Command(keytool, "-list", "-v", "-keystore", filepath.Join(c.Dir, "app", "keystore.p12"), "-storepass", "changeit").CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", encoding, err, out)
		}
		leaf, err := x509.ParseCertificate(item.Chain[0])
		if err != nil {
			t.Fatal(err)
		}
		sum := pki.Fingerprint(leaf.Raw)
		plain := strings.ToLower(strings.ReplaceAll(string(out), ":", ""))
		for _, want := range []string{"privatekeyentry", "certificate chain length 2", hex.EncodeToString(sum[:])} {
			if !strings.Contains(plain, want) {
				t.Errorf("%s: no %q in:\n%s", encoding, want, out)
			}
		}
	}
}

func TestPassword(t *testing.T) {
	c := config(t, t.TempDir())
	c.PasswordFile = ""
	if _, err := keystore.Kind.Open(deploytest.Env(t, ""), c); err == nil {
		t.Error("no password is needed")
	}
	c = config(t, t.TempDir())
	deploytest.WriteFile(t, c.PasswordFile, "\n")
	target, err := keystore.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
	if err != nil {
		t.Fatal(err)
	}
	if out := deploy.Run(t.Context(), target, deploytest.NewCA(t).Items(t, 1), deploy.Options{}); out[0].Live {
		t.Error("a keystore with an empty password")
	}
}
