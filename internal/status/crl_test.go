package status

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strings"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

// crlOf fetches a list and has it parsed and verified by crypto/x509.
func (w *world) crlOf(a *ca.Authority, shard int) *x509.RevocationList {
	w.t.Helper()
	r := w.get(fmt.Sprintf("/crl/%s/%d.crl", a.ID, shard))
	if r.status != 200 || r.header.Get("Content-Type") != typeCRL {
		w.t.Fatalf("%d %v %s", r.status, r.header, r.body)
	}
	list, err := x509.ParseRevocationList(r.body)
	must(w.t, err)
	must(w.t, list.CheckSignatureFrom(a.Cert))
	return list
}

// listed returns what stands on a list of the issuing authority.
func (w *world) listed(shard int) map[pki.Serial]x509.RevocationListEntry {
	w.t.Helper()
	all := map[pki.Serial]x509.RevocationListEntry{}
	for _, e := range w.crlOf(w.issuing, shard).RevokedCertificateEntries {
		all[pki.SerialFromBig(e.SerialNumber)] = e
	}
	return all
}

var oidIDP = asn1.ObjectIdentifier{2, 5, 29, 28}

func TestCRLsExistBeforeAnythingIsRevoked(t *testing.T) {
	w := newWorld(t, sqlite(t), withShards(4)).load()
	for _, a := range []*ca.Authority{w.issuing, w.root} {
		for shard := range a.Shards {
			list := w.crlOf(a, shard)
			want := defaultValidity
			if a == w.root {
				want = defaultRootCRLValidity
			}
			if len(list.RevokedCertificateEntries) != 0 || list.NextUpdate.Sub(list.ThisUpdate) != want {
				t.Errorf("%d entries, valid for %s", len(list.RevokedCertificateEntries), list.NextUpdate.Sub(list.ThisUpdate))
			}
		}
	}
	for _, path := range []string{"/crl/" + w.issuing.ID + "/4.crl", "/crl/" + w.issuing.ID + "/-1.crl", "/crl/" + w.issuing.ID + "/00.crl",
		"/crl/" + w.issuing.ID + "/0", "/crl/nobody/0.crl"} {
		if r := w.get(path); r.status != 404 {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

func TestRevokedIsOnTheListOfItsShard(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, withShards(2)).load()
		first := w.crlOf(w.issuing, 0).Number
		reasons := []pki.Reason{pki.Unspecified, pki.KeyCompromise, pki.Superseded, pki.CessationOfOperation}
		for i := range 8 {
			c, leaf := w.issue(true)
			r := w.revoke(c, reasons[i%len(reasons)], true)
			w.tickCRLs()
			e, ok := w.listed(c.Shard)[c.Serial]
			if !ok || pki.Reason(e.ReasonCode) != r.Reason || !e.RevocationTime.Equal(r.RevokedAt) {
				t.Fatalf("certificate %d: %+v, %v", i, e, ok)
			}
			if r.Reason == pki.Unspecified && len(e.Extensions) != 0 {
				t.Error("reason 0 is spelled out")
			}
			list := w.crlOf(w.issuing, c.Shard)
			idp := ""
			for _, x := range list.Extensions {
				if x.Id.Equal(oidIDP) && x.Critical {
					idp = string(x.Value)
				}
			}
			if !strings.Contains(idp, leaf.CRLDistributionPoints[0]) {
				t.Errorf("the issuing distribution point %q is not the certificate's %q", idp, leaf.CRLDistributionPoints[0])
			}
			if list.Number.Cmp(first) < 0 {
				t.Error("the number went back")
			}
			if d, err := db.Get(t.Context(), w.db.Read(), qDirtyForTest, (*db.Row).Int64, w.issuing.ID, c.Shard); err != nil || d != 0 {
				t.Errorf("the list is still marked dirty: %v %v", d, err)
			}
		}
		w.mustHold()
	})
}

var qDirtyForTest = db.SQL("status_test.get_dirty", `SELECT COALESCE(dirty_at, 0) FROM crl WHERE authority_id = $1 AND shard = $2`)

func TestCRLHeaders(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	path := "/crl/" + w.issuing.ID + "/0.crl"
	r := w.get(path)
	list := w.crlOf(w.issuing, 0)
	if r.header.Get("Last-Modified") != list.ThisUpdate.Format("Mon, 02 Jan 2006 15:04:05 GMT") || !strings.HasPrefix(r.header.Get("Cache-Control"), "max-age=600,") {
		t.Errorf("%v", r.header)
	}
	if again := w.get(path, "If-None-Match", r.header.Get("Etag")); again.status != 304 {
		t.Errorf("%d", again.status)
	}
	for _, file := range []string{w.issuing.ID + ".cer", w.root.ID + ".cer"} {
		r := w.get("/ca/" + file)
		if cert, err := x509.ParseCertificate(r.body); err != nil || r.header.Get("Content-Type") != typeCertificate || cert.Subject.CommonName == "" {
			t.Errorf("%s: %v %v", file, err, r.header)
		}
	}
	for _, file := range []string{w.issuing.ID + ".pem", "root.pem"} {
		if r := w.get("/ca/" + file); r.status != 200 || !strings.HasPrefix(string(r.body), "-----BEGIN CERTIFICATE-----") {
			t.Errorf("%s: %d %s", file, r.status, r.body)
		}
	}
	for _, file := range []string{w.issuing.ID, w.issuing.ID + ".key", "nobody.cer"} {
		if r := w.get("/ca/" + file); r.status != 404 {
			t.Errorf("%s: %d", file, r.status)
		}
	}
}

// TestEntryLeavesOneListAfterExpiry (RFC 5280 section 3.3).
func TestEntryLeavesOneListAfterExpiry(t *testing.T) {
	w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.Direct = true })
	w.clock = time.Now()
	w.load()
	c, leaf := w.issue(true)
	w.revoke(c, pki.Superseded, true)
	w.tickCRLs()
	var after []time.Time // thisUpdate of the lists made after expiry that have the entry
	for range 10 * 100 {
		w.clock = w.clock.Add(6 * time.Hour)
		w.catchUp()
		w.tickCRLs()
		_, ok := w.listed(0)[c.Serial]
		this := w.crlOf(w.issuing, 0).ThisUpdate
		switch {
		case !ok && !this.After(leaf.NotAfter):
			t.Fatalf("the entry left at %s, the certificate expires at %s", this, leaf.NotAfter)
		case ok && this.After(leaf.NotAfter):
			after = append(after, this)
		case !ok:
			if len(after) == 0 {
				t.Error("the entry was on no list after expiry")
			}
			if len(after) > 2 {
				t.Errorf("the entry stayed on %d lists after expiry", len(after))
			}
			return
		}
	}
	t.Error("the entry never left")
}

// TestAProcessThatWasDownAcrossExpiry still lists the entry once.
func TestAProcessThatWasDownAcrossExpiry(t *testing.T) {
	w := newWorld(t, sqlite(t))
	w.load()
	c, leaf := w.issue(true)
	w.revoke(c, pki.Superseded, true)
	w.tickCRLs()
	w.clock = leaf.NotAfter.Add(30 * 24 * time.Hour)
	late := w.replica(Config{Direct: true}).load()
	if _, ok := late.listed(0)[c.Serial]; !ok {
		t.Error("the entry was on no list after expiry")
	}
	late.clock = w.clock.Add(24 * time.Hour)
	late.catchUp()
	late.tickCRLs()
	if _, ok := late.listed(0)[c.Serial]; ok {
		t.Error("the entry stays for ever")
	}
}

// TestCheckerRefusesALostEntry: a list built on a table that forgot something.
func TestCheckerRefusesALostEntry(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	for range 3 {
		c, _ := w.issue(true)
		w.revoke(c, pki.Superseded, true)
	}
	w.tickCRLs()
	before := w.crlOf(w.issuing, 0)
	list := w.book(w.issuing.ID).crls[0]
	list.mu.Lock()
	first := true
	list.filter(func([]byte, uint32) bool { keep := !first; first = false; return keep })
	list.mu.Unlock()
	c, _ := w.issue(true)
	w.revoke(c, pki.KeyCompromise, true)
	for _, failed := range []int{0, 1} { // patient at first: the journal may bring it
		n, err := w.publishCRLs(t.Context())
		must(t, err)
		if n.Failed != failed || n.Done != 0 {
			t.Errorf("%+v", n)
		}
		w.clock = time.Now().Add(behind)
		w.catchUp()
	}
	if got := w.crlOf(w.issuing, 0); got.Number.Cmp(before.Number) != 0 {
		t.Error("a list that lost an entry was published")
	}
	// Another process, whose table is whole, does better.
	late := w.replica(Config{}).load()
	if got := len(late.listed(0)); got != 4 {
		t.Errorf("%d entries", got)
	}
}

// TestReplicaThatIsBehindWaits: two replicas revoke at once, and one publishes
// before the other has heard of its revocation.
func TestReplicaThatIsBehindWaits(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := newWorld(t, d).load()
		b := a.replica(Config{}).load()
		x, _ := a.issue(true)
		y, _ := b.issue(true)
		a.revoke(x, pki.Superseded, true)
		b.revoke(y, pki.Superseded, true)
		a.tickCRLs()
		b.tickCRLs() // must neither drop x nor complain
		if _, ok := b.listed(0)[x.Serial]; !ok || len(b.listed(0)) != 1 {
			t.Errorf("%v", b.listed(0))
		}
		b.catchUp()
		b.tickCRLs()
		a.catchUp()
		a.tickCRLs()
		for _, w := range []*world{a, b} {
			if got := w.listed(0); len(got) != 2 {
				t.Errorf("%v", got)
			}
		}
		a.mustHold()
	})
}

// TestOneReplicaWins: both build the next list, one publishes it.
func TestOneReplicaWins(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := newWorld(t, d).load()
		b := a.replica(Config{}).load()
		c, _ := a.issue(true)
		r := a.revoke(c, pki.Superseded, true)
		must(t, b.Revoked(t.Context(), r))
		var built []*candidate
		for _, w := range []*world{a, b} {
			book := w.book(w.issuing.ID)
			next, err := w.build(t.Context(), book, book.crls[0], book.auth.Load(), time.Now())
			must(t, err)
			built = append(built, next)
		}
		for i, w := range []*world{a, b} {
			var n struct{ won bool }
			must(t, w.db.Write(t.Context(), func(tx *db.Tx) (err error) {
				n.won, err = built[i].store(t.Context(), tx)
				return err
			}))
			if n.won != (i == 0) {
				t.Errorf("replica %d: won %v", i, n.won)
			}
		}
		a.tickCRLs()
		b.tickCRLs()
		if x, y := a.crlOf(a.issuing, 0), b.crlOf(a.issuing, 0); x.Number.Cmp(y.Number) != 0 || len(x.RevokedCertificateEntries) != 1 {
			t.Errorf("%s and %s with %d entries", x.Number, y.Number, len(x.RevokedCertificateEntries))
		}
		a.mustHold()
	})
}

func TestDoctor(t *testing.T) {
	for name, c := range map[string]struct {
		sql, invariant, problem string
	}{
		"unrevoked":         {`UPDATE certificate SET revoked_at = NULL, revoked_reason = NULL WHERE id = $1`, "I4", "good again"},
		"another reason":    {`UPDATE certificate SET revoked_reason = 1 WHERE id = $1`, "I4", "for superseded"},
		"another time":      {`UPDATE certificate SET revoked_at = revoked_at - 60000 WHERE id = $1`, "I5", "differ in the time"},
		"row deleted":       {`DELETE FROM certificate WHERE id = $1`, "I4", "its row is gone"},
		"back to intent":    {`UPDATE certificate SET state = 'intent' WHERE id = $1`, "I4", "its row does not"},
		"journal cut":       {`DELETE FROM journal WHERE subject = 'certificate:' || $1`, "I4", "journal does not"},
		"authority deleted": {`DELETE FROM authority WHERE id = (SELECT authority_id FROM certificate WHERE id = $1)`, "I4", "nobody answers"},
		"CRL deleted":       {`DELETE FROM crl WHERE authority_id = (SELECT authority_id FROM certificate WHERE id = $1)`, "", ""}, // an hour old at least
		"CRL damaged":       {`UPDATE crl SET der = x'3000' WHERE authority_id = (SELECT authority_id FROM certificate WHERE id = $1)`, "I5", "damaged"},
		"CRL number":        {`UPDATE crl SET number = number + 1 WHERE authority_id = (SELECT authority_id FROM certificate WHERE id = $1)`, "I5", "not the one its row describes"},
		"untouched":         {`SELECT id FROM certificate WHERE id = $1`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sqlite(t)).load()
			w.issue(true)
			cert, _ := w.issue(true)
			w.revoke(cert, pki.Superseded, true)
			w.tickCRLs()
			w.catchUp()
			w.mustHold()
			stmt := &db.Stmt{}
			*stmt = *db.SQL("status_test.tamper_"+strings.ReplaceAll(name, " ", "_"), c.sql)
			must(t, w.db.Write(context.Background(), func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), stmt, cert.ID); return err }))
			found := w.findings()
			ok := c.invariant == ""
			for _, f := range found {
				ok = ok || f.Invariant == c.invariant && strings.Contains(f.Problem, c.problem)
			}
			if !ok || c.invariant == "" && len(found) > 0 {
				t.Errorf("%+v", found)
			}
		})
	}
}

// TestDoctorSeesAListThatLags: a revocation older than the delay that is on no
// list.
func TestDoctorSeesAListThatLags(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	c, _ := w.issue(true)
	w.revoke(c, pki.Superseded, true)
	w.mustHold()
	w.clock = time.Now().Add(CRLDelay + 2*time.Second)
	if found := w.findings(); len(found) != 1 || found[0].Invariant != "I5" {
		t.Errorf("%+v", found)
	}
}
