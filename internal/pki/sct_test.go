package pki

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testSCT is a timestamp whose signature is none.
func testSCT(id byte) SCT {
	return SCT{LogID: [32]byte{id}, Timestamp: 1763800000123, Extensions: []byte{}, Signature: []byte{4, 3, 0, 2, 7, id}}
}

// precertOf returns the TBSCertificates of a precertificate and its certificate.
func precertOf(t testing.TB) (precert, final []byte) {
	t.Helper()
	ca := newTestCA(t, P256)
	enc, err := NewEncoder(ca.info, CertSpec{BasicConstraints: true, SubjectKeyID: true})
	if err != nil {
		t.Fatal(err)
	}
	list, err := SCTList([]SCT{testSCT(1), testSCT(2)})
	if err != nil {
		t.Fatal(err)
	}
	leaf := Leaf{Serial: "\x01\x02", NotBefore: testNow, NotAfter: testNow, SPKI: testSPKI(t, ca.key.Public()), Identifiers: []Identifier{{DNS, "a.example"}}}
	leaf.ExtraExtensions = []pkix.Extension{Poison()}
	precert, err = enc.TBS(leaf)
	if err != nil {
		t.Fatal(err)
	}
	leaf.ExtraExtensions[0] = list
	if final, err = enc.TBS(leaf); err != nil {
		t.Fatal(err)
	}
	return precert, final
}

func TestSCTListThereAndBack(t *testing.T) {
	want := []SCT{testSCT(1), testSCT(2)}
	want[1].Extensions = []byte{0, 0, 5, 1, 2, 3, 4, 5}
	ext, err := SCTList(want)
	if err != nil || ext.Critical {
		t.Fatal(ext, err)
	}
	got, err := parseSCTList(ext.Value)
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("%v %s", err, cmp.Diff(want, got))
	}
	if index, ok := got[1].LeafIndex(); !ok || index != 0x0102030405 {
		t.Error(index, ok)
	}
	if _, ok := got[0].LeafIndex(); ok {
		t.Error("an index without the extension")
	}
	for name, extensions := range map[string][]byte{"short": {0, 0, 4, 1, 2, 3, 4}, "cut off": {0, 0, 5, 1}, "another": {9, 0, 0}} {
		if _, ok := (&SCT{Extensions: extensions}).LeafIndex(); ok {
			t.Error(name)
		}
	}
	if _, err := SCTList(nil); err == nil {
		t.Error("an empty list was encoded")
	}
	if _, err := SCTList([]SCT{{Extensions: make([]byte, 1<<16), Signature: []byte{4, 3, 0, 0}}}); err == nil {
		t.Error("extensions of 64 KiB were encoded")
	}
}

func TestSCTListRefuses(t *testing.T) {
	ext, err := SCTList([]SCT{testSCT(1)})
	if err != nil {
		t.Fatal(err)
	}
	one := ext.Value[6:]
	list := func(tls ...byte) []byte { return tlv(tagOctetString, tls) }
	short := slices.Clone(one[:len(one)-1])
	v2 := slices.Clone(one)
	v2[0] = 1
	md5 := slices.Clone(one)
	md5[43] = 1
	for name, value := range map[string][]byte{
		"not an octet string": {tagNull, 0},
		"empty":               list(),
		"an empty list":       list(0, 0),
		"more behind it":      append(slices.Clone(ext.Value), 0),
		"a wrong length":      list(append([]byte{0, 9, 0, byte(len(one))}, one...)...),
		"cut off":             list(append([]byte{0, byte(len(short) + 2), 0, byte(len(short))}, short...)...),
		"version 2":           list(append([]byte{0, byte(len(one) + 2), 0, byte(len(one))}, v2...)...),
		"MD5":                 list(append([]byte{0, byte(len(one) + 2), 0, byte(len(one))}, md5...)...),
	} {
		if got, err := parseSCTList(value); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestHistoryPrecertMismatch: in 2023 a rolling deploy made certificates that
// were not those of their precertificates. One octet is enough.
func TestHistoryPrecertMismatch(t *testing.T) {
	precert, final := precertOf(t)
	if err := SamePrecert(precert, final); err != nil {
		t.Fatal(err)
	}
	announced, err := WithoutPoison(precert)
	if err != nil {
		t.Fatal(err)
	}
	for i := range final { // whatever the octet means
		changed := slices.Clone(final)
		changed[i] ^= 1
		other, err := withoutExtension(changed, oidSCTList)
		if err == nil && !slices.Equal(other, announced) && SamePrecert(precert, changed) == nil {
			t.Fatalf("octet %d differs, and nobody noticed", i)
		}
	}
	for name, pair := range map[string][2][]byte{
		"no poison":         {final, final},
		"no timestamps":     {precert, precert},
		"the wrong order":   {final, precert},
		"nothing":           {nil, nil},
		"something behind":  {append(slices.Clone(precert), 0), final},
		"two SCT lists":     {precert, twice(t, final, oidSCTList)},
		"two poisons":       {twice(t, precert, oidPoison), final},
		"no extensions":     {precert, tlv(tagSequence, []byte(version3))},
		"not a certificate": {precert, []byte{tagNull, 0}},
	} {
		if SamePrecert(pair[0], pair[1]) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// twice repeats an extension of a TBSCertificate.
func twice(t *testing.T, der []byte, id asn1.ObjectIdentifier) []byte {
	t.Helper()
	var tbs struct {
		A, B, C, D, E, F, G asn1.RawValue
		Extensions          []pkix.Extension `asn1:"explicit,tag:3"`
	}
	if _, err := asn1.Unmarshal(der, &tbs); err != nil {
		t.Fatal(err)
	}
	for _, e := range tbs.Extensions {
		if e.Id.Equal(id) {
			tbs.Extensions = append(tbs.Extensions, e)
		}
	}
	out, err := asn1.Marshal(tbs)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// FuzzWithoutExtension: what is left is well-formed, shorter, and has none.
func FuzzWithoutExtension(f *testing.F) {
	precert, final := precertOf(f)
	f.Add(precert)
	f.Add(final)
	f.Add([]byte{0x30, 4, 0xa3, 2, 0x30, 0})
	f.Fuzz(func(t *testing.T, tbs []byte) {
		out, err := WithoutPoison(tbs)
		if err != nil {
			return
		}
		if !isSequence(out) || len(out) >= len(tbs) {
			t.Fatalf("%x became %x", tbs, out)
		}
		if again, err := WithoutPoison(out); err == nil {
			t.Fatalf("%x had two, the second went: %x", tbs, again)
		}
	})
}

func FuzzParseSCTList(f *testing.F) {
	ext, err := SCTList([]SCT{testSCT(1), testSCT(2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ext.Value)
	f.Fuzz(func(t *testing.T, value []byte) {
		scts, err := parseSCTList(value)
		if err != nil {
			return
		}
		for i := range scts {
			scts[i].LeafIndex()
		}
		back, err := SCTList(scts)
		if err != nil || string(back.Value) != string(value) && isDER(value) {
			t.Fatalf("%x became %x, %v", value, back.Value, err)
		}
	})
}

// isDER reports whether the length of an element is in its shortest form.
func isDER(b []byte) bool {
	var raw asn1.RawValue
	_, err := asn1.Unmarshal(b, &raw)
	return err == nil
}
