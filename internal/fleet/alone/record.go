package alone

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/pki"
)

// record is what is known of a certificate: the file NAME.json.
type record struct {
	Live *Pair `json:"certificate,omitempty"` // what targets shall serve
	Work *work `json:"order,omitempty"`       // what is being obtained

	RenewAt     time.Time `json:"renew_at,omitzero"`
	WindowStart time.Time `json:"window_start,omitzero"`
	WindowEnd   time.Time `json:"window_end,omitzero"`
	AskAt       time.Time `json:"ask_at,omitzero"` // when the issuer is asked for its window
	Explanation string    `json:"explanation,omitempty"`

	Attempts int       `json:"attempts,omitempty"` // failures in a row
	Error    string    `json:"error,omitempty"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
	Stopped  string    `json:"stopped,omitempty"` // the wish that failed for good; another one is tried

	Placed map[string]placement `json:"targets,omitempty"`
}

// Pair is a certificate with its key.
type Pair struct {
	Issuer   string    `json:"issuer"` // whose certificate it is
	Key      []byte    `json:"key"`    // PKCS #8
	Chain    [][]byte  `json:"chain"`  // DER, leaf first
	IssuedAt time.Time `json:"issued_at"`
}

// work is an order.
type work struct {
	ID       string    `json:"id"`
	Issuer   string    `json:"issuer"`
	Wish     string    `json:"wish"` // what it was made for
	Key      []byte    `json:"key"`  // PKCS #8
	CSR      []byte    `json:"csr"`
	Replaces []byte    `json:"replaces,omitempty"`
	Step     string    `json:"step,omitempty"`
	Data     []byte    `json:"data,omitempty"`
	PollAt   time.Time `json:"poll_at,omitzero"`
}

// placement is what a target has.
type placement struct {
	Leaf     string    `json:"leaf,omitempty"` // hex SHA-256 of what it serves
	Attempts int       `json:"attempts,omitempty"`
	RetryAt  time.Time `json:"retry_at,omitzero"`
	Error    string    `json:"error,omitempty"`
	Stderr   string    `json:"stderr,omitempty"`
}

// leaf is the hex SHA-256 of the certificate.
func (p *Pair) leaf() string {
	sum := pki.Fingerprint(p.Chain[0])
	return hex.EncodeToString(sum[:])
}

func (p *Pair) parse() (*x509.Certificate, error) { return x509.ParseCertificate(p.Chain[0]) }

// signer returns the private key.
func (p *Pair) signer() (crypto.Signer, error) {
	key, err := x509.ParsePKCS8PrivateKey(p.Key)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return s, nil
}

func (r *Runner) file(name string) string {
	return filepath.Join(r.cfg.State, "certificates", name+".json")
}

// read reads what is known of a certificate; nothing is known of a new one.
func (r *Runner) read(name string) (rec record, err error) {
	text, err := os.ReadFile(r.file(name))
	if errors.Is(err, os.ErrNotExist) {
		return record{Placed: map[string]placement{}}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &rec)
	}
	if err == nil && rec.Live != nil && len(rec.Live.Chain) == 0 {
		err = errors.New("it has no chain")
	}
	if err != nil {
		return rec, fmt.Errorf("read what is known of certificate %s: %w", name, err)
	}
	if rec.Placed == nil {
		rec.Placed = map[string]placement{}
	}
	return rec, nil
}

// save stores what is known of a certificate.
func (r *Runner) save(it *item) error {
	text, err := json.Marshal(&it.rec)
	if err == nil {
		err = deploy.ReplaceFile(r.file(it.c.Name), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("store certificate %s: %w", it.c.Name, err)
	}
	return nil
}

// Adopt stores a certificate that another program obtained, unless one of this
// name is known. It is renewed when its own life says so.
func Adopt(state, name string, p Pair) error {
	dir := filepath.Join(state, "certificates")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	text, err := json.Marshal(&record{Live: &p})
	if err != nil {
		return fmt.Errorf("encode certificate: %w", err)
	}
	return deploy.WriteFile(filepath.Join(dir, name+".json"), text, 0o600)
}

// Store keeps the secrets of an issuer in files of a state directory.
type Store struct{ State, Issuer string }

// itemPattern is what a secret may be called: it names a file.
var itemPattern = regexp.MustCompile(`^[a-z0-9-]{1,128}$`)

func (s Store) path(item string) (string, error) {
	if !itemPattern.MatchString(item) {
		return "", fmt.Errorf("%q cannot name a file of an issuer", item)
	}
	return filepath.Join(s.State, "issuers", s.Issuer, item), nil
}

// Keep implements issuer.Env.Keep.
func (s Store) Keep(_ context.Context, item string, value []byte) error {
	path, err := s.path(item)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of issuer: %w", err)
	}
	return deploy.ReplaceFile(path, value, 0o600)
}

// Kept implements issuer.Env.Kept.
func (s Store) Kept(_ context.Context, item string) ([]byte, error) {
	path, err := s.path(item)
	if err != nil {
		return nil, err
	}
	value, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return value, err
}

// lane is until when an issuer is left alone: the file issuers/NAME.json.
type lane struct {
	SleepUntil time.Time `json:"sleep_until,omitzero"` // it said "too many"
	DownSince  time.Time `json:"down_since,omitzero"`  // first failure of an outage
	FailedAt   time.Time `json:"failed_at,omitzero"`   // and the last
	Error      string    `json:"error,omitempty"`
}

func (r *Runner) laneFile(name string) string {
	return filepath.Join(r.cfg.State, "issuers", name+".json")
}

// lane returns what is known of an issuer. The caller holds r.mu.
func (r *Runner) lane(name string) *lane {
	if l := r.lanes[name]; l != nil {
		return l
	}
	l := new(lane)
	text, err := os.ReadFile(r.laneFile(name))
	if err == nil {
		err = json.Unmarshal(text, l)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.Warn("what is known of an issuer cannot be read; it is asked", "issuer", name, "error", err)
		*l = lane{}
	}
	r.lanes[name] = l
	return l
}

// editLane changes what is known of an issuer.
func (r *Runner) editLane(name string, edit func(l *lane)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(name)
	before := *l
	if edit(l); *l == before {
		return
	}
	text, err := json.Marshal(l)
	if err == nil {
		err = deploy.ReplaceFile(r.laneFile(name), text, 0o600)
	}
	if err != nil {
		r.log.Warn("what is known of an issuer cannot be stored", "issuer", name, "error", err)
	}
}
