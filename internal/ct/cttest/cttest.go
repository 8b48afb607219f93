// Package cttest is a Certificate Transparency log for tests: it takes
// precertificates as RFC 6962 section 4.2 says, checks them as logs do, and
// signs real timestamps; or it misbehaves as it is told. What it signs it
// computes by encoding/asn1, not by the code under test.
package cttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// Fault is a way to misbehave.
type Fault string

// Faults.
const (
	None           Fault = ""
	Down           Fault = "503"
	Refuses        Fault = "400"
	Silent         Fault = "no answer"
	BadSignature   Fault = "signature over something else"
	WrongID        Fault = "id of another log"
	WrongVersion   Fault = "version 1"
	FromTheFuture  Fault = "timestamp of tomorrow"
	FromThePast    Fault = "timestamp of yesterday"
	WrongAlgorithm Fault = "SHA-1"
	NotJSON        Fault = "HTML"
	Huge           Fault = "a megabyte"
	Redirects      Fault = "302"
	NoIndex        Fault = "without the leaf's index"
)

// Log is a log that serves on loopback until the test ends.
type Log struct {
	URL    string
	SPKI   []byte // DER of its public key
	Static bool   // give timestamps the leaf's index, as static logs do

	key *ecdsa.PrivateKey

	mu       sync.Mutex
	fault    Fault
	accepted []*x509.Certificate
	calls    int
}

// New starts a log.
func New(t testing.TB) *Log {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{key: key}
	if l.SPKI, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /ct/v1/add-pre-chain", l.addPreChain)
	s := httptest.NewServer(mux)
	l.URL = s.URL
	t.Cleanup(s.Close)
	return l
}

// Break makes the log misbehave from now on; None repairs it.
func (l *Log) Break(f Fault) { l.mu.Lock(); defer l.mu.Unlock(); l.fault = f }

// Accepted returns the precertificates that got a timestamp.
func (l *Log) Accepted() []*x509.Certificate {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*x509.Certificate(nil), l.accepted...)
}

// Calls returns how often the log was asked.
func (l *Log) Calls() int { l.mu.Lock(); defer l.mu.Unlock(); return l.calls }

// answer is the JSON of RFC 6962 section 4.1.
type answer struct {
	Version    int    `json:"sct_version"`
	ID         []byte `json:"id"`
	Timestamp  uint64 `json:"timestamp"`
	Extensions []byte `json:"extensions"`
	Signature  []byte `json:"signature"`
}

func (l *Log) addPreChain(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	f := l.fault
	l.calls++
	l.mu.Unlock()
	switch f {
	case Down:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "down for maintenance", http.StatusServiceUnavailable)
		return
	case Refuses:
		http.Error(w, "unknown root", http.StatusBadRequest)
		return
	case NotJSON:
		fmt.Fprint(w, "<html>welcome</html>")
		return
	case Huge:
		w.Write(make([]byte, 1<<20))
		return
	case Redirects:
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
		return
	}
	var in struct {
		Chain [][]byte `json:"chain"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil { // reading the body lets the server see that the client went away
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if f == Silent {
		<-r.Context().Done()
		return
	}
	pre, a, err := l.timestamp(in.Chain, f)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	l.accepted = append(l.accepted, pre)
	l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(a)
}

// check judges a chain as a log does: poison, and each signature by the next.
func check(chain [][]byte) (pre, issuer *x509.Certificate, err error) {
	if len(chain) < 2 {
		return nil, nil, errors.New("the chain is too short")
	}
	var certs []*x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		if certs = append(certs, c); i > 0 {
			if err := certs[i-1].CheckSignatureFrom(c); err != nil {
				return nil, nil, fmt.Errorf("certificate %d is not signed by the next: %w", i-1, err)
			}
		}
	}
	return certs[0], certs[1], nil
}

// timestamp signs the entry of a precertificate.
func (l *Log) timestamp(chain [][]byte, f Fault) (*x509.Certificate, *answer, error) {
	pre, issuer, err := check(chain)
	if err != nil {
		return nil, nil, err
	}
	tbs, err := withoutPoison(pre.RawTBSCertificate)
	if err != nil {
		return nil, nil, err
	}
	a := &answer{Timestamp: uint64(time.Now().UnixMilli())}
	id := sha256.Sum256(l.SPKI)
	switch f {
	case WrongID:
		id[0] ^= 1
	case WrongVersion:
		a.Version = 1
	case FromTheFuture:
		a.Timestamp += 24 * 3600 * 1000
	case FromThePast:
		a.Timestamp -= 24 * 3600 * 1000
	}
	a.ID = id[:]
	if l.Static && f != NoIndex {
		a.Extensions = []byte{0, 0, 5, 0, 0, 0, 0, 7}
	}
	keyHash := sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	signed := binary.BigEndian.AppendUint64([]byte{0, 0}, a.Timestamp)
	signed = append(signed, 0, 1)
	signed = append(signed, keyHash[:]...)
	signed = append(signed, byte(len(tbs)>>16), byte(len(tbs)>>8), byte(len(tbs)))
	signed = append(signed, tbs...)
	signed = binary.BigEndian.AppendUint16(signed, uint16(len(a.Extensions)))
	signed = append(signed, a.Extensions...)
	if f == BadSignature {
		signed[len(signed)-1] ^= 1
	}
	sum := sha256.Sum256(signed)
	sig, err := ecdsa.SignASN1(rand.Reader, l.key, sum[:])
	if err != nil {
		return nil, nil, err
	}
	a.Signature = binary.BigEndian.AppendUint16([]byte{4, 3}, uint16(len(sig)))
	if f == WrongAlgorithm {
		a.Signature[0] = 2
	}
	a.Signature = append(a.Signature, sig...)
	return pre, a, nil
}

// poison is the extension of RFC 6962 section 3.1.
var poison = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}

// tbsCertificate is RFC 5280 section 4.1, as far as a log changes it.
type tbsCertificate struct {
	Version    asn1.RawValue
	Serial     asn1.RawValue
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Extensions []pkix.Extension `asn1:"explicit,tag:3"`
}

func withoutPoison(der []byte) ([]byte, error) {
	var tbs tbsCertificate
	if rest, err := asn1.Unmarshal(der, &tbs); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("TBSCertificate does not parse: %w", err)
	}
	var kept []pkix.Extension
	for _, e := range tbs.Extensions {
		if !e.Id.Equal(poison) {
			kept = append(kept, e)
		} else if !e.Critical || string(e.Value) != "\x05\x00" {
			return nil, errors.New("the poison is not critical, or not NULL")
		}
	}
	if len(kept) != len(tbs.Extensions)-1 {
		return nil, errors.New("not a precertificate")
	}
	tbs.Extensions = kept
	return asn1.Marshal(tbs)
}
