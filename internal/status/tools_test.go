package status

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"chancery/internal/pki"
	"chancery/internal/testenv"
)

// files are the certificates of a world as command-line tools want them.
type files struct{ root, issuing, chain, leaf string }

func (w *world) files(leaf []byte) files {
	w.t.Helper()
	dir := w.t.TempDir()
	write := func(name string, ders ...[]byte) string {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		must(w.t, os.WriteFile(path, text, 0o644))
		return path
	}
	root := w.ca.Authority(w.root.ID).DER
	return files{write("root.pem", root), write("issuing.pem", w.issuing.DER), write("chain.pem", w.issuing.DER, root), write("leaf.pem", leaf)}
}

// run runs a tool and returns what it printed and whether it was content.
func run(t *testing.T, name string, args ...string) (string, bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	t.Logf("%s %s\n%s", filepath.Base(name), strings.Join(args, " "), out)
	return string(out), err == nil
}

// TestOpenSSLAndGnuTLSAgree asks as operators do, before and after a
// revocation, with and without a delegated responder.
func TestOpenSSLAndGnuTLSAgree(t *testing.T) {
	openssl, ocsptool := testenv.NeedBinary(t, "openssl"), testenv.NeedBinary(t, "ocsptool")
	w := newWorld(t, sqlite(t), withShards(3)).load()
	for _, delegated := range []bool{false, true} {
		if delegated {
			_, err := w.renewResponders(t.Context())
			must(t, err)
		}
		c, leaf := w.issue(true)
		f := w.files(leaf.Raw)
		for _, want := range []string{"good", "revoked"} {
			if want == "revoked" {
				w.revoke(c, pki.KeyCompromise, true)
				w.tickCRLs()
			}
			for _, extra := range [][]string{{"-sha1", "-no_nonce"}, {"-sha256", "-no_nonce"}, {"-nonce"}} {
				digest, rest := extra[:len(extra)-1], extra[len(extra)-1:]
				args := append([]string{"ocsp"}, digest...)
				args = append(args, "-issuer", f.issuing, "-cert", f.leaf, "-url", leaf.OCSPServer[0], "-CAfile", f.chain)
				out, ok := run(t, openssl, append(args, rest...)...)
				if !ok || !strings.Contains(out, "Response verify OK") || !strings.Contains(out, f.leaf+": "+want) {
					t.Errorf("delegated %v: openssl ocsp %v does not say %s", delegated, extra, want)
				}
			}
			// GnuTLS finds a signer among its trusted certificates only by a key
			// identifier made with SHA-1, which ours is not; clients that verify a
			// connection try the issuer itself first, as --load-signer does.
			trust := "--load-signer=" + f.issuing
			if delegated {
				trust = "--load-trust=" + f.chain
			}
			args := []string{"--ask=" + leaf.OCSPServer[0], "--load-cert=" + f.leaf, "--load-issuer=" + f.issuing, trust, "--no-nonce"}
			if out, _ := run(t, ocsptool, args...); !strings.Contains(out, "Verifying OCSP Response: Success") || !strings.Contains(out, "Certificate Status: "+want) {
				t.Errorf("delegated %v: ocsptool does not say %s", delegated, want)
			}
			out, ok := run(t, openssl, "verify", "-CAfile", f.root, "-untrusted", f.issuing, "-crl_download", "-crl_check", f.leaf)
			if ok != (want == "good") || !ok && !strings.Contains(out, "certificate revoked") {
				t.Errorf("openssl verify with CRLs does not say %s", want)
			}
			if _, ok := run(t, openssl, "verify", "-CAfile", f.root, "-crl_download", "-crl_check", f.issuing); !ok {
				t.Error("openssl verify does not accept the root's CRL")
			}
		}
	}
}

// TestOpenSSLSeveralAndNonce: two certificates in one message, and a nonce that
// comes back.
func TestOpenSSLSeveralAndNonce(t *testing.T) {
	openssl := testenv.NeedBinary(t, "openssl")
	w := newWorld(t, sqlite(t))
	w.cfg.EchoNonce = true
	w.load()
	_, leaf := w.issue(true)
	c, other := w.issue(true)
	w.revoke(c, pki.Superseded, true)
	f, g := w.files(leaf.Raw), w.files(other.Raw)
	out, ok := run(t, openssl, "ocsp", "-issuer", f.issuing, "-cert", f.leaf, "-cert", g.leaf, "-url", leaf.OCSPServer[0], "-CAfile", f.chain, "-nonce")
	if !ok || !strings.Contains(out, f.leaf+": good") || !strings.Contains(out, g.leaf+": revoked") || strings.Contains(out, "no nonce") {
		t.Error("openssl does not accept the answer about two certificates")
	}
}
