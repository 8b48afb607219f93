package status

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/testenv"
)

// issueFor issues a certificate for www.example.test whose key the test has.
func (w *world) issueFor() (*ca.Certificate, *x509.Certificate, crypto.Signer) {
	w.t.Helper()
	key, err := keys.Generate(pki.P256)
	must(w.t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"www.example.test"}}, key)
	must(w.t, err)
	req := w.request()
	req.CSR, err = pki.ParseCSR(der, 64<<10)
	must(w.t, err)
	c, err := w.ca.Issue(w.t.Context(), req)
	must(w.t, err)
	w.Issued(c)
	leaf, err := c.X509()
	must(w.t, err)
	return c, leaf, key
}

// TestGnuTLSClientAgrees: gnutls-cli asks about the certificate of a server
// that it connects to.
func TestGnuTLSClientAgrees(t *testing.T) {
	gnutls := testenv.NeedBinary(t, "gnutls-cli")
	w := newWorld(t, sqlite(t)).load()
	_, err := w.renewResponders(t.Context())
	must(t, err)
	c, leaf, key := w.issueFor()
	f := w.files(leaf.Raw)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, w.issuing.DER}, PrivateKey: key}}})
	must(t, err)
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(io.Discard, conn) }()
		}
	}()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	must(t, err)
	ask := func() string {
		out, _ := run(t, gnutls, "--ocsp", "--x509cafile", f.root, "--sni-hostname", "www.example.test", "--verify-hostname", "www.example.test", "-p", port, "127.0.0.1")
		return out
	}
	if out := ask(); !strings.Contains(out, "OCSP: verified 1 certificate(s)") || !strings.Contains(out, "Handshake was completed") {
		t.Error("gnutls-cli does not say good")
	}
	w.revoke(c, pki.KeyCompromise, true)
	if out := ask(); !strings.Contains(out, "Certificate was revoked at") {
		t.Error("gnutls-cli does not say revoked")
	}
}

// TestNginxStaples: nginx fetches the answer, verifies it and staples it, and
// curl insists on it.
func TestNginxStaples(t *testing.T) {
	nginx, curl := testenv.NeedBinary(t, "nginx", "/usr/sbin/nginx"), testenv.NeedBinary(t, "curl")
	w := newWorld(t, sqlite(t)).load()
	_, err := w.renewResponders(t.Context())
	must(t, err)
	c, leaf, key := w.issueFor()
	f := w.files(leaf.Raw)
	address, _ := w.nginx(nginx, leaf, key, f)
	ask := func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, curl, "-sSv", "--cert-status", "--cacert", f.root, "--resolve", "www.example.test:"+address+":127.0.0.1", "https://www.example.test:"+address+"/").CombinedOutput()
		return string(out), err == nil
	}
	var out string
	until(t, "a stapled answer", 20*time.Second, func() (ok bool) { out, ok = ask(); return ok }) // nginx asks after the first connection
	if !strings.Contains(out, "SSL certificate status: good (0)") {
		t.Errorf("curl: %s", out)
	}
	w.revoke(c, pki.KeyCompromise, true)
	address, log := w.nginx(nginx, leaf, key, f)
	// nginx does not staple bad news; a client that insists gets nothing.
	until(t, "the revocation", 20*time.Second, func() bool {
		var ok bool
		if out, ok = ask(); ok {
			t.Error("curl is content with a revoked certificate")
		}
		text, err := os.ReadFile(log)
		if err != nil { // nginx has not come so far
			return false
		}
		return strings.Contains(string(text), `certificate status "revoked" in the OCSP response`)
	})
	if !strings.Contains(out, "No OCSP response received") {
		t.Errorf("curl: %s", out)
	}
}

// nginx starts a server with stapling for a certificate and returns its port,
// and the file that it logs errors to.
func (w *world) nginx(program string, leaf *x509.Certificate, key crypto.Signer, f files) (port, log string) {
	w.t.Helper()
	dir := w.t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	_, port, err = net.SplitHostPort(ln.Addr().String())
	must(w.t, err)
	must(w.t, ln.Close())
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(w.t, err)
	write := func(name string, blocks ...*pem.Block) {
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		must(w.t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	write("tls.crt", &pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}, &pem.Block{Type: "CERTIFICATE", Bytes: w.issuing.DER})
	write("tls.key", &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	conf := fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log %[1]s/log error; master_process off;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server {
		listen 127.0.0.1:%[2]s ssl;
		ssl_certificate %[1]s/tls.crt; ssl_certificate_key %[1]s/tls.key;
		ssl_stapling on; ssl_stapling_verify on; ssl_trusted_certificate %[3]s;
		location / { return 200 "hello"; }
	}
}`, dir, port, f.chain)
	must(w.t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf), 0o600))
	cmd := exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	must(w.t, cmd.Start())
	log = filepath.Join(dir, "log")
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, err := os.ReadFile(log); w.t.Failed() {
			w.t.Logf("nginx: %s%v", text, err)
		}
	})
	return port, log
}

// TestJavaAgrees: PKIXRevocationChecker of Java by OCSP with GET and POST, and
// by CRL.
func TestJavaAgrees(t *testing.T) {
	java, javac := testenv.NeedBinary(t, "java"), testenv.NeedBinary(t, "javac")
	w := newWorld(t, sqlite(t), withShards(2)).load()
	_, err := w.renewResponders(t.Context())
	must(t, err)
	c, leaf, _ := w.issueFor()
	f := w.files(leaf.Raw)
	classes := t.TempDir()
	if _, ok := run(t, javac, "-d", classes, "testdata/CheckRevocation.java"); !ok {
		t.Fatal("the program does not compile")
	}
	for _, want := range []string{"valid", "revoked KEY_COMPROMISE"} {
		if want != "valid" {
			w.revoke(c, pki.KeyCompromise, true)
			w.tickCRLs()
		}
		for how, args := range map[string][]string{
			"GET":  {"-Dcom.sun.security.ocsp.useget=true", "-cp", classes, "CheckRevocation", f.root, f.issuing, f.leaf},
			"POST": {"-Dcom.sun.security.ocsp.useget=false", "-cp", classes, "CheckRevocation", f.root, f.issuing, f.leaf},
			"CRL":  {"-Dcom.sun.security.enableCRLDP=true", "-cp", classes, "CheckRevocation", f.root, f.issuing, f.leaf, "CRL"},
		} {
			if out, ok := run(t, java, args...); !ok || strings.TrimSpace(out) != want {
				t.Errorf("Java with %s does not say %s", how, want)
			}
		}
	}
}
