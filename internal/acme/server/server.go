package server

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"chancery/internal/acme/attest"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/acme/tkauth"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Config is what a Server needs. Fields without "required" may be zero, which
// stands for the default that their comment names.
type Config struct {
	// DB holds accounts, orders and authorizations. Required.
	DB *db.DB

	// Issuer issues and revokes. Required.
	Issuer *ca.Service

	// Secrets seals EAB keys and proofs, and derives the nonce key. All
	// replicas share it. Required.
	Secrets *keys.Sealer

	// Validators are the challenge types of this process. Required.
	Validators *challenge.Registry

	// Perspectives confirm what Validators and CAA checks find; nil: nobody does.
	Perspectives *perspective.Set

	// BaseURL is the scheme and authority under which clients reach the
	// server, without a final slash: "https://ca.example". It is part of every
	// URL, and proofs are bound to account URLs, so it must be stable. Required.
	BaseURL string

	// CAs are the certificate authorities by the name in their path,
	// /acme/NAME/directory. At least one.
	CAs map[string]CA

	// MaxNames is the most identifiers in one order; 100.
	MaxNames int

	// MaxBody is the largest request body in bytes; acme.MaxBody, which is
	// also the most that it can be.
	MaxBody int64

	// OrderLifetime is how long an order may take to be finalized; 7 days.
	OrderLifetime time.Duration

	// PendingLifetime is how long a pending authorization can be proved; 7 days.
	PendingLifetime time.Duration

	// AuthorizationLifetime is how long a proved authorization may be used
	// again by its account; 30 days. CA.AuthorizationLifetime wins.
	AuthorizationLifetime time.Duration

	// Retention is how long orders and authorizations are kept after they
	// expired; 30 days.
	Retention time.Duration

	// ChallengeWait is how long the answer to a challenge may wait for its
	// validation; negative: not at all; 1 s.
	ChallengeWait time.Duration

	// FinalizeWait is how long a finalize request waits for another one that
	// issues for the same order; 5 s.
	FinalizeWait time.Duration

	// ValidationTimeout bounds one validation with its CAA check; 30 s.
	ValidationTimeout time.Duration

	// Workers is the most validations at once; 256.
	Workers int

	// Queue is the most validations that wait for a worker; beyond it a
	// challenge is answered 503; 4 times Workers.
	Queue int

	// RenewalPoll is the Retry-After of renewal information, give or take a
	// tenth; 6 h.
	RenewalPoll time.Duration

	// NonceWindow is how many nonces may be out at once before the oldest
	// become stale; 1 Mi.
	NonceWindow int

	// MaxBusy is how many requests may be at work at once before orders,
	// accounts and authorizations are not begun any more but answered 503;
	// negative: no bound; 96 per core, at least 256.
	MaxBusy int

	// RecentOrders is about how many open orders are kept in memory, so that a
	// client's next request need not read them. Negative: none; 4,096, but none
	// with RedeemForeign, for it is right only when this is the one process.
	RecentOrders int

	// Replica tells the nonces of this process from those of others that run
	// at the same time; 0: a random one.
	Replica uint32

	// WeakKeys are keys that may have no account; nil: none.
	WeakKeys pki.WeakKeys

	// RedeemForeign asks the replica that made a nonce to redeem it (see
	// Server.RedeemNonce). Nil: nonces of other replicas are badNonce, which
	// is right only when this is the one process.
	RedeemForeign func(ctx context.Context, replica uint32, nonce string) (ok bool, err error)

	// Mail sends the messages of email-reply-00; nil: the challenge is not offered.
	Mail *Mail

	// Limits are the rate limits; nil: DefaultLimits. Use &Limits{} for none.
	Limits *Limits

	// CORS lets scripts of any origin read the answers.
	CORS bool

	// OnIssue and OnRevoke, if set, are told of each certificate that was
	// issued or revoked, after the commit and before the answer: the place to
	// sign its status.
	OnIssue, OnRevoke func(ctx context.Context, c *ca.Certificate)

	Metrics     *obs.Metrics  // nil: not measured
	PoolMetrics *loop.Metrics // nil: the validation pool is not measured
	Log         *slog.Logger  // nil: discard
}

// CA is one certificate authority as its directory presents it.
type CA struct {
	// Profiles may be asked for, in no order. At least one.
	Profiles []Profile

	// DefaultProfile is the name of the profile of an order that names none;
	// "": the first of Profiles.
	DefaultProfile string

	// CAA decides by the CAA records of a name. Required.
	CAA *challenge.CAAChecker

	// CAAIdentities are the issuer domain names shown in the directory.
	CAAIdentities []string

	// EABRequired refuses accounts without an external account binding.
	EABRequired bool

	// TermsOfService is the URL that accounts must agree to; "": none.
	TermsOfService string

	// Website is shown in the directory; "": none.
	Website string

	// ExplanationURL says why a revoked certificate must be renewed now (RFC
	// 9773 section 4.2); "": none.
	ExplanationURL string

	// Names says which identifiers the CA certifies.
	Names NamePolicy

	// Trust is the trust profile of the authority, which may bound profiles and
	// the reuse of proofs further; "": ca.Private.
	Trust ca.Trust

	// MinPerspectives is the fewest remote perspectives that must have been
	// asked, and have made a quorum, for each name that is certified; the
	// trust profile may want more. 0: none, unless that does.
	MinPerspectives int

	// JustInTime says for whom dns-persist-01 is tried when an order is made;
	// "": JustInTimeKnown.
	JustInTime JustInTime

	// PersistAccountURL lets records of dns-persist-01 name the account by its
	// URL as it is, as the drafts before 02 did, and shows challenges of the
	// method under the names of those drafts too.
	PersistAccountURL bool

	// Subdomains lets whoever controls a domain authorize what is below it, by
	// a method that uses its zone (RFC 9444); records of dns-persist-01 with
	// policy=wildcard count for subdomains.
	Subdomains bool

	// AutoRenewal are the limits of orders that renew themselves (RFC 8739).
	AutoRenewal AutoRenewal

	// CertificateGet lets an order ask that anybody may fetch its certificate
	// (RFC 9115 section 2.3.5).
	CertificateGet bool

	// Delegation takes orders under delegations (RFC 9115). It implies
	// CertificateGet, and AutoRenewal.AllowGet.
	Delegation bool

	// TokenAuthority is where clients may get tokens for tkauth-01, shown in
	// challenges; "": they know.
	TokenAuthority string

	// AuthorizationLifetime, if set, wins over that of Config: what the policy
	// of this authority's trust profile allows.
	AuthorizationLifetime time.Duration
}

// Profile is what an ACME client may choose, and the rules for its names.
type Profile struct {
	*ca.Profile // registered with Config.Issuer (ca.Service.Register). Required

	// Challenges are the types offered, in the order that clients see. At
	// least one; a type without a validator is an error of New.
	Challenges []challenge.Type

	// Attestation says whose attestations of devices count, with device-attest-01.
	Attestation *attest.Policy

	// Tokens says whose authority tokens count, with tkauth-01.
	Tokens *tkauth.Policy

	// Names says which identifiers are certified under the profile, by what is
	// configured now; the rules that an order pins are those of ca.Profile.
	Names NamePolicy
}

// Server answers ACME requests. It is safe for concurrent use.
type Server struct {
	cfg      Config
	db       *db.DB
	log      *slog.Logger
	nonces   *nonces
	proofs   *challenge.Sealer
	cas      map[string]*authority
	accounts *accountCache
	limits   *Limits
	ops      ops
	pool     *loop.Pool
	open     openBounds
	damper   damper
	recent   *recentOrders
	known    *knownNames
	gate     *gate
	mailed   *limit.Limiter // messages to one address
	ledger   *limit.Ledger  // of what is spent of the limits

	ctx  context.Context // of work that outlives its request; ends with Close
	stop context.CancelFunc

	mu         sync.Mutex
	validating map[string]*validation   // by authorization and type: one at a time
	finalizing map[string]chan struct{} // by order; closed when the request that issues is done
}

// New returns a server. It reads nothing and starts nothing.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.defaults()
	proofs, err := proofSealer(cfg.Secrets)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, db: cfg.DB, log: cfg.Log, proofs: proofs, limits: cfg.Limits, cas: map[string]*authority{},
		nonces:   newNonces(cfg.Secrets.Key("acme nonce"), cfg.Replica, cfg.NonceWindow),
		accounts: newAccountCache(), ops: newOps(cfg.Metrics),
		pool: loop.NewPool(loop.PoolConfig{Name: "acme_validation", Workers: cfg.Workers, PerKey: max(cfg.Workers/2, 1),
			Queue: cfg.Queue, Log: cfg.Log, Metrics: cfg.PoolMetrics}),
		recent: newRecentOrders(cfg.RecentOrders), known: newKnownNames(cfg.RecentOrders > 0), gate: newGate(cfg.MaxBusy),
		validating: map[string]*validation{}, finalizing: map[string]chan struct{}{}}
	if s.mailed, err = limit.New("mails-per-address", mails(), 0); err != nil {
		return nil, err
	}
	s.ledger = limit.NewLedger(cfg.DB, append(s.limits.limiters(), s.mailed)...)
	for name, c := range cfg.CAs {
		if s.cas[name], err = newAuthority(name, c, &s.cfg); err != nil {
			return nil, err
		}
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// proofSealer returns the sealer of proofs in the database.
func proofSealer(secrets *keys.Sealer) (*challenge.Sealer, error) {
	key := secrets.Key("acme proof")
	return challenge.NewSealer(key[:])
}

// Close breaks off running validations and waits for them. Their challenges
// stay pending, so that clients may try again elsewhere.
func (s *Server) Close() error {
	s.stop()
	s.pool.Close()
	return nil
}

// check reports what is missing.
func (c *Config) check() error {
	switch {
	case c.DB == nil || c.Issuer == nil || c.Secrets == nil || c.Validators == nil:
		return fmt.Errorf("acme server: DB, Issuer, Secrets and Validators are required")
	case !strings.HasPrefix(c.BaseURL, "https://") && !strings.HasPrefix(c.BaseURL, "http://") || strings.HasSuffix(c.BaseURL, "/"):
		return fault.New(fault.Invalid, "the base URL %q must be http(s)://host[:port] without a final slash", c.BaseURL)
	case len(c.CAs) == 0:
		return fault.New(fault.Invalid, "the ACME server needs at least one certificate authority")
	}
	return nil
}

// orDefault returns v, or def when v is zero.
func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

const day = 24 * time.Hour

func (c *Config) defaults() {
	orDefault(&c.MaxNames, 100)
	orDefault(&c.OrderLifetime, 7*day)
	orDefault(&c.PendingLifetime, 7*day)
	orDefault(&c.AuthorizationLifetime, 30*day)
	orDefault(&c.Retention, 30*day)
	orDefault(&c.ChallengeWait, time.Second)
	orDefault(&c.FinalizeWait, 5*time.Second)
	orDefault(&c.ValidationTimeout, 30*time.Second)
	orDefault(&c.Workers, 256)
	orDefault(&c.Queue, 4*c.Workers)
	orDefault(&c.RenewalPoll, 6*time.Hour)
	orDefault(&c.NonceWindow, 1<<20)
	if c.RedeemForeign != nil {
		c.RecentOrders = -1
	}
	orDefault(&c.RecentOrders, 4096)
	for c.Replica == 0 {
		var b [4]byte
		rand.Read(b[:]) // never fails; see crypto/rand
		c.Replica = binary.BigEndian.Uint32(b[:])
	}
	if c.MaxBody <= 0 || c.MaxBody > maxBody {
		c.MaxBody = maxBody
	}
	if c.Limits == nil {
		c.Limits = DefaultLimits()
	}
	if c.Log == nil {
		c.Log = obs.Discard()
	}
}

// ops are the meters of the operations, nil when not measured.
type ops struct {
	newAccount, keyChange, newOrder, newAuthz, validate, finalize, revoke, recover, renewStar *obs.Op
}

func newOps(m *obs.Metrics) ops {
	if m == nil {
		return ops{}
	}
	return ops{m.Op("new_account"), m.Op("key_change"), m.Op("new_order"), m.Op("new_authz"), m.Op("validate"),
		m.Op("finalize"), m.Op("revoke"), m.Op("recover_order"), m.Op("renew_star")}
}

// measure records one run of op, which may be nil.
func measure(op *obs.Op, start time.Time, err error) {
	if op != nil {
		op.Observe(time.Since(start), err)
	}
}
