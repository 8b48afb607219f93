package ct

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"chancery/internal/loop"
	"chancery/internal/pki"
)

// Kind is what a log speaks to those who read it; all take precertificates the
// same way.
type Kind string

// Kinds of logs.
const (
	RFC6962 Kind = "rfc6962"
	Static  Kind = "static-ct" // its timestamps hold the leaf's index
)

// Valid reports whether k is a known kind.
func (k Kind) Valid() bool { return k == RFC6962 || k == Static }

// Log is a log that may be submitted to.
type Log struct {
	Name     string
	URL      string // submission prefix: /ct/v1/add-pre-chain follows
	Key      []byte // DER SubjectPublicKeyInfo, P-256 or RSA of 2048 bits and more
	Kind     Kind   // "": RFC6962
	Operator string // who runs it; "": the log's name
}

// client is a log that is ready to be called.
type client struct {
	Log
	id      [32]byte
	key     crypto.PublicKey
	target  string
	http    *http.Client
	agent   string
	breaker *loop.Breaker
}

// parse checks l and reads its key.
func (l Log) parse() (*client, error) {
	if l.Kind == "" {
		l.Kind = RFC6962
	}
	if l.Operator == "" {
		l.Operator = l.Name
	}
	if !l.Kind.Valid() {
		return nil, fmt.Errorf("log %s: kind %q is unknown", l.Name, l.Kind)
	}
	u, err := url.Parse(l.URL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("log %s: %q is not the URL of a log", l.Name, l.URL)
	}
	key, err := x509.ParsePKIXPublicKey(l.Key)
	if err != nil {
		return nil, fmt.Errorf("log %s: read key: %w", l.Name, err)
	}
	switch k := key.(type) { // RFC 6962 section 2.1.4
	case *ecdsa.PublicKey:
		if k.Params().BitSize != 256 {
			return nil, fmt.Errorf("log %s: its key is not on P-256", l.Name)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("log %s: its RSA key is shorter than 2048 bits", l.Name)
		}
	default:
		return nil, fmt.Errorf("log %s: a log's key is ECDSA or RSA", l.Name)
	}
	return &client{Log: l, id: sha256.Sum256(l.Key), key: key, target: strings.TrimSuffix(l.URL, "/") + "/ct/v1/add-pre-chain"}, nil
}

// precert is what all logs of one submission are sent, and what they sign.
type precert struct {
	body    []byte // JSON
	tbs     []byte // without the poison
	issuer  [32]byte
	startAt time.Time
}

// newPrecert prepares a chain: the precertificate, then its issuer.
func newPrecert(chain [][]byte, now time.Time) (*precert, error) {
	if len(chain) < 2 {
		return nil, errors.New("submit precertificate: the chain lacks the issuer")
	}
	tbs, err := pki.TBSOf(chain[0])
	if err != nil {
		return nil, err
	}
	p := &precert{startAt: now}
	if p.tbs, err = pki.WithoutPoison(tbs); err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(chain[1])
	if err != nil {
		return nil, fmt.Errorf("read issuer: %w", err)
	}
	p.issuer = sha256.Sum256(issuer.RawSubjectPublicKeyInfo)
	p.body, err = json.Marshal(struct {
		Chain [][]byte `json:"chain"`
	}{chain})
	return p, err
}

// maxAnswer bounds the answer of a log, in bytes: one timestamp.
const maxAnswer = 16 << 10

// submit sends a precertificate to the log and returns its timestamp, checked.
func (c *client) submit(ctx context.Context, p *precert) (pki.SCT, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.target, bytes.NewReader(p.body))
	if err != nil {
		return pki.SCT{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(r)
	if err != nil {
		return pki.SCT{}, fmt.Errorf("log %s: %w", c.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return pki.SCT{}, fmt.Errorf("log %s: read answer: %w", c.Name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return pki.SCT{}, fmt.Errorf("log %s answered %s: %.200q", c.Name, resp.Status, body)
	}
	sct, err := c.read(body)
	if err == nil {
		err = c.check(&sct, p, time.Now())
	}
	if err != nil {
		return pki.SCT{}, fmt.Errorf("log %s: %w", c.Name, err)
	}
	return sct, nil
}

// read decodes an answer (RFC 6962 section 4.1).
func (c *client) read(body []byte) (pki.SCT, error) {
	var a struct {
		Version    uint8  `json:"sct_version"`
		ID         []byte `json:"id"`
		Timestamp  uint64 `json:"timestamp"`
		Extensions []byte `json:"extensions"`
		Signature  []byte `json:"signature"`
	}
	if len(body) > maxAnswer {
		return pki.SCT{}, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return pki.SCT{}, fmt.Errorf("decode answer: %w", err)
	}
	if a.Version != 0 {
		return pki.SCT{}, fmt.Errorf("timestamp version %d is unknown", a.Version)
	}
	if !bytes.Equal(a.ID, c.id[:]) {
		return pki.SCT{}, fmt.Errorf("the timestamp is of log %x, not of %x", a.ID, c.id)
	}
	return pki.SCT{LogID: c.id, Timestamp: a.Timestamp, Extensions: a.Extensions, Signature: a.Signature}, nil
}

// skew is how much the clocks of a log and of ours may differ. Browsers take no
// timestamp from the future, and ours is about a certificate made just now.
const skew = 5 * time.Minute

// check decides whether the timestamp counts.
func (c *client) check(s *pki.SCT, p *precert, now time.Time) error {
	if at := s.At(); at.Before(p.startAt.Add(-skew)) || at.After(now.Add(skew)) {
		return fmt.Errorf("the timestamp %s is not about now", at.Format(time.RFC3339))
	}
	if _, ok := s.LeafIndex(); c.Kind == Static && !ok {
		return errors.New("the timestamp of a static log lacks the leaf's index")
	}
	return s.VerifyPrecert(c.key, p.issuer, p.tbs)
}
