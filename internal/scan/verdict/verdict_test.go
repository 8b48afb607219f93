package verdict_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ocsp"

	"chancery/internal/scan/verdict"
)

var now = time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)

// node is a certificate with its key.
type node struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue signs a certificate; a nil parent makes it sign itself.
func issue(t testing.TB, parent *node, name string, edit func(*x509.Certificate)) *node {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issueFor(t, parent, name, key, edit)
}

func issueFor(t testing.TB, parent *node, name string, key crypto.Signer, edit func(*x509.Certificate)) *node {
	t.Helper()
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(0, 0, -10), NotAfter: now.AddDate(0, 0, 30),
		BasicConstraintsValid: true, MaxPathLen: -1,
	}
	if edit != nil {
		edit(template)
	}
	if parent == nil {
		parent = &node{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &node{cert, key}
}

func ca(c *x509.Certificate) {
	c.IsCA, c.KeyUsage, c.NotAfter = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, now.AddDate(5, 0, 0)
}

func leaf(c *x509.Certificate) {
	c.DNSNames, c.ExtKeyUsage = []string{"a.test"}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}

func both(edits ...func(*x509.Certificate)) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, e := range edits {
			e(c)
		}
	}
}

func pool(nodes ...*node) *x509.CertPool {
	p := x509.NewCertPool()
	for _, n := range nodes {
		p.AddCert(n.cert)
	}
	return p
}

func chain(nodes ...*node) []*x509.Certificate {
	var out []*x509.Certificate
	for _, n := range nodes {
		out = append(out, n.cert)
	}
	return out
}

func TestEachProblemAndNoOther(t *testing.T) {
	root := issue(t, nil, "root", ca)
	mid := issue(t, root, "mid", ca)
	other := issue(t, nil, "other", ca)
	otherMid := issue(t, other, "other mid", ca)
	deep := issue(t, mid, "deep", ca)
	short := issue(t, root, "short", both(ca, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true }))
	below := issue(t, short, "below", ca)
	old := issue(t, root, "old", both(ca, func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.AddDate(-1, 0, 0), now.AddDate(0, 0, -1) }))
	noCA := issue(t, root, "no CA", leaf)
	narrow := issue(t, root, "narrow", both(ca, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"b.test"} }))
	wide := issue(t, root, "wide", both(ca, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"a.test"} }))
	weakRSA, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := issue(t, mid, "good", leaf)
	self := issue(t, nil, "self", leaf)
	with := func(edits ...func(*x509.Certificate)) *node {
		return issue(t, mid, "leaf", both(append([]func(*x509.Certificate){leaf}, edits...)...))
	}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  []verdict.Problem
	}{
		"sound":                 {chain(good, mid), nil},
		"sound, with root":      {chain(good, mid, root), nil},
		"sound, disordered":     {chain(issue(t, deep, "x", leaf), root, mid, deep), nil},
		"sound, junk along":     {chain(good, other, mid, otherMid), nil},
		"sound, from the root":  {chain(issue(t, root, "x", leaf)), nil},
		"sound, P-521":          {chain(issueFor(t, mid, "x", p521, leaf), mid), nil},
		"expired":               {chain(with(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }), mid), []verdict.Problem{verdict.Expired}},
		"not yet valid":         {chain(with(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }), mid), []verdict.Problem{verdict.NotYetValid}},
		"expiring":              {chain(with(func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, 6) }), mid), []verdict.Problem{verdict.Expiring}},
		"wrong host":            {chain(with(func(c *x509.Certificate) { c.DNSNames = []string{"b.test"} }), mid), []verdict.Problem{verdict.WrongHost}},
		"wildcard of too many":  {chain(with(func(c *x509.Certificate) { c.DNSNames = []string{"*.a.test"} }), mid), []verdict.Problem{verdict.WrongHost}},
		"self-signed":           {chain(self), []verdict.Problem{verdict.SelfSigned}},
		"incomplete":            {chain(good), []verdict.Problem{verdict.Incomplete}},
		"incomplete, a step up": {chain(issue(t, deep, "x", leaf), deep), []verdict.Problem{verdict.Incomplete}},
		"unknown root":          {chain(issue(t, otherMid, "x", leaf), otherMid), []verdict.Problem{verdict.Untrusted}},
		"unknown root, served":  {chain(issue(t, otherMid, "x", leaf), otherMid, other), []verdict.Problem{verdict.Untrusted}},
		"issuer expired":        {chain(issue(t, old, "x", leaf), old), []verdict.Problem{verdict.IssuerExpired}},
		"issuer is no CA":       {chain(issue(t, noCA, "x", leaf), noCA), []verdict.Problem{verdict.Untrusted}},
		"path too long":         {chain(issue(t, below, "x", leaf), below, short), []verdict.Problem{verdict.Untrusted}},
		"path just long enough": {chain(issue(t, short, "x", leaf), short), nil},
		"outside constraints":   {chain(issue(t, narrow, "x", leaf), narrow), []verdict.Problem{verdict.Untrusted}},
		"inside constraints":    {chain(issue(t, wide, "x", leaf), wide), nil},
		"for clients":           {chain(with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), mid), []verdict.Problem{verdict.WrongUsage}},
		"RSA of 1024 bits":      {chain(issueFor(t, mid, "x", weakRSA, leaf), mid), []verdict.Problem{verdict.WeakKey}},
		"P-224":                 {chain(issueFor(t, mid, "x", p224, leaf), mid), []verdict.Problem{verdict.WeakKey}},
		"unknown critical":      {chain(with(critical), mid), []verdict.Problem{verdict.Untrusted}},
		"gravest first":         {chain(issue(t, otherMid, "x", both(leaf, func(c *x509.Certificate) { c.NotAfter, c.DNSNames = now.Add(-1), nil })), otherMid), []verdict.Problem{verdict.Expired, verdict.WrongHost, verdict.Untrusted}},
	} {
		// The middle certificate is known from elsewhere, as an estate's are.
		j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "ours", Pool: pool(root)}}, Known: pool(mid)})
		for _, again := range []string{"first", "remembered"} {
			v := j.Judge(c.chain, "a.test", 7*24*time.Hour, now)
			if diff := cmp.Diff(append([]verdict.Problem{}, c.want...), v.Problems); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", name, again, diff)
			}
		}
	}
}

func critical(c *x509.Certificate) {
	c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
}

// A verdict on an issuer must not be lent to a leaf that it did not sign.
func TestRememberedIssuersCheckEachLeaf(t *testing.T) {
	root := issue(t, nil, "root", ca)
	mid := issue(t, root, "mid", ca)
	impostor := issue(t, nil, "mid", ca) // the same name, another key
	j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "ours", Pool: pool(root)}}})
	if v := j.Judge(chain(issue(t, mid, "a", leaf), mid), "a.test", 0, now); len(v.Problems) > 0 {
		t.Fatalf("sound: %v", v.Problems)
	}
	forged := issue(t, impostor, "a", func(c *x509.Certificate) { leaf(c); c.AuthorityKeyId = mid.cert.SubjectKeyId })
	if v := j.Judge(chain(forged, mid), "a.test", 0, now); v.Trusted() {
		t.Error("a forged leaf is trusted")
	}
}

func TestRootSetsJudgeApart(t *testing.T) {
	a, b := issue(t, nil, "a", ca), issue(t, nil, "b", ca)
	j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "a", Pool: pool(a)}, {Name: "b", Pool: pool(b)}}})
	mid := issue(t, b, "mid", ca)
	v := j.Judge(chain(issue(t, mid, "x", leaf), mid), "a.test", 0, now)
	want := []verdict.SetTrust{{Set: "a", Trust: verdict.Trust(verdict.Untrusted)}, {Set: "b", Trust: verdict.Trusted}}
	if diff := cmp.Diff(want, v.Trust); diff != "" || len(v.Problems) > 0 {
		t.Errorf("%v; trust (-want +got):\n%s", v.Problems, diff)
	}
}

// A scan may run for days: an issuer that was sound must be looked at again.
func TestIssuersExpireWhileRemembered(t *testing.T) {
	root := issue(t, nil, "root", ca)
	mid := issue(t, root, "mid", both(ca, func(c *x509.Certificate) { c.NotAfter = now.Add(time.Hour) }))
	j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "ours", Pool: pool(root)}}})
	served := chain(issue(t, mid, "x", leaf), mid)
	if v := j.Judge(served, "a.test", 0, now); len(v.Problems) > 0 {
		t.Errorf("before: %v", v.Problems)
	}
	if v := j.Judge(served, "a.test", 0, now.Add(2*time.Hour)); !slices.Equal(v.Problems, []verdict.Problem{verdict.IssuerExpired}) {
		t.Errorf("after: %v", v.Problems)
	}
}

func TestNameIsOnlyJudgedWhenAsked(t *testing.T) {
	root := issue(t, nil, "root", ca)
	j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "ours", Pool: pool(root)}}})
	served := chain(issue(t, root, "x", leaf))
	if v := j.Judge(served, "", 0, now); len(v.Problems) > 0 {
		t.Errorf("%v", v.Problems)
	}
}

func TestPostQuantumCertificate(t *testing.T) {
	key, err := mldsa.GenerateKey(mldsa.MLDSA65())
	if err != nil {
		t.Fatal(err)
	}
	root := issueFor(t, nil, "root", key, ca)
	j := verdict.New(verdict.Config{Roots: []verdict.Roots{{Name: "ours", Pool: pool(root)}}})
	leafKey, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		t.Fatal(err)
	}
	if v := j.Judge(chain(issueFor(t, root, "x", leafKey, leaf)), "a.test", 0, now); !v.PostQuantum || len(v.Problems) > 0 {
		t.Errorf("ML-DSA: %v, %v", v.PostQuantum, v.Problems)
	}
	if v := j.Judge(chain(issue(t, root, "x", leaf)), "a.test", 0, now); v.PostQuantum {
		t.Error("an ECDSA key counts as post-quantum")
	}
}

// status serves a CRL and OCSP answers and counts requests.
type status struct {
	crl, ocsp []byte
	requests  int
	url       string
}

func serveStatus(t testing.TB) *status {
	s := &status{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests++
		if r.Method == http.MethodPost {
			w.Write(s.ocsp)
			return
		}
		w.Write(s.crl)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL + "/a.crl"
	return s
}

func crlOf(t testing.TB, by *node, edit func(*x509.RevocationList), revoked ...*node) []byte {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	for _, n := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n.cert.SerialNumber, RevocationTime: now.Add(-time.Minute)})
	}
	if edit != nil {
		edit(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, by.cert, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestOneCRLServesAllLeaves(t *testing.T) {
	s := serveStatus(t)
	root := issue(t, nil, "root", ca)
	dp := func(c *x509.Certificate) { leaf(c); c.CRLDistributionPoints = []string{s.url} }
	good, bad := issue(t, root, "good", dp), issue(t, root, "bad", dp)
	s.crl = crlOf(t, root, nil, bad)
	r := verdict.NewRevocation(http.DefaultClient)
	for range 3 {
		if got, err := r.Check(t.Context(), good.cert, root.cert, nil, now); got != verdict.StatusGood {
			t.Errorf("good: %s, %v", got, err)
		}
		if got, err := r.Check(t.Context(), bad.cert, root.cert, nil, now); got != verdict.StatusRevoked {
			t.Errorf("bad: %s, %v", got, err)
		}
	}
	if s.requests != 1 {
		t.Errorf("%d requests, want 1", s.requests)
	}
	s.crl = crlOf(t, root, func(l *x509.RevocationList) { l.NextUpdate = now.Add(9 * time.Hour) }, good)
	if got, _ := r.Check(t.Context(), good.cert, root.cert, nil, now.Add(2*time.Hour)); got != verdict.StatusRevoked || s.requests != 2 {
		t.Errorf("after nextUpdate: %s, %d requests", got, s.requests)
	}
}

// A list that does not speak for the leaf must not clear it.
func TestCRLThatProvesNothing(t *testing.T) {
	root, other := issue(t, nil, "root", ca), issue(t, nil, "root", ca)
	idp := func(value []byte) func(*x509.RevocationList) {
		return func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: value}}
		}
	}
	for name, c := range map[string]struct {
		by   *node
		edit func(*x509.RevocationList)
	}{
		"another signer":  {other, nil},
		"expired":         {root, func(l *x509.RevocationList) { l.NextUpdate = now.Add(-time.Minute) }},
		"of the future":   {root, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(30 * time.Minute) }},
		"another point":   {root, idp([]byte("\x30\x0b\xa0\x09\xa0\x07\x86\x05x:y/z"))},
		"CAs only":        {root, idp([]byte("\x30\x03\x82\x01\xff"))},
		"some reasons":    {root, idp([]byte("\x30\x04\x83\x02\x01\x06"))},
		"indirect":        {root, idp([]byte("\x30\x03\x84\x01\xff"))},
		"not even a list": {nil, nil},
	} {
		s := serveStatus(t)
		cert := issue(t, root, "x", func(c *x509.Certificate) { leaf(c); c.CRLDistributionPoints = []string{s.url} })
		if s.crl = []byte("no"); c.by != nil {
			s.crl = crlOf(t, c.by, c.edit)
		}
		if got, err := verdict.NewRevocation(http.DefaultClient).Check(t.Context(), cert.cert, root.cert, nil, now); got != verdict.StatusUnknown || err == nil {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestStapleAndOCSP(t *testing.T) {
	s := serveStatus(t)
	root := issue(t, nil, "root", ca)
	cert := issue(t, root, "x", func(c *x509.Certificate) { leaf(c); c.OCSPServer = []string{s.url} })
	answer := func(code int, by *node, next time.Time) []byte {
		der, err := ocsp.CreateResponse(by.cert, by.cert, ocsp.Response{Status: code, SerialNumber: cert.cert.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: next, RevokedAt: now.Add(-time.Hour)}, by.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	later := now.Add(time.Hour)
	r := verdict.NewRevocation(http.DefaultClient)
	if got, err := r.Check(t.Context(), cert.cert, root.cert, answer(ocsp.Revoked, root, later), now); got != verdict.StatusRevoked || s.requests != 0 {
		t.Errorf("staple: %s, %v after %d requests", got, err, s.requests)
	}
	s.ocsp = answer(ocsp.Revoked, root, later)
	stale := answer(ocsp.Good, root, now.Add(-time.Minute))
	if got, err := r.Check(t.Context(), cert.cert, root.cert, stale, now); got != verdict.StatusRevoked {
		t.Errorf("a stale staple counts: %s, %v", got, err)
	}
	s.ocsp = answer(ocsp.Good, issue(t, nil, "root", ca), later)
	if got, err := r.Check(t.Context(), cert.cert, root.cert, nil, now); got != verdict.StatusUnknown || err == nil {
		t.Errorf("another signer: %s, %v", got, err)
	}
}

func TestRevocationVisitsOnlyHTTP(t *testing.T) {
	root := issue(t, nil, "root", ca)
	cert := issue(t, root, "x", func(c *x509.Certificate) {
		leaf(c)
		c.CRLDistributionPoints = []string{"ldap://a.test/x", "file:///etc/passwd"}
	})
	if got, err := verdict.NewRevocation(http.DefaultClient).Check(context.Background(), cert.cert, root.cert, nil, now); got != verdict.StatusUnknown || err == nil {
		t.Errorf("%s, %v", got, err)
	}
}
