package status

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/pki"
)

// TestSignerLogHoldsCertificatesOnly: CRLs and answers signed with the key of
// an authority are no certificates, and the key does not sign one as status.
func TestSignerLogHoldsCertificatesOnly(t *testing.T) {
	w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.Direct = true })
	witnessed := 0
	var err error
	w.ca, err = ca.Open(t.Context(), ca.Config{DB: w.db, Keys: w.keys, URLs: ca.URLs{Base: w.base},
		SignerLog: func([32]byte) error { witnessed++; return nil }})
	must(t, err)
	w.Service.ca = w.ca
	w.load()
	c, leaf := w.issue(true)
	w.revoke(c, pki.Superseded, true)
	w.tickCRLs()
	w.ask(leaf)
	if witnessed != 1 {
		t.Errorf("%d signatures witnessed, one certificate was issued", witnessed)
	}
	tbs, err := pki.TBSOf(c.DER)
	must(t, err)
	for _, id := range []string{w.issuing.ID, w.root.ID} {
		a, err := w.ca.StatusSigner(t.Context(), id)
		must(t, err)
		if sig, err := a.SignTBS(t.Context(), tbs); err == nil {
			t.Errorf("a certificate was signed as status: %x", sig)
		}
	}
	if w.ca.Authority(w.root.ID).CanSign() {
		t.Error("the root's key stays open")
	}
}

// TestRootKeyAway: the list of a root whose key is offline cannot be made; all
// else goes on, and the next try waits longer and longer.
func TestRootKeyAway(t *testing.T) {
	w := newWorld(t, sqlite(t))
	w.clock = time.Now()
	hidden := w.hideKey("root")
	w.catchUp()
	n, err := w.publishCRLs(t.Context())
	must(t, err)
	if n.Failed != 1 || n.Done != 1 {
		t.Errorf("%+v", n)
	}
	if r := w.get("/crl/" + w.root.ID + "/0.crl"); r.status != 503 {
		t.Errorf("%d", r.status)
	}
	tries := 0
	for range 1000 {
		w.clock = w.clock.Add(10 * time.Second)
		w.catchUp()
		n, err := w.publishCRLs(t.Context())
		must(t, err)
		tries += n.Failed
	}
	if tries < 8 || tries > 16 {
		t.Errorf("%d tries in three hours", tries)
	}
	must(t, os.Rename(hidden+".away", hidden))
	w.clock = w.clock.Add(2 * time.Hour)
	w.load()
	w.crlOf(w.root, 0)
}

// hideKey moves the key file of a role out of the way and returns its path.
func (w *world) hideKey(role string) string {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.keyDir, "*"))
	must(w.t, err)
	for _, f := range files {
		if strings.Contains(filepath.Base(f), "-"+role+"-") {
			must(w.t, os.Rename(f, f+".away"))
			return f
		}
	}
	w.t.Fatalf("no key of a %s in %v", role, files)
	return ""
}

// TestRetiredAuthorityIsAnswered, with a responder of its own.
func TestRetiredAuthorityIsAnswered(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	c, leaf := w.issue(true)
	must(t, w.ca.Retire(t.Context(), w.issuing.ID, "test"))
	w.catchUp()
	n, err := w.renewResponders(t.Context())
	must(t, err)
	if n.Done != 1 {
		t.Errorf("%d responders", n.Done)
	}
	w.revoke(c, pki.CessationOfOperation, true)
	w.tickCRLs()
	if res := w.ask(leaf); res.Certificate == nil || res.RevokedAt.IsZero() {
		t.Errorf("%+v", res)
	}
	if len(w.listed(0)) != 1 {
		t.Error("the CRL of a retired authority stands still")
	}
	w.catchUp()
	w.mustHold()
}
