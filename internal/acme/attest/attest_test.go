package attest_test

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/attest/attesttest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

const (
	token   = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	keyAuth = token + ".9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
	serial  = "C02XK1ZZJGH5"
)

var about = attest.Challenge{Token: token, KeyAuthorization: keyAuth}

func device(s string) pki.Identifier { return pki.Identifier{Type: pki.PermanentIdentifier, Value: s} }

func spki(t *testing.T, key *ecdsa.PrivateKey) [32]byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pki.SPKIHash(der)
}

// accepted checks an attestation of key and a device.
func accepted(t *testing.T, m *attesttest.Maker, f attest.Format, obj []byte, key *ecdsa.PrivateKey, ids ...pki.Identifier) {
	t.Helper()
	r, err := attest.Verify(obj, about, m.Policy(f), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if r.Format != f || r.Key != spki(t, key) || r.Root != sha256.Sum256(m.Root.Raw) || !m.Policy(f).Trusts(f, r.Root) {
		t.Errorf("%+v", r)
	}
	for _, id := range ids {
		if !r.Attests(id) {
			t.Errorf("%v is not among %v", id, r.Names)
		}
	}
	if r.Attests(device("other")) || r.Attests(device(serial+"/1.2.3")) || r.Attests(device(strings.ToLower(serial))) {
		t.Errorf("%v attests anything", r.Names)
	}
}

// refused checks that an object is refused, with a text that has each part.
func refused(t *testing.T, what string, m *attesttest.Maker, f attest.Format, obj []byte, part string) {
	t.Helper()
	r, err := attest.Verify(obj, about, m.Policy(f), time.Now())
	if r != nil || !fault.Is(err, fault.BadAttestationStatement) || !strings.Contains(err.Error(), part) {
		t.Errorf("%s: %+v, %v; want a refusal with %q", what, r, err, part)
	}
}

func TestApple(t *testing.T) {
	m, key := attesttest.NewMaker(t), attesttest.Key(t)
	accepted(t, m, attest.Apple, m.Apple(key, token, serial), key, device(serial), device("00008110-001A2B3C4D5E6F70"))
	refused(t, "another token", m, attest.Apple, m.Apple(key, "another", serial), "nonce")
	leaf := m.Certify(key.Public(), nil, attesttest.Ext([]byte(serial), 1, 2, 840, 113635, 100, 8, 9, 1))
	refused(t, "no nonce", m, attest.Apple, attesttest.Object(t, attest.Apple, map[string]any{"x5c": m.Chain(leaf)}), "nonce")
	nonce := sha256.Sum256([]byte(keyAuth))
	leaf = m.Certify(key.Public(), nil, attesttest.Ext(attesttest.DER(t, nonce[:]), 1, 2, 840, 113635, 100, 8, 11, 1))
	refused(t, "no device", m, attest.Apple, attesttest.Object(t, attest.Apple, map[string]any{"x5c": m.Chain(leaf)}), "names no device")
}

func TestStep(t *testing.T) {
	m, key := attesttest.NewMaker(t), attesttest.Key(t)
	accepted(t, m, attest.Step, m.Step(key, keyAuth, 123456), key, device("123456"))
	refused(t, "another key authorization", m, attest.Step, m.Step(key, token+".other", 1), "signature")
	s := m.StepStatement(key, keyAuth, 1)
	s["sig"] = attesttest.Sign(t, key, []byte(keyAuth))
	refused(t, "a bare signature", m, attest.Step, attesttest.Object(t, attest.Step, s), "sig is not a CBOR")
	s = m.StepStatement(attesttest.Key(t), keyAuth, 1)
	s["x5c"] = m.StepStatement(key, keyAuth, 1)["x5c"]
	refused(t, "another key's signature", m, attest.Step, attesttest.Object(t, attest.Step, s), "signature")
	leaf := m.Certify(key.Public(), nil, attesttest.Ext(attesttest.DER(t, struct{ ID string }{"device-1"}), 1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4))
	s = m.StepStatement(key, keyAuth, 1)
	s["x5c"] = m.Chain(leaf)
	accepted(t, m, attest.Step, attesttest.Object(t, attest.Step, s), key, device("device-1"))
	s["x5c"] = m.Chain(m.Certify(key.Public(), nil))
	refused(t, "no device", m, attest.Step, attesttest.Object(t, attest.Step, s), "names no device")
}

func TestChains(t *testing.T) {
	m, other, key := attesttest.NewMaker(t), attesttest.NewMaker(t), attesttest.Key(t)
	good := m.StepStatement(key, keyAuth, 7)
	with := func(x5c any) []byte {
		s := map[string]any{"alg": -7, "sig": good["sig"], "x5c": x5c}
		return attesttest.Object(t, attest.Step, s)
	}
	refused(t, "another maker's", other, attest.Step, m.Step(key, keyAuth, 7), "chain")
	refused(t, "no intermediate", m, attest.Step, with(good["x5c"].([][]byte)[:1]), "chain")
	refused(t, "no certificate", m, attest.Step, with([][]byte{}), "x5c")
	refused(t, "nine certificates", m, attest.Step, with(slices.Repeat(good["x5c"].([][]byte), 5)[:9]), "x5c")
	refused(t, "no DER", m, attest.Step, with([][]byte{{1, 2, 3}}), "parsed")
	refused(t, "a string", m, attest.Step, with("x"), "members")
	refused(t, "the root itself", m, attest.Step, with([][]byte{m.Root.Raw}), "trust anchor")
	expired := m.Certify(key.Public(), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, attesttest.Ext(attesttest.DER(t, 7), 1, 3, 6, 1, 4, 1, 41482, 3, 7))
	refused(t, "an expired certificate", m, attest.Step, with(m.Chain(expired)), "chain")
	critical := attesttest.Ext([]byte{5, 0}, 1, 2, 3, 4)
	critical.Critical = true
	strange := m.Certify(key.Public(), nil, critical, attesttest.Ext(attesttest.DER(t, 7), 1, 3, 6, 1, 4, 1, 41482, 3, 7))
	refused(t, "an unknown critical extension", m, attest.Step, with(m.Chain(strange)), "chain")
}

// Formats are separate: the root of one says nothing about another, and what
// nobody configured is refused.
func TestFormatsAreOptIn(t *testing.T) {
	m, key := attesttest.NewMaker(t), attesttest.Key(t)
	for what, p := range map[string]*attest.Policy{"no policy": nil, "an empty one": {}, "apple alone": m.Policy(attest.Apple)} {
		if _, err := attest.Verify(m.Step(key, keyAuth, 1), about, p, time.Now()); !fault.Is(err, fault.BadAttestationStatement) || !strings.Contains(err.Error(), "not accepted here") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if m.Policy(attest.Apple).Trusts(attest.Step, sha256.Sum256(m.Root.Raw)) || (*attest.Policy)(nil).Trusts(attest.Apple, [32]byte{}) {
		t.Error("a root is trusted for a format that it was not named for")
	}
	strange := attesttest.Object(t, "packed", m.StepStatement(key, keyAuth, 1))
	if _, err := attest.Verify(strange, about, m.Policy("packed"), time.Now()); !fault.Is(err, fault.BadAttestationStatement) {
		t.Errorf("an unknown format: %v", err)
	}
}

// The outside of an object is read strictly.
func TestObjectsAreReadStrictly(t *testing.T) {
	m, key := attesttest.NewMaker(t), attesttest.Key(t)
	good := m.Step(key, keyAuth, 1)
	tagged, err := cbor.Marshal(cbor.Tag{Number: 55799, Content: cbor.RawMessage(good)})
	if err != nil {
		t.Fatal(err)
	}
	twice := append([]byte{0xa3, 0x63, 'f', 'm', 't', 0x64, 's', 't', 'e', 'p'}, good[1:]...)
	indefinite := append(append([]byte{0xbf}, good[1:]...), 0xff)
	for what, obj := range map[string][]byte{"nothing": nil, "a list": {0x80}, "text": []byte("\x63abc"), "half of it": good[:len(good)/2], "more after it": append(slices.Clone(good), 0),
		"a tag": tagged, "a key twice": twice, "indefinite length": indefinite, "too much": make([]byte, attest.MaxObject+1), "no statement": {0xa1, 0x63, 'f', 'm', 't', 0x64, 's', 't', 'e', 'p'}} {
		refused(t, what, m, attest.Step, obj, "")
	}
	withAuthData, err := cbor.Marshal(map[string]any{"fmt": "step", "attStmt": m.StepStatement(key, keyAuth, 5), "authData": []byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, m, attest.Step, withAuthData, key, device("5"))
}

func TestAndroidKey(t *testing.T) {
	m, key := attesttest.NewMaker(t), attesttest.Key(t)
	object := func(change func(*attesttest.Android)) []byte {
		a := attesttest.NewAndroid(t, keyAuth, serial)
		if change != nil {
			change(a)
		}
		return attesttest.Object(t, attest.AndroidKey, m.AndroidStatement(key, keyAuth, a))
	}
	accepted(t, m, attest.AndroidKey, object(nil), key, device(serial))
	for what, c := range map[string]struct {
		change func(*attesttest.Android)
		part   string
	}{
		"another challenge":         {func(a *attesttest.Android) { a.Challenge = []byte("other") }, "challenge"},
		"software":                  {func(a *attesttest.Android) { a.Level = 0 }, "made by software"},
		"an imported key":           {func(a *attesttest.Android) { a.Hardware[2] = attesttest.Tagged(702, attesttest.DER(t, 2)) }, "not made by the hardware"},
		"origin said by software":   {func(a *attesttest.Android) { a.Software, a.Hardware = a.Hardware[2:3], slices.Delete(a.Hardware, 2, 3) }, "not made by the hardware"},
		"not for signing":           {func(a *attesttest.Android) { a.Hardware[0] = attesttest.Tagged(1, attesttest.DER(t, []int{0}, "set")) }, "sign"},
		"all applications":          {func(a *attesttest.Android) { a.Hardware = append(a.Hardware, attesttest.Tagged(600, []byte{5, 0})) }, "all applications"},
		"all applications, by soft": {func(a *attesttest.Android) { a.Software = append(a.Software, attesttest.Tagged(600, []byte{5, 0})) }, "all applications"},
		"serial said by software":   {func(a *attesttest.Android) { a.Software, a.Hardware = a.Hardware[3:], a.Hardware[:3] }, "names no device"},
		"a tag twice":               {func(a *attesttest.Android) { a.Hardware = append(a.Hardware, a.Hardware[2]) }, "cannot be read"},
	} {
		refused(t, what, m, attest.AndroidKey, object(c.change), c.part)
	}
	a := attesttest.NewAndroid(t, keyAuth, serial)
	s := m.AndroidStatement(key, token+".other", a)
	refused(t, "a signature over something else", m, attest.AndroidKey, attesttest.Object(t, attest.AndroidKey, s), "signature")
	s = m.AndroidStatement(key, keyAuth, a)
	s["alg"] = -65535
	refused(t, "SHA-1", m, attest.AndroidKey, attesttest.Object(t, attest.AndroidKey, s), "algorithm")
	s["alg"] = -257
	refused(t, "an algorithm of other keys", m, attest.AndroidKey, attesttest.Object(t, attest.AndroidKey, s), "signature")
	s = m.AndroidStatement(key, keyAuth, a)
	s["x5c"] = m.Chain(m.Certify(key.Public(), nil))
	refused(t, "no description", m, attest.AndroidKey, attesttest.Object(t, attest.AndroidKey, s), "description")

	// A certificate above the leaf with a description, by a maker that is
	// careless enough to let its keys certify.
	s = m.AndroidStatement(key, keyAuth, a)
	above := m.Certify(attesttest.Key(t).Public(), func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }, a.Extension(t))
	s["x5c"] = append(s["x5c"].([][]byte), above.Raw)
	refused(t, "a description above the leaf", m, attest.AndroidKey, attesttest.Object(t, attest.AndroidKey, s), "above its leaf")
}

func TestTPM(t *testing.T) {
	m, ak, key := attesttest.NewMaker(t), attesttest.Key(t), attesttest.Key(t)
	extra := sha256.Sum256([]byte(keyAuth))
	names := [][]byte{attesttest.Permanent(t, serial), attesttest.Module(t, "M1")}
	cert := m.TPMKey(ak.Public(), nil, names...)
	area := attesttest.PubArea(t, &key.PublicKey, attesttest.Attributes)
	statement := func() map[string]any { return m.TPMStatement(ak, cert, extra[:], area) }
	accepted(t, m, attest.TPM, attesttest.Object(t, attest.TPM, statement()), key, device(serial), pki.Identifier{Type: pki.HardwareModule, Value: "M1/1.2.3"})

	resign := func(s map[string]any, info []byte) {
		s["certInfo"], s["sig"] = info, attesttest.TPMSignature(t, ak, info)
	}
	withCert := func(c *x509.Certificate) func(map[string]any) {
		return func(s map[string]any) { s["x5c"] = m.Chain(c) }
	}
	withArea := func(attributes uint32) func(map[string]any) {
		return func(s map[string]any) {
			s["pubArea"] = attesttest.PubArea(t, &key.PublicKey, attributes)
			resign(s, attesttest.CertInfo(extra[:], s["pubArea"].([]byte)))
		}
	}
	edit := func(at int, b byte) func(map[string]any) {
		return func(s map[string]any) {
			info := slices.Clone(s["certInfo"].([]byte))
			info[at] = b
			resign(s, info)
		}
	}
	for what, c := range map[string]struct {
		change func(map[string]any)
		part   string
	}{
		"version 1.2":               {func(s map[string]any) { s["ver"] = "1.2" }, "ver"},
		"SHA-1":                     {func(s map[string]any) { s["alg"] = -65535 }, "algorithm"},
		"alg of another key type":   {func(s map[string]any) { s["alg"] = -257 }, "TPMT_SIGNATURE"},
		"alg of another hash":       {func(s map[string]any) { s["alg"] = -35 }, "extraData"},
		"no magic":                  {edit(0, 0), "TPMS_ATTEST"},
		"a quote":                   {edit(5, 0x18), "TPMS_ATTEST"},
		"more after certInfo":       {func(s map[string]any) { resign(s, append(s["certInfo"].([]byte), 0)) }, "TPMS_ATTEST"},
		"another key authorization": {func(s map[string]any) { resign(s, attesttest.CertInfo(make([]byte, 32), area)) }, "extraData"},
		"the token alone": {func(s map[string]any) {
			sum := sha256.Sum256([]byte(token))
			resign(s, attesttest.CertInfo(sum[:], area))
		}, "extraData"},
		"certInfo of another key":     {func(s map[string]any) { resign(s, attesttest.CertInfo(extra[:], []byte("x"))) }, "another key"},
		"pubArea of another key":      {func(s map[string]any) { s["pubArea"] = attesttest.PubArea(t, &ak.PublicKey, attesttest.Attributes) }, "another key"},
		"a changed certInfo":          {func(s map[string]any) { s["certInfo"].([]byte)[50]++ }, "sig"},
		"a signature of another key":  {func(s map[string]any) { s["sig"] = attesttest.TPMSignature(t, key, s["certInfo"].([]byte)) }, "sig"},
		"no TPMT_SIGNATURE":           {func(s map[string]any) { s["sig"] = attesttest.Sign(t, ak, s["certInfo"].([]byte)) }, "TPMT_SIGNATURE"},
		"more after sig":              {func(s map[string]any) { s["sig"] = append(s["sig"].([]byte), 0) }, "TPMT_SIGNATURE"},
		"half a pubArea":              {func(s map[string]any) { s["pubArea"] = area[:len(area)-1] }, "pubArea"},
		"a key that can leave":        {withArea(attesttest.Attributes &^ (1 << 1)), "leave"},
		"a key that can be copied":    {withArea(attesttest.Attributes &^ (1 << 4)), "leave"},
		"a key from outside":          {withArea(attesttest.Attributes &^ (1 << 5)), "not made in the TPM"},
		"a restricted key":            {withArea(attesttest.Attributes | 1<<16), "not for signing"},
		"a decryption key":            {withArea(attesttest.Attributes&^(1<<18) | 1<<17), "not for signing"},
		"AK certificate with subject": {withCert(m.TPMKey(ak.Public(), func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "x"} }, names...)), "subject"},
		"AK certificate, no purpose":  {withCert(m.TPMKey(ak.Public(), func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, names...)), "purpose"},
		"AK certificate of a CA":      {withCert(m.TPMKey(ak.Public(), func(c *x509.Certificate) { c.IsCA = true }, names...)), "no CA"},
		"AK certificate, CA not said": {withCert(m.TPMKey(ak.Public(), func(c *x509.Certificate) { c.BasicConstraintsValid = false }, names...)), "no CA"},
		"AK certificate without a TPM": {withCert(m.Certify(ak.Public(), func(c *x509.Certificate) {
			c.Subject, c.BasicConstraintsValid, c.UnknownExtKeyUsage = pkix.Name{}, true, []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}
		})), "manufacturer"},
		"AK certificate, no device":   {withCert(m.TPMKey(ak.Public(), nil)), "names no device"},
		"AK certificate, broken name": {withCert(m.TPMKey(ak.Public(), nil, []byte{0xa0, 0x02, 0x05, 0x00})), "subjectAltName"},
	} {
		s := statement()
		c.change(s)
		refused(t, what, m, attest.TPM, attesttest.Object(t, attest.TPM, s), c.part)
	}
}

func FuzzVerify(f *testing.F) {
	m, ak, key := attesttest.NewMaker(f), attesttest.Key(f), attesttest.Key(f)
	extra := sha256.Sum256([]byte(keyAuth))
	area := attesttest.PubArea(f, &key.PublicKey, attesttest.Attributes)
	f.Add(m.Apple(key, token, serial))
	f.Add(m.Step(key, keyAuth, 1))
	f.Add(attesttest.Object(f, attest.AndroidKey, m.AndroidStatement(key, keyAuth, attesttest.NewAndroid(f, keyAuth, serial))))
	f.Add(attesttest.Object(f, attest.TPM, m.TPMStatement(ak, m.TPMKey(ak.Public(), nil, attesttest.Permanent(f, serial)), extra[:], area)))
	p := m.Policy(attest.Formats...)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := attest.Verify(b, about, p, time.Now())
		if err != nil && (r != nil || !fault.Is(err, fault.BadAttestationStatement)) || err == nil && (len(r.Names) == 0 || r.Key == [32]byte{}) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// FuzzTPM reaches the parsers behind the signature.
func FuzzTPM(f *testing.F) {
	key := attesttest.Key(f)
	area := attesttest.PubArea(f, &key.PublicKey, attesttest.Attributes)
	f.Add(area)
	f.Add(attesttest.CertInfo(make([]byte, 32), area))
	f.Fuzz(func(t *testing.T, b []byte) {
		if attest.ParsePubArea(b) && attest.ParseCertInfo(b) {
			t.Errorf("%x is both", b)
		}
	})
}
