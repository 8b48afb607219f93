package status

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

func sqlite(t testing.TB) *db.DB { return dbtest.Open(t, dbtest.SQLiteURL(t)) }

func TestIssuedIsGoodAndRevokedIsRevokedAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d).load()
		c, leaf := w.issue(true)
		good := w.ask(leaf)
		if good.Status != ocsp.Good {
			t.Fatalf("status %d", good.Status)
		}
		if !good.ThisUpdate.Equal(good.ThisUpdate.Truncate(time.Minute)) || good.ThisUpdate.After(time.Now()) {
			t.Errorf("thisUpdate %s", good.ThisUpdate)
		}
		if got := good.NextUpdate.Sub(good.ThisUpdate); got != defaultValidity {
			t.Errorf("valid for %s", got)
		}
		if good.ThisUpdate.Before(c.IssuedAt.Truncate(time.Minute)) {
			t.Errorf("good at %s, before it was issued at %s", good.ThisUpdate, c.IssuedAt)
		}
		r := w.revoke(c, pki.KeyCompromise, true)
		revoked := w.ask(leaf)
		if revoked.Status != ocsp.Revoked || revoked.RevocationReason != ocsp.KeyCompromise || !revoked.RevokedAt.Equal(r.RevokedAt) {
			t.Errorf("%+v", revoked)
		}
		if got := w.parse(leaf, w.get(w.getTarget(leaf))); got.Status != ocsp.Revoked {
			t.Errorf("GET: %+v", got)
		}
		w.catchUp() // the journal's older word about the issuance changes nothing
		if got := w.ask(leaf); got.Status != ocsp.Revoked {
			t.Errorf("after the journal: %+v", got)
		}
	})
}

// TestGETForms: whatever base64 in a path may look like on the wire.
func TestGETForms(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	_, leaf := w.issue(true)
	der, err := ocsp.CreateRequest(leaf, w.issuing.Cert, nil)
	must(t, err)
	text := base64.StdEncoding.EncodeToString(der)
	prefix := "/ocsp/" + w.issuing.ID
	all := ""
	for _, c := range []byte(text) {
		all += "%" + strings.ToUpper(big.NewInt(int64(c)).Text(16))
	}
	for name, target := range map[string]string{
		"percent-encoded":      prefix + "/" + url.QueryEscape(text),
		"lower-case escapes":   prefix + "/" + strings.ToLower(all[:30]) + all[30:],
		"everything escaped":   prefix + "/" + all,
		"plain":                prefix + "/" + text,
		"leading slash":        prefix + "//" + text,
		"slashes in front":     "/" + prefix + "/" + text,
		"doubled in between":   "/ocsp//" + w.issuing.ID + "/" + text,
		"no padding":           prefix + "/" + strings.TrimRight(text, "="),
		"query of a cache":     prefix + "/" + text + "?x=1",
		"absolute-form target": w.base + prefix + "/" + text,
	} {
		if got := w.parse(leaf, w.get(target)); got.Status != ocsp.Good {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, target := range []string{prefix, prefix + "/", prefix + "/!!!!", prefix + "/%3D%3D%3D", prefix + "/AAAA",
		prefix + "/" + text + "AAAA", prefix + "/" + strings.Repeat("A", 12_000), "/ocsp/", "/ocsp/" + text} {
		if got := w.refused(w.get(target)); got != "malformed" {
			t.Errorf("%.60s: %q", target, got)
		}
	}
}

// TestPlusAndSlash: text with "+" and "//" must survive; ServeMux would clean it.
func TestPlusAndSlash(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	h := w.hashes()
	plus, slashes := false, false
	for i := byte(0); !plus || !slashes; i++ {
		serial := pki.Serial([]byte{0x7f, 0xfb, 0xef, 0xbe, i, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		text := base64.StdEncoding.EncodeToString(pki.EncodeOCSPRequest(h, crypto.SHA1, nil, serial))
		plus, slashes = plus || strings.Contains(text, "+"), slashes || strings.Contains(text, "//")
		if got := w.refused(w.get("/ocsp/" + w.issuing.ID + "/" + text)); got != "unauthorized" {
			t.Fatalf("%s: %q", text, got)
		}
	}
}

func TestUnknownIsNotAnswered(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	_, leaf := w.issue(true)
	serial := pki.SerialFromBig(leaf.SerialNumber)
	h := w.hashes()
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		if r := w.post(pki.EncodeOCSPRequest(h, hash, nil, serial)); len(r.body) < 100 {
			t.Errorf("%v: %x", hash, r.body)
		}
		if got := w.refused(w.post(pki.EncodeOCSPRequest(h, hash, nil, serial[:len(serial)-1]+"\x00"))); got != "unauthorized" {
			t.Errorf("unknown serial: %q", got)
		}
		for name, spoil := range map[string]func(*pki.CertIDHashes){
			"name hash": func(h *pki.CertIDHashes) { h.NameSHA1[0]++; h.NameSHA256[0]++ },
			"key hash":  func(h *pki.CertIDHashes) { h.KeySHA1[19]++; h.KeySHA256[31]++ },
		} {
			other := *h
			spoil(&other)
			if got := w.refused(w.post(pki.EncodeOCSPRequest(&other, hash, nil, serial))); got != "unauthorized" {
				t.Errorf("%v, another %s: %q", hash, name, got)
			}
		}
	}
	// A root answers by CRL, and other paths are nobody's.
	text := base64.StdEncoding.EncodeToString(pki.EncodeOCSPRequest(h, crypto.SHA1, nil, serial))
	for _, id := range []string{w.root.ID, "nobody"} {
		if got := w.refused(w.get("/ocsp/" + id + "/" + text)); got != "unauthorized" {
			t.Errorf("%s: %q", id, got)
		}
	}
}

func TestSignedUnknown(t *testing.T) {
	w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.SignUnknown = true }).load()
	_, leaf := w.issue(true)
	leaf.SerialNumber.Add(leaf.SerialNumber, big.NewInt(1))
	der, err := ocsp.CreateRequest(leaf, w.issuing.Cert, nil)
	must(t, err)
	r := w.post(der)
	if got := w.parse(leaf, r); got.Status != ocsp.Unknown {
		t.Errorf("%+v", got)
	}
	if r.header.Get("Etag") != "" || !strings.Contains(r.header.Get("Cache-Control"), "no-cache") {
		t.Errorf("an unknown can be cached: %v", r.header)
	}
}

func TestHTTPRules(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	_, leaf := w.issue(true)
	der, err := ocsp.CreateRequest(leaf, w.issuing.Cert, nil)
	must(t, err)
	send := func(method, contentType string, body []byte) reply {
		req, err := http.NewRequest(method, w.base+"/ocsp/"+w.issuing.ID, strings.NewReader(string(body)))
		must(t, err)
		req.Header.Set("Content-Type", contentType)
		return do(t, req)
	}
	if r := send("POST", "application/json", der); r.status != 415 {
		t.Errorf("wrong type: %d", r.status)
	}
	if r := send("POST", typeOCSPRequest+"; x=1", der); r.status != 200 {
		t.Errorf("type with a parameter: %d", r.status)
	}
	if r := send("POST", typeOCSPRequest, make([]byte, pki.MaxOCSPRequest+1)); r.status != 413 {
		t.Errorf("too large: %d", r.status)
	}
	if got := w.refused(send("POST", typeOCSPRequest, make([]byte, pki.MaxOCSPRequest))); got != "malformed" {
		t.Errorf("zeros: %q", got)
	}
	if r := send("PUT", typeOCSPRequest, der); r.status != 405 || r.header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("PUT: %d %v", r.status, r.header)
	}
	r := w.get(w.getTarget(leaf))
	res := w.parse(leaf, r)
	etag := r.header.Get("Etag")
	if !strings.HasPrefix(etag, `"`) || r.header.Get("Last-Modified") != res.ThisUpdate.Format(http.TimeFormat) ||
		r.header.Get("Expires") != res.NextUpdate.Format(http.TimeFormat) {
		t.Errorf("%v", r.header)
	}
	var age int
	for _, part := range strings.Split(r.header.Get("Cache-Control"), ", ") {
		if s, ok := strings.CutPrefix(part, "max-age="); ok {
			d, err := time.ParseDuration(s + "s")
			must(t, err)
			age = int(d / time.Minute)
		}
	}
	if age <= 0 || age > int(defaultValidity/time.Minute)/2 {
		t.Errorf("max-age is %d minutes, past the refresh", age)
	}
	if r := w.get(w.getTarget(leaf), "If-None-Match", etag); r.status != 304 || len(r.body) != 0 {
		t.Errorf("If-None-Match: %d", r.status)
	}
	c, err := ca.BySerial(t.Context(), w.db.Read(), w.issuing.ID, pki.SerialFromBig(leaf.SerialNumber))
	must(t, err)
	w.revoke(&c, pki.Unspecified, true)
	if r := w.get(w.getTarget(leaf), "If-None-Match", etag, "If-Modified-Since", time.Now().Add(time.Hour).Format(http.TimeFormat)); r.status != 200 || w.parse(leaf, r).Status != ocsp.Revoked {
		t.Errorf("the good answer is confirmed after the revocation: %d", r.status)
	}
}

// TestReservedSerialIsNeverGood looks at a serial between the intent to sign it
// and the certificate, and after the issuance failed.
func TestReservedSerialIsNeverGood(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d).load()
		req := w.request()
		boom := errors.New("power cut")
		var serial pki.Serial
		req.Complete = func(ctx context.Context, tx *db.Tx, id string) error {
			c, err := ca.Get(ctx, w.db.Read(), id) // as everybody else sees it
			must(t, err)
			serial = c.Serial
			_, err = w.follow(ctx)
			must(t, err)
			late := w.replica(Config{}) // one that starts right now
			_, err = late.follow(ctx)
			must(t, err)
			for _, w := range []*world{w, late} {
				if got := w.refused(w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, serial))); got != "unauthorized" {
					t.Errorf("a reserved serial is answered: %q", got)
				}
			}
			return boom
		}
		if _, err := w.ca.Issue(t.Context(), req); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		w.catchUp()
		res, err := ocsp.ParseResponse(w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, serial)).body, w.issuing.Cert)
		must(t, err)
		if res.Status != ocsp.Revoked {
			t.Errorf("an abandoned serial is %d", res.Status)
		}
		w.tickCRLs()
		if _, ok := w.listed(0)[serial]; !ok {
			t.Error("an abandoned serial is not on the CRL")
		}
		w.mustHold()
	})
}

func TestSeveralCertificatesInOneMessage(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	var serials []pki.Serial
	for i := range 3 {
		c, _ := w.issue(true)
		if i == 1 {
			w.revoke(c, pki.Superseded, true)
		}
		serials = append(serials, c.Serial)
	}
	r := w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA256, nil, serials...))
	for i, want := range []int{ocsp.Good, ocsp.Revoked, ocsp.Good} {
		res, err := ocsp.ParseResponseForCert(r.body, certWith(serials[i]), w.issuing.Cert)
		must(t, err)
		if res.Status != want {
			t.Errorf("certificate %d: %d", i, res.Status)
		}
	}
	if got := w.refused(w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nil, serials[0], "\x01\x02\x03"))); got != "unauthorized" {
		t.Errorf("one of two is unknown: %q", got)
	}
}

func TestNonce(t *testing.T) {
	for _, echo := range []bool{false, true} {
		w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.EchoNonce = echo }).load()
		c, leaf := w.issue(true)
		nonce := make([]byte, 32)
		rand.Read(nonce)
		r := w.post(pki.EncodeOCSPRequest(w.hashes(), crypto.SHA1, nonce, c.Serial))
		if got := strings.Contains(string(r.body), string(nonce)); got != echo {
			t.Errorf("echo %v: the nonce is in the answer: %v", echo, got)
		}
		if got := w.parse(leaf, r); got.Status != ocsp.Good {
			t.Errorf("%+v", got)
		}
		if got := r.header.Get("Etag") == ""; got != echo {
			t.Errorf("echo %v: cacheable %v", echo, !got)
		}
	}
}

func TestEveryKeyTypeSignsAnswersDirectly(t *testing.T) {
	for _, kt := range pki.KeyTypes {
		t.Run(string(kt), func(t *testing.T) {
			w := newWorld(t, sqlite(t), withKey(kt), func(c *Config, _ *ca.Spec) { c.Direct = true }).load()
			c, leaf := w.issue(true)
			for range 3 { // signed, then rebuilt
				for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
					r := w.post(pki.EncodeOCSPRequest(w.hashes(), hash, nil, c.Serial))
					res, err := ocsp.ParseResponseForCert(r.body, leaf, nil)
					must(t, err)
					must(t, pki.VerifyTBS(w.issuing.Cert.PublicKey, res.TBSResponseData, res.Signature))
					if res.Status != ocsp.Good || res.Certificate != nil {
						t.Errorf("%+v", res)
					}
				}
			}
		})
	}
}

func TestDelegatedResponder(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	_, before := w.issue(true)
	if res := w.ask(before); res.Certificate != nil {
		t.Error("there is a delegate before one was made")
	}
	other := w.replica(Config{}).load()
	for _, r := range []*world{w, other} {
		n, err := r.renewResponders(t.Context())
		must(t, err)
		if want := map[bool]int{true: 1, false: 0}[r == w]; n.Done != want {
			t.Errorf("made %d responders, want %d", n.Done, want)
		}
	}
	other.catchUp()
	_, leaf := w.issue(true)
	other.catchUp()
	for _, r := range []*world{w, other} {
		res := r.parse(leaf, r.get(w.getTarget(leaf)))
		if res.Certificate == nil || !slices.Contains(res.Certificate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
			t.Fatal("the answer has no delegate's certificate")
		}
	}
	if res := w.ask(before); res.Certificate != nil {
		t.Error("an answer that is still good was signed anew")
	}
	first := w.ask(leaf).Certificate
	w.clock = first.NotBefore.Add(first.NotAfter.Sub(first.NotBefore)/2 + time.Minute)
	w.catchUp()
	n, err := w.renewResponders(t.Context())
	must(t, err)
	if n.Done != 1 {
		t.Errorf("%d responders made at half of its life", n.Done)
	}
	w.clock = first.NotAfter.Add(time.Hour)
	w.catchUp()
	_, err = w.presign(t.Context())
	must(t, err)
	if res := w.ask(leaf); res.Certificate != nil && res.Certificate.Equal(first) {
		t.Error("an expired delegate signs")
	}
}

// certWith is a certificate of which only the serial matters.
func certWith(serial pki.Serial) *x509.Certificate {
	return &x509.Certificate{SerialNumber: serial.Big()}
}

// TestRefreshIsSpreadAndTimely goes through ten days, hour by hour.
func TestRefreshIsSpreadAndTimely(t *testing.T) {
	w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.Direct = true })
	w.clock = time.Now().Truncate(time.Minute)
	w.load()
	var leaves []*x509.Certificate
	for range 60 {
		_, leaf := w.issue(true)
		leaves = append(leaves, leaf)
	}
	_, err := w.presign(t.Context())
	must(t, err)
	busiest, total := 0, 0
	for range 24 * 10 {
		w.clock = w.clock.Add(time.Hour)
		w.catchUp()
		n, err := w.presign(t.Context())
		must(t, err)
		busiest, total = max(busiest, n.Done), total+n.Done
		for _, leaf := range leaves[:3] {
			res := w.ask(leaf)
			if age := w.clock.Sub(res.ThisUpdate); age < 0 || age > defaultValidity/2+time.Hour {
				t.Fatalf("an answer is %s old", age)
			}
		}
	}
	if busiest > 30 || total < 60*4 {
		t.Errorf("%d answers renewed in one hour, %d in ten days", busiest, total)
	}
}

// TestNothingIsServedPastItsEnd: without the journal nothing newer can be said,
// and what was said ends.
func TestNothingIsServedPastItsEnd(t *testing.T) {
	w := newWorld(t, sqlite(t), func(c *Config, _ *ca.Spec) { c.Direct = true })
	w.clock = time.Now()
	w.load()
	_, leaf := w.issue(true)
	first := w.ask(leaf)
	w.clock = first.NextUpdate.Add(-time.Minute)
	_, err := w.presign(t.Context())
	must(t, err)
	if got := w.ask(leaf); got.ThisUpdate.After(time.Now()) {
		t.Errorf("an answer is newer than the last look at the journal: %s", got.ThisUpdate)
	}
	w.clock = first.NextUpdate.Add(time.Minute) // CRLs are not rounded
	if r := w.get(w.getTarget(leaf)); r.status != 503 || r.header.Get("Retry-After") == "" {
		t.Errorf("%d %v", r.status, r.header)
	}
	if r := w.get("/crl/" + w.issuing.ID + "/0.crl"); r.status != 503 {
		t.Errorf("CRL past its end: %d", r.status)
	}
	w.catchUp()
	if got := w.ask(leaf); got.Status != ocsp.Good || !got.NextUpdate.After(w.clock) {
		t.Errorf("%+v", got)
	}
}

func TestAnswers503UntilLoaded(t *testing.T) {
	w := newWorld(t, sqlite(t))
	_, leaf := w.issue(true)
	if err := w.Ready(t.Context()); !isUnavailable(err) {
		t.Errorf("ready: %v", err)
	}
	for _, target := range []string{w.getTarget(leaf), "/crl/" + w.issuing.ID + "/0.crl"} {
		if r := w.get(target); r.status != 503 || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v", target, r.status, r.header)
		}
	}
	w.load()
	must(t, w.Ready(t.Context()))
	if got := w.ask(leaf); got.Status != ocsp.Good {
		t.Errorf("%+v", got)
	}
}

// TestReplicasAgree: what one process does, another one knows after a look at
// the journal, and one that starts now says the same.
func TestReplicasAgree(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		a := newWorld(t, d, withShards(3)).load()
		b := a.replica(Config{}).load()
		var leaves []*x509.Certificate
		for i := range 12 {
			c, leaf := a.issue(true)
			leaves = append(leaves, leaf)
			if i%3 == 0 {
				a.revoke(c, pki.Superseded, true)
			}
		}
		b.catchUp()
		a.tickCRLs()
		b.tickCRLs()
		fresh := a.replica(Config{}).load()
		for i, leaf := range leaves {
			want := a.ask(leaf)
			if got := want.Status == ocsp.Revoked; got != (i%3 == 0) {
				t.Errorf("certificate %d: %d", i, want.Status)
			}
			for name, r := range map[string]*world{"follower": b, "restarted": fresh} {
				got := r.ask(leaf)
				if got.Status != want.Status || !got.RevokedAt.Equal(want.RevokedAt) || got.RevocationReason != want.RevocationReason ||
					!got.ThisUpdate.Equal(want.ThisUpdate) || !got.NextUpdate.Equal(want.NextUpdate) {
					t.Errorf("%s, certificate %d: %+v, want %+v", name, i, got, want)
				}
			}
		}
		for shard := range 3 {
			path := "/crl/" + a.issuing.ID + "/" + string(rune('0'+shard)) + ".crl"
			want := string(a.get(path).body)
			if string(b.get(path).body) != want || string(fresh.get(path).body) != want {
				t.Errorf("shard %d: the replicas serve different lists", shard)
			}
		}
		a.mustHold()
	})
}

// TestNewAuthorityIsServed: one that was made while the service runs.
func TestNewAuthorityIsServed(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	b := w.replica(Config{}).load()
	second, err := w.ca.CreateIssuing(t.Context(), w.root.ID, ca.Spec{CA: "second", KeyType: pki.P256}, "test")
	must(t, err)
	for _, r := range []*world{w, b} {
		r.catchUp()
		r.tickCRLs()
		if res := r.get("/crl/" + second.ID + "/0.crl"); res.status != 200 {
			t.Errorf("CRL: %d", res.status)
		}
		if res := r.get("/ca/" + second.ID + ".cer"); res.status != 200 {
			t.Errorf("certificate: %d", res.status)
		}
	}
}
