package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// URLs says under which plain-HTTP base the status of certificates is served;
// what they return goes into certificates and must stay valid until they expire.
type URLs struct {
	Base string // "http://host[:port]", without a final slash
}

// OCSP returns the responder's URL for certificates of a.
func (u URLs) OCSP(a *Authority) string { return u.Base + "/ocsp/" + a.ID }

// CRL returns the URL of a CRL shard of a.
func (u URLs) CRL(a *Authority, shard int) string {
	return u.Base + "/crl/" + a.ID + "/" + strconv.Itoa(shard) + ".crl"
}

// Issuer returns the URL of a's certificate, in DER.
func (u URLs) Issuer(a *Authority) string { return u.Base + "/ca/" + a.ID + ".cer" }

// Config is what a Service needs.
type Config struct {
	DB   *db.DB
	Keys keys.Store // nil: nothing can be signed, authorities are only read
	// ResponderKeys, if set, is where the keys of delegated OCSP responders are
	// made; they are opened through Keys all the same.
	ResponderKeys keys.Store
	URLs          URLs
	// Trust is the trust profile of each CA by its name; absent: Private.
	Trust map[string]Trust
	// SignerLog, if set, is told the SHA-256 of each TBSCertificate that an
	// authority's key signed (see keys.SignerLog).
	SignerLog func(tbsHash [32]byte) error
	// WeakKeys are keys that are never certified, beside those of blocked_key;
	// nil: none.
	WeakKeys pki.WeakKeys
	// Submit, if set, has a precertificate logged and returns the timestamps of
	// the logs, checked; it keeps the deadline. Profiles with CT need it.
	Submit func(ctx context.Context, sub Submission) ([]pki.SCT, error)
	// Refuse, if set, returns a *fault.Error for what must not be issued.
	Refuse func(Proposal) error
	Log    *slog.Logger // nil: discard
}

// Service issues and revokes for all authorities of an installation. It is
// safe for concurrent use.
type Service struct {
	db     *db.DB
	keys   keys.Store
	homes  map[Role]keys.Store // where new keys are made, when not in keys
	urls   URLs
	trust  map[string]Trust
	log    *slog.Logger
	record func([32]byte) error
	weak   pki.WeakKeys
	submit func(context.Context, Submission) ([]pki.SCT, error)
	refuse func(Proposal) error
	random io.Reader

	throwaways keys.Throwaways
	reload     sync.Mutex // one Reload at a time
	set        atomic.Pointer[authorities]
	profiles   sync.Map // hash -> *Profile

	explanations sync.Map // incident id -> explanation
}

// authorities is one immutable view of all authorities.
type authorities struct {
	all     []*Authority
	byID    map[string]*Authority
	issuing map[string]*Authority // by CA name: the newest active one
	signers map[string]*Authority // by authority id: its newest active OCSP responder
}

// Open loads the authorities and opens the keys that this process needs.
func Open(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Keys == nil {
		cfg.Keys = noKeys{}
	}
	homes := map[Role]keys.Store{}
	if cfg.ResponderKeys != nil {
		homes[RoleOCSP] = cfg.ResponderKeys
	}
	s := &Service{db: cfg.DB, keys: cfg.Keys, homes: homes, urls: cfg.URLs, trust: cfg.Trust, log: cfg.Log, record: cfg.SignerLog, weak: cfg.WeakKeys, submit: cfg.Submit, refuse: cfg.Refuse, random: rand.Reader}
	return s, s.Reload(ctx)
}

// Reload reads the authorities again. Keys that are open stay open, and parsed
// authorities that did not change keep their encoders.
func (s *Service) Reload(ctx context.Context) error {
	s.reload.Lock()
	defer s.reload.Unlock()
	all, err := loadAuthorities(ctx, s.db.Read())
	if err != nil {
		return err
	}
	old := s.set.Load()
	set := &authorities{byID: map[string]*Authority{}, issuing: map[string]*Authority{}, signers: map[string]*Authority{}}
	for _, a := range all {
		if old != nil {
			a = keep(old.byID[a.ID], a)
		}
		if err := s.openKey(ctx, a); err != nil {
			return err
		}
		set.add(a)
	}
	s.set.Store(set)
	return nil
}

// keep returns was if nothing that matters changed, so that its key and its
// encoders live on, and otherwise now with the open key of was.
func keep(was, now *Authority) *Authority {
	if was == nil {
		return now
	}
	if was.State == now.State && string(was.DER) == string(now.DER) && slices.EqualFunc(was.Chains, now.Chains, slices.Equal) {
		return was
	}
	now.signer, now.status = was.signer, was.status
	return now
}

// openKey opens the key of an authority that signs. The key of a root stays
// closed until it is needed, and may be offline for good.
func (s *Service) openKey(ctx context.Context, a *Authority) error {
	if s.keys == (noKeys{}) || a.status != nil || a.KeyRef == "" || a.State == Pending || a.Role == RoleRoot {
		return nil
	}
	return s.open(ctx, a)
}

// noKeys is the key store of a process that only reads.
type noKeys struct{}

var errNoKeys = fault.New(fault.Precondition, "this process has no key store, and can only read authorities")

func (noKeys) Create(context.Context, string, pki.KeyType) (string, error) { return "", errNoKeys }
func (noKeys) Open(context.Context, string) (crypto.Signer, error)         { return nil, errNoKeys }
func (noKeys) List(context.Context) ([]string, error)                      { return nil, errNoKeys }

func (s *Service) open(ctx context.Context, a *Authority) error {
	key, err := a.openKey(ctx, s.keys)
	if err != nil {
		return err
	}
	// Only certificates are witnessed; an OCSP responder signs none.
	if a.Role != RoleOCSP {
		if a.signer, err = keys.NewSigner(key, s.record); err != nil {
			return err
		}
	}
	a.status, err = keys.NewSigner(key, nil)
	return err
}

func (set *authorities) add(a *Authority) {
	set.all = append(set.all, a)
	set.byID[a.ID] = a
	switch { // rows come in order of creation, so the newest wins
	case a.State != Active:
	case a.Role == RoleIssuing:
		set.issuing[a.CA] = a
	case a.Role == RoleOCSP:
		set.signers[a.ParentID] = a
	}
}

// Issuing returns the authority that issues for a CA name.
func (s *Service) Issuing(ca string) (*Authority, error) {
	if a := s.set.Load().issuing[ca]; a != nil {
		return a, nil
	}
	return nil, fault.New(fault.NotFound, "there is no certificate authority named %q", ca)
}

// Authority returns the authority with an id, or nil.
func (s *Service) Authority(id string) *Authority { return s.set.Load().byID[id] }

// Authorities returns all authorities in order of creation. The slice must not
// be changed.
func (s *Service) Authorities() []*Authority { return s.set.Load().all }

// Responder returns the authority whose key signs OCSP answers about
// certificates of a: its delegate, or a itself.
func (s *Service) Responder(a *Authority) (signer *Authority, delegated bool) {
	if r := s.set.Load().signers[a.ID]; r != nil {
		return r, true
	}
	return a, false
}

// StatusSigner returns the authority with this id, its key open to sign CRLs
// and OCSP answers. A root's key is opened for the caller alone and is closed
// again when the returned value is dropped.
func (s *Service) StatusSigner(ctx context.Context, id string) (*Authority, error) {
	a := s.Authority(id)
	if a == nil || a.State == Pending {
		return nil, fault.New(fault.NotFound, "there is no authority %q that has a certificate", id)
	}
	return s.opened(ctx, a)
}

// URLs returns where status is served.
func (s *Service) URLs() URLs { return s.urls }

// orNull makes "" a NULL.
func orNull(s *string) *string {
	if *s == "" {
		return nil
	}
	return s
}

// hexText returns b in hexadecimal.
func hexText(b []byte) string {
	var small [2 * sha256.Size]byte
	return string(hex.AppendEncode(small[:0], b))
}

// jsonText encodes plain strings, which cannot fail but on bad UTF-8.
func jsonText(v []string) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "[]"
	}
	return string(b)
}

var errKeyless = errors.New("the authority's key is not on this machine")
