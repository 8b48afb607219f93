package ca_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	zct "github.com/zmap/zcrypto/ct"
	zx509 "github.com/zmap/zcrypto/x509"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/ct"
	"chancery/internal/ct/cttest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
	"chancery/internal/testenv"
)

// logged is a world whose profile demands two timestamps of two operators, of
// three logs.
type logged struct {
	*world
	logs    []*cttest.Log
	profile *ca.Profile
}

func newLogged(t *testing.T, d *db.DB, kt pki.KeyType) *logged {
	t.Helper()
	w := &logged{world: newWorld(t, d, kt)}
	cfg := ct.Config{}
	profile := ca.DefaultProfiles()[0]
	profile.CT = &ca.CT{SCTs: 2, Operators: 2, Deadline: 10 * time.Second}
	for _, name := range []string{"argon", "xenon", "oak"} {
		l := cttest.New(t)
		w.logs, profile.CT.Logs = append(w.logs, l), append(profile.CT.Logs, name)
		cfg.Logs = append(cfg.Logs, ct.Log{Name: name, URL: l.URL, Key: l.SPKI})
	}
	s, err := ct.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Service, err = ca.Open(t.Context(), ca.Config{DB: d, Keys: w.keys, URLs: ca.URLs{Base: "http://localhost:8080"}, SignerLog: w.log.Append, Submit: s.Submit})
	if err != nil {
		t.Fatal(err)
	}
	byName, err := w.Register(t.Context(), []ca.Profile{profile})
	if err != nil {
		t.Fatal(err)
	}
	w.profile = byName["tls"]
	return w
}

// issue makes a certificate under the logged profile.
func (w *logged) issue(t *testing.T, name string) (*ca.Certificate, error) {
	t.Helper()
	req := request(t, pki.P256, dns(name))
	req.Profile = w.profile
	return w.Issue(t.Context(), req)
}

// judge lets the background checker look, and returns what it finds.
func (w *logged) judge(t *testing.T, id string) (findings []string) {
	t.Helper()
	c, err := ca.Get(t.Context(), w.db.Read(), id)
	if err != nil {
		t.Fatal(err)
	}
	records, err := audit.BySubjects(t.Context(), w.db.Read(), []string{"certificate:" + id})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Judge(t.Context(), &c, records["certificate:"+id], time.Now(), func(f ca.Finding) { findings = append(findings, f.Invariant+": "+f.Problem) }); err != nil {
		t.Fatal(err)
	}
	return findings
}

func TestCertificatesAreLogged(t *testing.T) {
	for _, kt := range []pki.KeyType{pki.P256, pki.RSA2048, pki.MLDSA44} {
		t.Run(string(kt), func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, d *db.DB) {
				w := newLogged(t, d, kt)
				c, err := w.issue(t, "logged.example.com")
				if err != nil {
					t.Fatal(err)
				}
				cert, err := c.X509()
				if err != nil {
					t.Fatal(err)
				}
				issuer, _ := w.Issuing("default")
				if err := cert.CheckSignatureFrom(issuer.Cert); err != nil {
					t.Error(err)
				}
				w.foreignLogsAgree(t, cert, issuer.Cert)
				pre := w.logs[0].Accepted()
				if len(pre) != 1 || pre[0].SerialNumber.Cmp(cert.SerialNumber) != 0 || len(pre[0].UnhandledCriticalExtensions) != 1 || len(w.logs[2].Accepted()) != 0 {
					t.Errorf("%d precertificates were logged, and %d in reserve", len(pre), len(w.logs[2].Accepted()))
				}
				w.mustHold(t)
				if found := w.judge(t, c.ID); found != nil {
					t.Error(found)
				}
				log, err := os.ReadFile(w.path)
				if err != nil || strings.Count(string(log), "\n") != 5 { // root, issuing, responder, precertificate, certificate
					t.Errorf("%s %v", log, err)
				}
			})
		})
	}
}

// foreignLogsAgree verifies the timestamps by zcrypto, and shows them to OpenSSL.
func (w *logged) foreignLogsAgree(t *testing.T, cert, issuer *x509.Certificate) {
	t.Helper()
	z, err := zx509.ParseCertificate(cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if len(z.SignedCertificateTimestampList) != 2 {
		t.Fatalf("zcrypto sees %d timestamps", len(z.SignedCertificateTimestampList))
	}
	scts, err := pki.SCTsOf(cert)
	if err != nil || len(scts) != 2 {
		t.Fatal(scts, err)
	}
	for i, l := range w.logs[:2] {
		key, err := x509.ParsePKIXPublicKey(l.SPKI)
		if err != nil {
			t.Fatal(err)
		}
		v, err := zct.NewSignatureVerifier(key)
		if err != nil {
			t.Fatal(err)
		}
		s := z.SignedCertificateTimestampList[i]
		signature := zct.DigitallySigned{HashAlgorithm: zct.HashAlgorithm(s.Signature.HashAlgorithm),
			SignatureAlgorithm: zct.SignatureAlgorithm(s.Signature.SignatureAlgorithm), Signature: s.Signature.Signature}
		entry := zct.LogEntry{Leaf: zct.MerkleTreeLeaf{TimestampedEntry: zct.TimestampedEntry{EntryType: zct.PrecertLogEntryType,
			PrecertEntry: zct.PreCert{IssuerKeyHash: pki.SPKIHash(issuer.RawSubjectPublicKeyInfo), TBSCertificate: w.announced(t, i)}}}}
		if err := v.VerifySCTSignature(zct.SignedCertificateTimestamp{SCTVersion: 0, LogID: zct.SHA256Hash(s.LogID), Timestamp: s.Timestamp,
			Extensions: zct.CTExtensions(s.Extensions), Signature: signature}, entry); err != nil {
			t.Errorf("timestamp %d by zcrypto: %v", i, err)
		}
	}
	path := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command(testenv.NeedBinary(t, "openssl"), "x509", "-in", path, "-noout", "-text").CombinedOutput()
	if err != nil || strings.Count(string(text), "Signed Certificate Timestamp:") != 2 || strings.Contains(string(text), "CT Precertificate Poison") {
		t.Errorf("%s %v", text, err)
	}
}

// announced is what log i signed about its last precertificate.
func (w *logged) announced(t *testing.T, i int) []byte {
	t.Helper()
	all := w.logs[i].Accepted()
	tbs, err := pki.WithoutPoison(all[len(all)-1].RawTBSCertificate)
	if err != nil {
		t.Fatal(err)
	}
	return tbs
}

func TestLogsThatFail(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newLogged(t, d, pki.P256)
		w.logs[0].Break(cttest.BadSignature)
		if _, err := w.issue(t, "reserve.example.com"); err != nil {
			t.Fatal("the reserve was not used: ", err)
		}
		w.logs[1].Break(cttest.Down)
		_, err := w.issue(t, "down.example.com")
		if !fault.Is(err, fault.Unavailable) || fault.As(err).RetryAfter < time.Second || !strings.Contains(fault.As(err).Detail, "try again") {
			t.Fatal(err)
		}
		var abandoned *ca.Certificate
		if err := ca.Walk(t.Context(), d.Read(), func(c *ca.Certificate) error {
			if c.State == ca.StateAbandoned {
				abandoned = c
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if abandoned == nil || abandoned.RevokedAt.IsZero() || abandoned.Names[0] != "down.example.com" {
			t.Errorf("%+v", abandoned)
		}
		w.mustHold(t)
		w.logs[0].Break(cttest.None)
		if _, err := w.issue(t, "down.example.com"); err != nil {
			t.Error(err)
		}
		w.mustHold(t)
	})
}

var (
	tamperPrecert = db.SQL("catest.tamper_precert", `UPDATE precertificate SET tbs = $2, tbs_hash = $3 WHERE certificate_id = $1`)
	dropPrecert   = db.SQL("catest.drop_precert", `DELETE FROM precertificate WHERE certificate_id = $1`)
	forgetLogs    = db.SQL("catest.forget_logs", `UPDATE precertificate SET logged_at = NULL WHERE certificate_id = $1`)
)

// TestPrecertificatesAreChecked: the doctor and the checker find a certificate
// that is not the one its precertificate announced (Let's Encrypt, 2023), that
// was made before it was logged, or that was never announced.
func TestPrecertificatesAreChecked(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newLogged(t, d, pki.P256)
		var certs [3]*ca.Certificate
		for i := range certs {
			var err error
			if certs[i], err = w.issue(t, "found.example.com"); err != nil {
				t.Fatal(err)
			}
		}
		other := w.logs[0].Accepted()[1].RawTBSCertificate
		hash := pki.Fingerprint(other)
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			tx.Queue(tamperPrecert, nil, certs[0].ID, other, hash[:])
			tx.Queue(forgetLogs, nil, certs[1].ID)
			tx.Queue(dropPrecert, nil, certs[2].ID)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		var found []string
		f, err := os.Open(w.path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, _, err := ca.Check(t.Context(), d.Read(), f, func(f ca.Finding) { found = append(found, f.Invariant+" "+f.Problem) }); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(found, "\n")
		for _, want := range []string{"I1 something was signed whose bytes were never stored", "I1 the certificate is not the one that its precertificate announced",
			"I1 it was issued before its precertificate was logged", "I1 its precertificate does not hold the bytes that were intended"} {
			if !strings.Contains(text, want) {
				t.Errorf("the doctor does not say %q:\n%s", want, text)
			}
		}
		for i, want := range []string{"announced", "before its precertificate was logged", "no precertificate of it is stored"} {
			if text := strings.Join(w.judge(t, certs[i].ID), "\n"); !strings.Contains(text, want) {
				t.Errorf("certificate %d: the checker does not say %q: %s", i, want, text)
			}
		}
	})
}

func TestCTIsChecked(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), pki.P256)
	for name, c := range map[string]ca.CT{
		"no logs":             {SCTs: 1, Operators: 1, Deadline: time.Second},
		"too few logs":        {Logs: []string{"a"}, SCTs: 2, Operators: 1, Deadline: time.Second},
		"no timestamps":       {Logs: []string{"a"}, Deadline: time.Second},
		"too many operators":  {Logs: []string{"a", "b"}, SCTs: 1, Operators: 2, Deadline: time.Second},
		"no deadline":         {Logs: []string{"a"}, SCTs: 1, Operators: 1},
		"a deadline too long": {Logs: []string{"a"}, SCTs: 1, Operators: 1, Deadline: time.Minute},
	} {
		p := ca.DefaultProfiles()[0]
		p.CT = &c
		if err := p.Check(); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	req := request(t, pki.P256, dns("a.example.com"))
	req.Profile.CT = &ca.CT{Logs: []string{"a"}, SCTs: 1, Operators: 1, Deadline: time.Second}
	if _, err := w.Issue(t.Context(), req); !fault.Is(err, fault.Precondition) {
		t.Errorf("issued without logs: %v", err)
	}
}

// TestTooFewTimestamps: whatever hands timestamps over is not believed blindly.
func TestTooFewTimestamps(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	w := newLogged(t, d, pki.P256)
	var err error
	w.Service, err = ca.Open(t.Context(), ca.Config{DB: d, Keys: w.keys, URLs: ca.URLs{Base: "http://localhost:8080"}, SignerLog: w.log.Append,
		Submit: func(context.Context, ca.Submission) ([]pki.SCT, error) { return []pki.SCT{{}}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := w.issue(t, "few.example.com"); err == nil {
		t.Error(c)
	}
	w.mustHold(t)
}
