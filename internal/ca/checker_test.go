package ca_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

// judge judges one certificate and returns what is wrong, by kind.
func (w *world) judge(t *testing.T, c *ca.Certificate) map[string]string {
	t.Helper()
	found := map[string]string{}
	records, err := audit.BySubjects(t.Context(), w.db.Read(), []string{"certificate:" + c.ID})
	must(t, err)
	must(t, w.Judge(t.Context(), c, records["certificate:"+c.ID], time.Now(), func(f ca.Finding) { found[f.Invariant] += f.Problem + "; " }))
	return found
}

// issued issues a certificate under the profile of a name.
func (w *world) issued(t *testing.T, profiles map[string]*ca.Profile, name string) *ca.Certificate {
	t.Helper()
	req := request(t, pki.P256, dns("www.example.test"))
	req.Profile = profiles[name]
	c, err := w.Issue(t.Context(), req)
	must(t, err)
	got, err := ca.Get(t.Context(), w.db.Read(), c.ID)
	must(t, err)
	return &got
}

func TestJudgeFindsWhatIsWrong(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	profiles, err := w.Register(t.Context(), ca.DefaultProfiles())
	must(t, err)
	strict := ca.DefaultProfiles()[1]
	strict.Name, strict.Excluded, strict.KeyTypes = "strict", []string{"example.test"}, []pki.KeyType{pki.P384}
	more, err := w.Register(t.Context(), []ca.Profile{strict})
	must(t, err)
	good := w.issued(t, profiles, "tls")
	if found := w.judge(t, good); len(found) != 0 {
		t.Fatalf("a certificate as it should be: %v", found)
	}
	for kind, c := range map[string]struct {
		spoil   func(*ca.Certificate)
		problem string
	}{
		"profile":   {func(c *ca.Certificate) { c.ProfileHash = more["strict"].Hash() }, "does not certify www.example.test"},
		"signature": {func(c *ca.Certificate) { c.AuthorityID = w.root.ID }, "names another issuer"},
		"journal":   {func(c *ca.Certificate) { c.TBSHash = make([]byte, 32) }, "these bytes were intended"},
		"I1":        {func(c *ca.Certificate) { c.Serial = c.Serial[:5] + "\x01" }, "another serial"},
		"I3":        {func(c *ca.Certificate) { c.Names = append(c.Names, "evil.example.test") }, "without authorization"},
	} {
		bad := *good
		c.spoil(&bad)
		if found := w.judge(t, &bad); !strings.Contains(found[kind], c.problem) {
			t.Errorf("%s: %v", kind, found)
		}
	}
	short := *w.issued(t, profiles, "tls")
	short.ProfileHash = profiles["short"].Hash()
	if found := w.judge(t, &short); !strings.Contains(found["profile"], "it lives for") {
		t.Errorf("%v", found)
	}
	cert, err := good.X509()
	must(t, err)
	must(t, w.db.Write(t.Context(), func(tx *db.Tx) error {
		ca.BlockKey(tx, pki.SPKIHash(cert.RawSubjectPublicKeyInfo), "test", time.Now())
		return nil
	}))
	if found := w.judge(t, good); !strings.Contains(found["key"], "revoke it") {
		t.Errorf("%v", found)
	}
}

var (
	qAgeForTest = db.SQL("ca_test.age_certificates", `UPDATE certificate SET created_at = created_at - 600000`, db.Scan("test"))
	qDueForTest = db.SQL("ca_test.make_walk_due", `UPDATE checker SET due_at = 0 WHERE name = $1`)
)

// TestCheckerWalksEverything: old ones by the walk over all, new ones by the
// other; what is wrong is kept until it is put right.
func TestCheckerWalksEverything(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d, pki.P256)
		forged := w.fill(t, catest.Spec{N: 30}) // nobody signed these
		exec := func(s *db.Stmt, args ...any) {
			must(t, d.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(context.Background(), s, args...); return err }))
		}
		exec(qAgeForTest)
		reg := prometheus.NewRegistry()
		c := ca.NewChecker(w.Service, ca.CheckerConfig{Rate: 7, Registry: reg})
		tick := func(walk string) int {
			exec(qDueForTest, walk)
			n, err := c.Tick(t.Context())
			must(t, err)
			return n.Done
		}
		judged := 0
		for n := 7; n == 7; judged += n {
			if n = tick("all"); n > 7 {
				t.Errorf("%d in one tick", n)
			}
		}
		if judged < 30 {
			t.Errorf("%d judged", judged)
		}
		found := w.findings(t)
		for _, id := range forged {
			for _, want := range []string{"signature: signature does not verify", "journal: no entry", "profile: its profile cannot be had"} {
				if !strings.Contains(found[id], want) {
					t.Fatalf("%s: %q", id, found[id])
				}
			}
		}
		if gauge(t, reg, "chancery_checker_findings") < 90 || gauge(t, reg, "chancery_checker_last_pass_timestamp_seconds") == 0 {
			t.Errorf("findings about %d certificates", len(found))
		}
		// What was issued since is found at once by the other walk.
		fresh := w.fill(t, catest.Spec{N: 1})
		if tick("new") != 0 || w.findings(t)[fresh[0]] != "" {
			t.Error("it was judged while its issuance may be under way")
		}
		exec(qAgeForTest)
		if tick("new") != 1 || w.findings(t)[fresh[0]] == "" {
			t.Error("it was not judged")
		}
		// What was put right is forgotten with the next walk.
		exec(qProfileForTest, ca.DefaultProfiles()[0].Hash())
		_, err := w.Register(t.Context(), ca.DefaultProfiles())
		must(t, err)
		for tick("all") == 7 {
		}
		if text := w.findings(t)[forged[3]]; strings.Contains(text, "profile:") || !strings.Contains(text, "signature:") {
			t.Errorf("%q", text)
		}
	})
}

var qProfileForTest = db.SQL("ca_test.set_profile", `UPDATE certificate SET profile_hash = $1 WHERE profile_hash = ''`, db.Scan("test"))

// findings returns all findings by certificate.
func (w *world) findings(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var at ca.Found
	for {
		page, err := ca.Findings(t.Context(), w.db.Read(), at, 10)
		must(t, err)
		if len(page) == 0 {
			return all
		}
		for _, f := range page {
			all[f.CertificateID] += f.Invariant + ": " + f.Problem + "; "
			at = f
		}
	}
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func BenchmarkJudge(b *testing.B) {
	w := newWorld(b, dbtest.Open(b, dbtest.SQLiteURL(b)), pki.P256)
	profiles, err := w.Register(b.Context(), ca.DefaultProfiles())
	must(b, err)
	req := request(b, pki.P256, dns("www.example.test"))
	req.Profile = profiles["tls"]
	c, err := w.Issue(b.Context(), req)
	must(b, err)
	records, err := audit.BySubjects(b.Context(), w.db.Read(), []string{"certificate:" + c.ID})
	must(b, err)
	for b.Loop() {
		must(b, w.Judge(b.Context(), c, records["certificate:"+c.ID], time.Now(), func(f ca.Finding) { b.Error(f) }))
	}
}
