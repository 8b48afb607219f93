package scan

import (
	"crypto/tls"
	"encoding/hex"
	"math"
	"time"

	"chancery/internal/pki"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// View is a Result as others see it: one line of JSON, one row of a table.
type View struct {
	Target      string             `json:"target"`
	Name        string             `json:"name,omitempty"` // asked for
	Address     string             `json:"address,omitempty"`
	At          time.Time          `json:"at"`
	Class       probe.Class        `json:"class"`
	Alert       uint8              `json:"alert,omitempty"`
	Reason      string             `json:"reason,omitempty"`
	Attempts    int                `json:"attempts,omitempty"`
	Problems    []verdict.Problem  `json:"problems"`
	Version     string             `json:"version,omitempty"` // "TLS 1.3"
	Cipher      string             `json:"cipher,omitempty"`
	Group       string             `json:"group,omitempty"`
	Proven      bool               `json:"key_proven"`
	ClientAuth  bool               `json:"client_auth,omitempty"`
	Certificate *CertificateView   `json:"certificate,omitempty"`
	Chain       []string           `json:"chain,omitempty"` // SHA-256 of what follows the leaf
	Trust       []verdict.SetTrust `json:"trust,omitempty"`
	Revocation  verdict.Status     `json:"revocation,omitempty"`
	PostQuantum PostQuantumView    `json:"post_quantum"`
	Dual        *DualView          `json:"dual,omitempty"`
	Versions    []string           `json:"versions,omitempty"` // of the features probe
	TTL         float64            `json:"dns_ttl_s,omitempty"`
	Millis      TimesView          `json:"ms"`
}

// CertificateView is the leaf.
type CertificateView struct {
	Fingerprint string    `json:"fingerprint"` // SHA-256
	Serial      string    `json:"serial"`
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Names       []string  `json:"names"`
	Key         string    `json:"key"`
	Signature   string    `json:"signature"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Days        int       `json:"days"` // left, rounded down; negative when expired
	ARI         string    `json:"ari,omitempty"`
}

// PostQuantumView says how an endpoint would fare against quantum computers.
type PostQuantumView struct {
	Certificate bool   `json:"certificate"`
	KeyExchange string `json:"key_exchange"` // a group, "none", or "unknown" unless the features probe asked
}

// DualView has the fingerprints of the certificates by kind of key.
type DualView struct {
	ECDSA string `json:"ecdsa,omitempty"`
	RSA   string `json:"rsa,omitempty"`
}

// TimesView are phases in milliseconds.
type TimesView struct {
	DNS   float64 `json:"dns"`
	TCP   float64 `json:"tcp"`
	TLS   float64 `json:"tls"`
	Wait  float64 `json:"wait"`
	Parse float64 `json:"parse"`
}

// View returns r for output.
func (r *Result) View() View {
	v := View{
		Target: r.Target.String(), Name: r.Target.ServerName(), At: r.At.UTC(), Class: r.Class, Alert: r.Alert, Reason: r.Reason,
		Attempts: r.Attempts, Problems: r.Verdict.Problems, Proven: r.Proven, ClientAuth: r.ClientAuth, Trust: r.Verdict.Trust,
		Revocation: r.Revocation, TTL: r.TTL.Seconds(), Millis: r.Times.view(),
		PostQuantum: PostQuantumView{Certificate: r.Verdict.PostQuantum, KeyExchange: "unknown"},
	}
	if v.Problems == nil {
		v.Problems = []verdict.Problem{}
	}
	if r.Addr.IsValid() {
		v.Address = r.Addr.String()
	}
	if r.Leaf() != nil {
		v.connection(r)
	}
	if r.Support != nil {
		v.support(r.Support)
	}
	if r.Dual != nil {
		v.Dual = &DualView{ECDSA: fingerprint(r.Dual.ECDSA), RSA: fingerprint(r.Dual.RSA)}
	}
	return v
}

// connection fills what the handshake showed.
func (v *View) connection(r *Result) {
	v.Version, v.Cipher = tls.VersionName(r.Version), tls.CipherSuiteName(r.Cipher)
	if r.Group != 0 {
		v.Group = r.Group.String()
	}
	m := pki.MetadataOf(r.Leaf())
	v.Certificate = &CertificateView{
		Fingerprint: hex.EncodeToString(m.Fingerprint[:]), Serial: m.Serial.Hex(), Subject: m.Subject, Issuer: m.Issuer, Names: m.Names,
		Key: m.Key, Signature: m.SignatureAlgo, NotBefore: m.NotBefore, NotAfter: m.NotAfter, ARI: m.ARI,
		Days: int(math.Floor(m.NotAfter.Sub(r.At).Hours() / 24)),
	}
	for _, c := range r.Chain[1:] {
		v.Chain = append(v.Chain, fingerprint([][]byte{c.Raw}))
	}
}

// support fills what the features probe found.
func (v *View) support(s *probe.Support) {
	for _, n := range s.Versions {
		v.Versions = append(v.Versions, tls.VersionName(n))
	}
	if v.PostQuantum.KeyExchange = probe.HybridName(s.Hybrid); s.Hybrid == 0 {
		v.PostQuantum.KeyExchange = "none"
	}
}

// fingerprint returns the SHA-256 of the first certificate, or "".
func fingerprint(raw [][]byte) string {
	if len(raw) == 0 {
		return ""
	}
	sum := pki.Fingerprint(raw[0])
	return hex.EncodeToString(sum[:])
}

func (t Times) view() TimesView {
	ms := func(d time.Duration) float64 { return math.Round(d.Seconds()*1e6) / 1e3 }
	return TimesView{DNS: ms(t.DNS), TCP: ms(t.TCP), TLS: ms(t.TLS), Wait: ms(t.Wait), Parse: ms(t.Parse)}
}
