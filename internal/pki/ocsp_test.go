package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ocsp"
)

func testHashes(t testing.TB, ca *testCA) *CertIDHashes {
	t.Helper()
	h, err := NewCertIDHashes(ca.cert.RawSubject, ca.cert.RawSubjectPublicKeyInfo)
	if err != nil {
		t.Fatal(err)
	}
	return &h
}

// testResponder makes a delegated responder under ca.
func testResponder(t testing.TB, ca *testCA, kt KeyType) (*OCSPEncoder, crypto.Signer, *x509.Certificate) {
	t.Helper()
	key := testKey(t, kt)
	name, err := MarshalName(pkix.Name{CommonName: "Responder"})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := NewEncoder(ca.info, CertSpec{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []asn1.ObjectIdentifier{EKUOCSPSigning}, NoCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	from, to := Validity(testNow, 30*24*time.Hour, ca.cert.NotAfter)
	cert := issue(t, certs, ca.key, Leaf{Serial: "\x05", NotBefore: from, NotAfter: to, SPKI: testSPKI(t, key.Public()), Subject: name})
	enc, err := NewOCSPEncoder(cert, true)
	if err != nil {
		t.Fatal(err)
	}
	return enc, key, cert
}

func answer(t testing.TB, enc *OCSPEncoder, key crypto.Signer, nonce []byte, singles ...OCSPSingle) []byte {
	t.Helper()
	tbs, err := enc.TBS(testNow, nonce, singles...)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := SignTBS(key, tbs)
	if err != nil {
		t.Fatal(err)
	}
	return enc.Assemble(tbs, sig)
}

func single(h *CertIDHashes, hash crypto.Hash, serial Serial, status OCSPStatus) OCSPSingle {
	return OCSPSingle{CertID: h.AppendCertID(nil, hash, serial), Status: status, RevokedAt: testNow.Add(-time.Hour), Reason: KeyCompromise, ThisUpdate: testNow, NextUpdate: testNow.Add(96 * time.Hour)}
}

func TestOCSPResponseReadByXCrypto(t *testing.T) {
	for _, kt := range []KeyType{P256, P384, RSA2048} {
		ca := newTestCA(t, kt)
		h := testHashes(t, ca)
		delegated, responderKey, responder := testResponder(t, ca, kt)
		direct, err := NewOCSPEncoder(ca.cert, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			enc *OCSPEncoder
			key crypto.Signer
		}{{delegated, responderKey}, {direct, ca.key}} {
			for status, want := range map[OCSPStatus]int{OCSPGood: ocsp.Good, OCSPRevoked: ocsp.Revoked, OCSPUnknown: ocsp.Unknown} {
				der := answer(t, c.enc, c.key, nil, single(h, crypto.SHA1, "\x7f\x01", status))
				resp, err := ocsp.ParseResponse(der, ca.cert)
				if err != nil {
					t.Fatalf("%s %s: %v", kt, status, err)
				}
				if resp.Status != want || SerialFromBig(resp.SerialNumber) != "\x7f\x01" || !resp.ThisUpdate.Equal(testNow.Truncate(time.Second)) || !resp.ProducedAt.Equal(resp.ThisUpdate) ||
					!resp.NextUpdate.Equal(testNow.Add(96*time.Hour).Truncate(time.Second)) {
					t.Errorf("%s %s: read as %+v", kt, status, resp)
				}
				if status == OCSPRevoked && (resp.RevocationReason != int(KeyCompromise) || !resp.RevokedAt.Equal(testNow.Add(-time.Hour).Truncate(time.Second))) {
					t.Errorf("%s: revoked at %v for %d", kt, resp.RevokedAt, resp.RevocationReason)
				}
				if c.enc == delegated && !bytes.Equal(resp.Certificate.Raw, responder.Raw) {
					t.Errorf("%s: the responder's certificate is not in the answer", kt)
				}
			}
		}
	}
}

func TestOCSPErrorAnswers(t *testing.T) {
	for der, want := range map[string]ocsp.ResponseStatus{OCSPMalformed: ocsp.Malformed, OCSPInternal: ocsp.InternalError, OCSPTryLater: ocsp.TryLater, OCSPUnauthorized: ocsp.Unauthorized} {
		_, err := ocsp.ParseResponse([]byte(der), nil)
		if got, ok := err.(ocsp.ResponseError); !ok || got.Status != want {
			t.Errorf("%x: read as %v, want %v", der, err, want)
		}
	}
}

func TestOCSPRebuildIsDeterministic(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, _, _ := testResponder(t, ca, P256)
	one := single(testHashes(t, ca), crypto.SHA1, "\x01", OCSPRevoked)
	a, errA := enc.TBS(testNow, nil, one)
	b, errB := enc.TBS(testNow, nil, one)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two encodings differ: %v %v", errA, errB)
	}
}

func TestOCSPTBSRefuses(t *testing.T) {
	ca := newTestCA(t, P256)
	enc, _, _ := testResponder(t, ca, P256)
	for name, change := range map[string]func(*OCSPSingle){
		"certificate id": func(s *OCSPSingle) { s.CertID = nil },
		"status":         func(s *OCSPSingle) { s.Status = 3 },
		"reason":         func(s *OCSPSingle) { s.Reason = 7 },
		"times":          func(s *OCSPSingle) { s.NextUpdate = s.ThisUpdate },
	} {
		one := single(testHashes(t, ca), crypto.SHA1, "\x01", OCSPGood)
		change(&one)
		if _, err := enc.TBS(testNow, nil, one); err == nil {
			t.Errorf("bad %s: accepted", name)
		}
	}
	if _, err := enc.TBS(testNow, nil); err == nil {
		t.Error("an answer about nothing: accepted")
	}
}

func TestCertIDHashesMatch(t *testing.T) {
	ca, other := newTestCA(t, P256), newTestCA(t, RSA2048)
	h, foreign := testHashes(t, ca), testHashes(t, other)
	mixed := *h
	mixed.KeySHA1, mixed.KeySHA256 = foreign.KeySHA1, foreign.KeySHA256
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		var req OCSPRequest
		if err := ParseOCSPRequest(EncodeOCSPRequest(h, hash, nil, "\x01\x02"), &req); err != nil {
			t.Fatal(err)
		}
		id := req.Certs[0]
		if id.Hash != hash || id.Serial != "\x01\x02" || !bytes.Equal(id.DER, h.AppendCertID(nil, hash, "\x01\x02")) {
			t.Errorf("%v: parsed as %+v", hash, id)
		}
		if !h.Match(&id) || foreign.Match(&id) || mixed.Match(&id) {
			t.Errorf("%v: matches %v, other issuer %v, other key of the same name %v", hash, h.Match(&id), foreign.Match(&id), mixed.Match(&id))
		}
	}
}

func TestOCSPRequestEqualsXCrypto(t *testing.T) {
	ca := newTestCA(t, RSA2048)
	enc, err := NewEncoder(ca.info, CertSpec{})
	if err != nil {
		t.Fatal(err)
	}
	cert := issue(t, enc, ca.key, testLeaf(t))
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		want, err := ocsp.CreateRequest(cert, ca.cert, &ocsp.RequestOptions{Hash: hash})
		if err != nil {
			t.Fatal(err)
		}
		sameDER(t, EncodeOCSPRequest(testHashes(t, ca), hash, nil, SerialFromBig(cert.SerialNumber)), want)
	}
}

func TestParseOCSPRequestSeveral(t *testing.T) {
	h := testHashes(t, newTestCA(t, P256))
	req := OCSPRequest{Nonce: []byte("old"), Certs: make([]OCSPCertID, 5)}
	if err := ParseOCSPRequest(EncodeOCSPRequest(h, crypto.SHA1, []byte("0123456789abcdef"), "\x01", "\x02", "\x03"), &req); err != nil {
		t.Fatal(err)
	}
	var serials []Serial
	for _, c := range req.Certs {
		serials = append(serials, c.Serial)
	}
	if diff := cmp.Diff([]Serial{"\x01", "\x02", "\x03"}, serials); diff != "" || string(req.Nonce) != "0123456789abcdef" {
		t.Errorf("nonce %q, %s", req.Nonce, diff)
	}
	if err := ParseOCSPRequest(EncodeOCSPRequest(h, crypto.SHA1, nil, "\x01"), &req); err != nil || req.Nonce != nil || len(req.Certs) != 1 {
		t.Errorf("a reused request keeps old parts: %+v, %v", req, err)
	}
}

// ocspRequest wraps the parts of a TBSRequest.
func ocspRequest(parts ...[]byte) []byte { return tlv(tagSequence, tlv(tagSequence, parts...)) }

func TestParseOCSPRequestShapes(t *testing.T) {
	h := testHashes(t, newTestCA(t, P256))
	certID := h.AppendCertID(nil, crypto.SHA1, "\x01")
	one := tlv(tagSequence, certID)
	list := tlv(tagSequence, one)
	exts := func(e ...[]byte) []byte { return tlv(contextConstructed(2), tlv(tagSequence, e...)) }
	singleExt := func(critical bool) []byte {
		return tlv(tagSequence, tlv(tagSequence, certID, tlv(contextConstructed(0), tlv(tagSequence, appendExtension(nil, "\x2a\x03", critical, []byte{5, 0})))))
	}
	nonce := func(n int) []byte { return nonceExtension(make([]byte, n)) }
	noNull := tlv(tagSequence, tlv(tagSequence, tlv(tagSequence, tlv(tagSequence, tlv(tagOID, []byte(oidSHA1))), tlv(tagOctetString, h.NameSHA1[:]), tlv(tagOctetString, h.KeySHA1[:]), []byte{2, 1, 1})))
	id := func(oid string, n, k int, serial ...byte) []byte {
		return tlv(tagSequence, tlv(tagSequence, tlv(tagSequence, tlv(tagSequence, tlv(tagOID, []byte(oid))), tlv(tagOctetString, make([]byte, n)), tlv(tagOctetString, make([]byte, k)), tlv(tagInteger, serial))))
	}
	const sha512 = "\x60\x86\x48\x01\x65\x03\x04\x02\x03"
	for _, c := range []struct {
		name string
		der  []byte
		ok   bool
	}{
		{"plain", ocspRequest(list), true},
		{"explicit version", ocspRequest([]byte{0xa0, 3, 2, 1, 0}, list), true},
		{"version 2", ocspRequest([]byte{0xa0, 3, 2, 1, 1}, list), false},
		{"requestor name", ocspRequest(tlv(contextConstructed(1), tlv(context(2), []byte("me"))), list), true},
		{"signed", tlv(tagSequence, tlv(tagSequence, list), tlv(contextConstructed(0), tlv(tagSequence))), true},
		{"hash without parameters", ocspRequest(noNull), true},
		{"unknown hash", ocspRequest(id(sha512, 64, 64, 1)), true},
		{"hashes of the wrong size", ocspRequest(id(oidSHA1, 32, 32, 1)), false},
		{"hashes of two sizes", ocspRequest(id(sha512, 64, 32, 1)), false},
		{"huge hashes", ocspRequest(id(sha512, 65, 65, 1)), false},
		{"negative serial", ocspRequest(id(oidSHA1, 20, 20, 0x80)), true},
		{"padded serial", ocspRequest(id(oidSHA1, 20, 20, 0, 1)), false},
		{"empty serial", ocspRequest(id(oidSHA1, 20, 20)), false},
		{"nothing asked", ocspRequest(tlv(tagSequence)), false},
		{"nonce of 1", ocspRequest(list, exts(nonce(1))), true},
		{"nonce of 32", ocspRequest(list, exts(nonce(32))), true},
		{"nonce of 128", ocspRequest(list, exts(nonce(128))), true},
		{"nonce of 0 (RFC 9654)", ocspRequest(list, exts(nonce(0))), false},
		{"nonce of 129 (RFC 9654)", ocspRequest(list, exts(nonce(129))), false},
		{"two nonces", ocspRequest(list, exts(nonce(16), nonce(16))), false},
		{"unknown extension", ocspRequest(list, exts(appendExtension(nil, "\x2a\x03", false, []byte{5, 0}))), true},
		{"unknown critical extension", ocspRequest(list, exts(appendExtension(nil, "\x2a\x03", true, []byte{5, 0}))), false},
		{"single extension", ocspRequest(singleExt(false)), true},
		{"single critical extension", ocspRequest(singleExt(true)), false},
		{"no extensions in the list", ocspRequest(list, exts()), false},
		{"32 certificates", ocspRequest(tlv(tagSequence, bytes.Repeat(one, MaxOCSPCerts))), true},
		{"33 certificates", ocspRequest(tlv(tagSequence, bytes.Repeat(one, MaxOCSPCerts+1))), false},
		{"too long", ocspRequest(list, exts(appendExtension(nil, "\x2a\x03", false, make([]byte, MaxOCSPRequest)))), false},
		{"trailing data", append(ocspRequest(list), 0), false},
		{"empty", nil, false},
	} {
		var req OCSPRequest
		err := ParseOCSPRequest(c.der, &req)
		if c.ok != (err == nil) || err != nil && err != ErrOCSPRequest {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestOpenSSLAgreesOnOCSP lets OpenSSL ask (SHA-1 and SHA-256, two
// certificates, with its nonce) and judge the answer.
func TestOpenSSLAgreesOnOCSP(t *testing.T) {
	ca := newTestCA(t, P256)
	certs, err := NewEncoder(ca.info, CertSpec{})
	if err != nil {
		t.Fatal(err)
	}
	first, second := testLeaf(t), testLeaf(t)
	second.Serial = "\x01\x03"
	dir := t.TempDir()
	path := func(name string, data []byte) string {
		p := filepath.Join(dir, name)
		if data != nil {
			if err := os.WriteFile(p, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	root := path("root.pem", EncodeChain(ca.cert.Raw))
	one := path("one.pem", EncodeChain(issue(t, certs, ca.key, first).Raw))
	two := path("two.pem", EncodeChain(issue(t, certs, ca.key, second).Raw))
	enc, key, _ := testResponder(t, ca, P256)
	for _, hash := range []string{"-sha1", "-sha256"} {
		openssl(t, "ocsp", "-issuer", root, hash, "-cert", one, "-cert", two, "-reqout", path("req.der", nil))
		der, err := os.ReadFile(path("req.der", nil))
		if err != nil {
			t.Fatal(err)
		}
		var req OCSPRequest
		if err := ParseOCSPRequest(der, &req); err != nil || len(req.Certs) != 2 || len(req.Nonce) == 0 {
			t.Fatalf("request of openssl: %+v, %v", req, err)
		}
		h := testHashes(t, ca)
		var singles []OCSPSingle
		for i := range req.Certs {
			if !h.Match(&req.Certs[i]) {
				t.Fatalf("%s: CertID %d does not match the issuer", hash, i)
			}
			s := single(h, req.Certs[i].Hash, req.Certs[i].Serial, OCSPStatus(i))
			if !bytes.Equal(s.CertID, req.Certs[i].DER) {
				t.Errorf("%s: our CertID differs from openssl's", hash)
			}
			singles = append(singles, s)
		}
		resp := path("resp.der", answer(t, enc, key, req.Nonce, singles...))
		// One run compares nonce and signature, the other the statuses: with
		// -cert, openssl would add a nonce of its own to the request it reads.
		at := strconv.FormatInt(testNow.Unix()+60, 10)
		out := openssl(t, "ocsp", "-CAfile", root, "-reqin", path("req.der", nil), "-respin", resp, "-attime", at, "-resp_text")
		out += openssl(t, "ocsp", "-issuer", root, "-CAfile", root, hash, "-no_nonce", "-cert", one, "-cert", two, "-respin", resp, "-attime", at, "-validity_period", "1000000000")
		for _, want := range []string{"Response verify OK", "one.pem: good", "two.pem: revoked", "Reason: keyCompromise", "OCSP Nonce"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: want %q in\n%s", hash, want, out)
			}
		}
	}
}

func FuzzParseOCSPRequest(f *testing.F) {
	h := testHashes(f, newTestCA(f, P256))
	f.Add(EncodeOCSPRequest(h, crypto.SHA1, nil, "\x01"))
	f.Add(EncodeOCSPRequest(h, crypto.SHA256, []byte("nonce"), "\x01", "\x00\x80"))
	f.Fuzz(func(t *testing.T, der []byte) {
		var req OCSPRequest
		if err := ParseOCSPRequest(der, &req); err != nil {
			if err != ErrOCSPRequest {
				t.Fatal(err)
			}
			return
		}
		if len(req.Certs) == 0 || len(req.Certs) > MaxOCSPCerts {
			t.Fatalf("%d certificates", len(req.Certs))
		}
		for i := range req.Certs {
			if id := &req.Certs[i]; !isSequence(id.DER) || h.Match(id) && SerialFromBig(id.Serial.Big()) != id.Serial {
				t.Fatalf("certificate %d is %+v", i, id)
			}
		}
		std, err := ocsp.ParseRequest(der)
		if err == nil && req.Certs[0].Hash != 0 && (SerialFromBig(std.SerialNumber) != req.Certs[0].Serial || !bytes.Equal(std.IssuerKeyHash, req.Certs[0].KeyHash)) {
			t.Fatal("the oracle reads another certificate")
		}
	})
}

func BenchmarkOCSP(b *testing.B) {
	ca := newTestCA(b, P256)
	h := testHashes(b, ca)
	enc, key, _ := testResponder(b, ca, P256)
	serial, err := NewSerial(1, testNow, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	one := single(h, crypto.SHA1, serial, OCSPGood)
	tbs, err := enc.TBS(testNow, nil, one)
	if err != nil {
		b.Fatal(err)
	}
	sig, err := SignTBS(key, tbs)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			answer(b, enc, key, nil, one)
		}
	})
	b.Run("rebuild", func(b *testing.B) {
		b.ReportAllocs()
		var id, data, out []byte
		for b.Loop() {
			id = h.AppendCertID(id[:0], crypto.SHA1, serial)
			one.CertID = id
			data, err = enc.AppendTBS(data[:0], testNow, nil, one)
			if err != nil {
				b.Fatal(err)
			}
			out = enc.AppendAssemble(out[:0], data, sig)
		}
		_ = out
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		der := EncodeOCSPRequest(h, crypto.SHA1, nil, serial)
		var req OCSPRequest
		for b.Loop() {
			if err := ParseOCSPRequest(der, &req); err != nil {
				b.Fatal(err)
			}
		}
	})
}
