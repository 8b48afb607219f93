package acme

import (
	json "encoding/json/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// marshal is encoding/json/v2, the oracle of the hand-written encoders.
func marshal(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTimeIsUTCWholeSeconds(t *testing.T) { // RFC 3339, RFC 8555 section 7.1.3
	zone := time.FixedZone("", 3*3600)
	if got := marshal(t, At(time.Date(2026, 5, 1, 2, 0, 0, 999_999_999, zone))); got != `"2026-04-30T23:00:00Z"` {
		t.Errorf("got %s", got)
	}
	if got := marshal(t, Time{time.Date(2026, 5, 1, 2, 0, 0, 999_999_999, zone)}); got != `"2026-04-30T23:00:00Z"` {
		t.Errorf("a Time not made by At: got %s", got)
	}
	for text, want := range map[string]string{
		`"2015-03-01T14:09:07.99Z"`:    "2015-03-01T14:09:07Z", // the form of the RFC's own examples
		`"2016-01-01T00:04:00+04:00"`:  "2015-12-31T20:04:00Z",
		`"9999-12-31T23:59:59-00:01"`:  "",
		`"0001-01-01T00:00:00+00:01"`:  "",
		`"2016-01-01"`:                 "",
		`"2016-01-01 00:00:00Z"`:       "",
		`"yesterday"`:                  "",
		`1700000000`:                   "",
		`"2016-13-01T00:00:00Z"`:       "",
		`"2016-01-01T00:00:00"`:        "",
		`"20160-01-01T00:00:00Z"`:      "",
		`"2016-01-01T00:00:00Z\u0000"`: "",
	} {
		order, err := Decode[NewOrder]([]byte(`{"notAfter":` + text + `}`))
		switch {
		case want == "":
			wantCode(t, err, fault.Malformed)
		case err != nil:
			t.Errorf("%s: %v", text, err)
		case order.NotAfter.Format(time.RFC3339Nano) != want:
			t.Errorf("%s: %v, want %s", text, order.NotAfter, want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1)
	for _, tt := range []struct{ name, payload string }{
		{"empty", ""},
		{"null", "null"},
		{"array", `[]`},
		{"string", `"{}"`},
		{"only space", "  "},
		{"unfinished", `{"identifiers":[`},
		{"trailing text", `{}x`},
		{"second object", `{}{}`},
		{"RFC 7493 2.3 duplicate member", `{"profile":"a","profile":"b"}`},
		{"duplicate inside", `{"identifiers":[{"type":"dns","type":"ip"}]}`},
		{"duplicate unknown", `{"x":1,"x":2}`},
		{"wrong type", `{"identifiers":{}}`},
		{"wrong inner type", `{"identifiers":[{"type":1}]}`},
		{"bad UTF-8", "{\"profile\":\"\xff\"}"},
		{"lone surrogate", `{"profile":"\ud800"}`},
		{"too deep", deep},
		{"too deep, arrays", `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`},
		{"too long", `{"profile":"` + strings.Repeat("x", MaxBody) + `"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Decode[NewOrder]([]byte(tt.payload))
			wantCode(t, err, fault.Malformed)
			if diff := cmp.Diff(NewOrder{}, v); diff != "" {
				t.Errorf("a value came with the error: %s", diff)
			}
			if e := fault.As(err); strings.Contains(e.Detail, "acme.") || strings.Contains(e.Detail, "Go ") {
				t.Errorf("detail %q speaks of Go types", e.Detail)
			}
		})
	}
}

func TestDecodeSaysWhere(t *testing.T) {
	for payload, want := range map[string]string{
		`{"identifiers":[{"type":"dns"},{"type":1}]}`: "/identifiers/1/type",
		`{"notBefore":"soon"}`:                        "/notBefore",
		`{"profile":"a","profile":"b"}`:               "duplicate member (/profile)",
	} {
		_, err := Decode[NewOrder]([]byte(payload))
		if err == nil || !strings.Contains(fault.As(err).Detail, want) {
			t.Errorf("%s: %v, want %q in it", payload, err, want)
		}
	}
}

func TestDecodeAccepts(t *testing.T) { // RFC 8555 sections 7.1 and 7.4
	got, err := Decode[NewOrder]([]byte("\n\t{\"identifiers\":[{\"type\":\"dns\",\"value\":\"a\\\\\\\"{[\"}],\"later\":{\"x\":[1]},\"Profile\":\"not ours\"}  "))
	if err != nil {
		t.Fatal(err)
	}
	want := NewOrder{Identifiers: []Identifier{{Type: pki.DNS, Value: `a\"{[`}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestExtensionMembers(t *testing.T) {
	z, err := Decode[NewAuthorization]([]byte(`{"identifier":{"type":"dns","value":"a.test","subdomainAuthAllowed":true}}`))
	if err != nil || !z.Identifier.SubdomainAuthAllowed || z.Identifier.PKI() != (pki.Identifier{Type: pki.DNS, Value: "a.test"}) {
		t.Errorf("RFC 9444 section 4.2: %+v, %v", z, err)
	}
	o, err := Decode[NewOrder]([]byte(`{"identifiers":[{"type":"dns","value":"b.a.test","ancestorDomain":"a.test"}],"replaces":"x.y","profile":"tls"}`))
	if err != nil || o.Identifiers[0].AncestorDomain != "a.test" || o.Replaces != "x.y" || o.Profile != "tls" {
		t.Errorf("RFC 9444 section 4.3, RFC 9773 section 5: %+v, %v", o, err)
	}
	c, err := Decode[ChallengeResponse]([]byte(`{"tkauth":"t","attObj":"o"}`))
	if err != nil || c.TKAuth != "t" || c.AttObj != "o" {
		t.Errorf("RFC 9447 section 4: %+v, %v", c, err)
	}
}

func TestAccountUpdateTellsAbsentFromEmpty(t *testing.T) { // RFC 8555 section 7.3.2
	keep, err := Decode[AccountUpdate]([]byte(`{}`))
	if err != nil || keep.Contact != nil {
		t.Errorf("absent contact: %v, %v", keep.Contact, err)
	}
	clear, err := Decode[AccountUpdate]([]byte(`{"contact":[]}`))
	if err != nil || clear.Contact == nil || len(*clear.Contact) != 0 {
		t.Errorf("empty contact: %v, %v", clear.Contact, err)
	}
}

func TestBase64Members(t *testing.T) { // RFC 8555 sections 7.4 and 7.6
	for _, text := range []string{"", "MII=", "M+I/", "-----BEGIN", "MI\nI", "MIJ"} {
		_, err := Finalize{CSR: text}.DER()
		wantCode(t, err, fault.BadCSR)
		_, err = Revocation{Certificate: text}.DER()
		wantCode(t, err, fault.Malformed)
	}
	if der, err := (Finalize{CSR: "AQI"}).DER(); err != nil || string(der) != "\x01\x02" {
		t.Errorf("%x, %v", der, err)
	}
	if der, err := (Revocation{Certificate: "AQI"}).DER(); err != nil || string(der) != "\x01\x02" {
		t.Errorf("%x, %v", der, err)
	}
}

func TestDirectoryLeavesOutWhatIsNotOffered(t *testing.T) { // RFC 8555 section 7.1.1
	d := Directory{NewNonce: "n", NewAccount: "a", NewOrder: "o", RevokeCert: "r", KeyChange: "k"}
	if got, want := marshal(t, d), `{"newNonce":"n","newAccount":"a","newOrder":"o","revokeCert":"r","keyChange":"k"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	d.RenewalInfo, d.NewAuthz = "i", "z"
	d.Meta = Meta{Website: "w", Profiles: map[string]string{"tls": "d"}, AutoRenewal: &AutoRenewalMeta{MinLifetime: 1, MaxDuration: 2}, ExternalAccountRequired: true}
	want := `{"newNonce":"n","newAccount":"a","newOrder":"o","newAuthz":"z","revokeCert":"r","keyChange":"k","renewalInfo":"i",` +
		`"meta":{"website":"w","externalAccountRequired":true,"profiles":{"tls":"d"},"auto-renewal":{"min-lifetime":1,"max-duration":2}}}`
	if got := marshal(t, d); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

var (
	someTime    = At(time.Date(2026, 11, 22, 1, 2, 3, 0, time.UTC))
	someProblem = &Problem{
		Type: acmeErrors + "compound", Detail: "Σ \"quoted\" \\ \x01 \u2028 <&>", Status: 403, Instance: "https://ca.test/i", Algorithms: []string{"ES256"},
		Subproblems: []Problem{
			{Type: acmeErrors + "caa", Detail: "no", Identifier: &pki.Identifier{Type: pki.DNS, Value: "a.test"}},
			{Type: acmeErrors + "dns", Identifier: &pki.Identifier{}},
		},
	}
	fullChallenge = Challenge{
		Type: "dns-persist-01", URL: "https://ca.test/c/1", Status: ChallengeInvalid, Validated: someTime, Error: someProblem, Token: "tok",
		IssuerDomainNames: []string{"ca.test", "ca2.test"}, IssuerDomainNamesOld: []string{"ca.test"}, AccountURI: testKID, From: "a@b.test", TKAuthType: "atc", TokenAuthority: "https://ta.test",
	}
)

func TestAppendJSONEqualsEncodingJSON(t *testing.T) {
	for _, o := range []Order{
		{},
		{Status: OrderPending, Identifiers: []pki.Identifier{{Type: pki.DNS, Value: "a.test"}}, Authorizations: []string{"u"}, Finalize: "f"},
		{
			Status: OrderValid, Expires: someTime, Identifiers: []pki.Identifier{{Type: pki.DNS, Value: "ü.test"}, {Type: pki.IP, Value: "::1"}},
			NotBefore: someTime, NotAfter: someTime, Profile: "tls", Replaces: "a.b", AutoRenewal: &AutoRenewal{StartDate: someTime, EndDate: someTime, Lifetime: 9, LifetimeAdjust: 3, AllowCertificateGet: true},
			Delegation: "d", AllowCertificateGet: true, Error: someProblem, Authorizations: []string{"u", "v"}, Finalize: "f", Certificate: "c", StarCertificate: "s",
		},
		{AutoRenewal: &AutoRenewal{}},
	} {
		if got, want := string(o.AppendJSON([]byte("x"))), "x"+marshal(t, o); got != want {
			t.Errorf("order\n got %s\nwant %s", got, want)
		}
	}
	for _, a := range []Authorization{
		{},
		{Identifier: pki.Identifier{Type: pki.DNS, Value: "a.test"}, Status: AuthorizationValid, Expires: someTime, Challenges: []Challenge{{}, fullChallenge}, Wildcard: true, SubdomainAuthAllowed: true},
	} {
		if got, want := string(a.AppendJSON(nil)), marshal(t, a); got != want {
			t.Errorf("authorization\n got %s\nwant %s", got, want)
		}
	}
	if got, want := string(fullChallenge.AppendJSON(nil)), marshal(t, fullChallenge); got != want {
		t.Errorf("challenge\n got %s\nwant %s", got, want)
	}
	if got, want := string(someProblem.AppendJSON(nil)), marshal(t, someProblem); got != want {
		t.Errorf("problem\n got %s\nwant %s", got, want)
	}
}

func TestAppendJSONMendsBadUTF8(t *testing.T) {
	c := Challenge{Token: "a\xffb"}
	if got := string(c.AppendJSON(nil)); !strings.Contains(got, "\"a\uFFFDb\"") {
		t.Errorf("got %s", got)
	}
}

// fuzzDecode decodes the text as one object; what decodes must be encodable,
// and come back the same.
func fuzzDecode[T any](t *testing.T, text []byte) {
	v, err := Decode[T](text)
	if err != nil {
		if fault.As(err).Code != fault.Malformed {
			t.Errorf("%T: foreign bytes gave %v", v, err)
		}
		return
	}
	first := marshal(t, v)
	again, err := Decode[T]([]byte(first))
	if err != nil {
		if len(first) <= MaxBody {
			t.Errorf("%T: %s does not decode: %v", v, first, err)
		}
		return
	}
	if second := marshal(t, again); second != first {
		t.Errorf("%T: %s came back as %s", v, first, second)
	}
	if a, ok := any(&v).(interface{ AppendJSON([]byte) []byte }); ok {
		if got := string(a.AppendJSON(nil)); got != first {
			t.Errorf("%T: AppendJSON %s, want %s", v, got, first)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"identifiers":[{"type":"dns","value":"a.test","ancestorDomain":"test"}],"notBefore":"2026-01-01T00:00:00Z","auto-renewal":{"end-date":"2026-01-01T00:00:00Z","lifetime":1}}`))
	f.Add([]byte(`{"contact":["mailto:a@b.test"],"termsOfServiceAgreed":true,"externalAccountBinding":{"a":[{}]}}`))
	f.Add([]byte(`{"csr":"AQI","certificate":"AQI","reason":4,"account":"u","oldKey":{"kty":"EC"},"status":"deactivated"}`))
	f.Add([]byte(`{"attObj":"AA","tkauth":"x","suggestedWindow":{"start":"2026-01-01T00:00:00Z","end":"2026-01-02T00:00:00Z"}}`))
	full := Order{Status: OrderValid, Expires: someTime, Identifiers: []pki.Identifier{{Type: pki.DNS, Value: "a"}}, Error: someProblem}
	f.Add(full.AppendJSON(nil))
	f.Add(fullChallenge.AppendJSON(nil))
	f.Fuzz(func(t *testing.T, text []byte) {
		fuzzDecode[Directory](t, text)
		fuzzDecode[Account](t, text)
		fuzzDecode[NewAccount](t, text)
		fuzzDecode[AccountUpdate](t, text)
		fuzzDecode[NewOrder](t, text)
		fuzzDecode[Order](t, text)
		fuzzDecode[OrderUpdate](t, text)
		fuzzDecode[OrderList](t, text)
		fuzzDecode[NewAuthorization](t, text)
		fuzzDecode[Authorization](t, text)
		fuzzDecode[AuthorizationUpdate](t, text)
		fuzzDecode[Challenge](t, text)
		fuzzDecode[ChallengeResponse](t, text)
		fuzzDecode[Finalize](t, text)
		fuzzDecode[Revocation](t, text)
		fuzzDecode[KeyChange](t, text)
		fuzzDecode[RenewalInfo](t, text)
	})
}

func BenchmarkOrderAppendJSON(b *testing.B) {
	o := Order{
		Status: OrderReady, Expires: someTime, Identifiers: []pki.Identifier{{Type: pki.DNS, Value: "www.example.com"}},
		Authorizations: []string{"https://ca.test/acme/main/authz/7cXzYq2n1"}, Finalize: "https://ca.test/acme/main/order/7cXzYq2n1/finalize",
	}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = o.AppendJSON(buf[:0])
	}
}

func BenchmarkDecodeNewOrder(b *testing.B) {
	payload := []byte(`{"identifiers":[{"type":"dns","value":"www.example.com"}]}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode[NewOrder](payload); err != nil {
			b.Fatal(err)
		}
	}
}
