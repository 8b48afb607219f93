package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Config is what a Service needs. A zero duration means its default.
type Config struct {
	CA *ca.Service
	DB *db.DB

	// Validity is nextUpdate minus thisUpdate of OCSP answers (default 96 h, at
	// least 1 h). Answers are refreshed when half of it is over.
	Validity time.Duration

	// CRLValidity is nextUpdate minus thisUpdate of the CRLs of issuing
	// authorities (default 96 h), CRLRefresh how old one gets before it is
	// made again although nothing changed (default 6 h).
	CRLValidity, CRLRefresh time.Duration

	// RootCRLValidity is the same for the CRLs of roots, whose key is opened
	// only for that (default 90 days). They are refreshed at half of it.
	RootCRLValidity time.Duration

	// Direct signs OCSP answers with the authority's own key, and makes no
	// delegated responders.
	Direct bool

	// EchoNonce answers a request that has a nonce (RFC 9654) with one made for
	// it alone. Otherwise the nonce is ignored, as RFC 5019 allows, and the
	// answer is the one that is kept for everybody.
	EchoNonce bool

	// SignUnknown answers requests for serials that were never issued with a
	// signed "unknown" instead of the unsigned "unauthorized" of RFC 5019.
	SignUnknown bool

	// Directory gets a copy of every CRL as AUTHORITY/N.crl, for another web
	// server; "": none.
	Directory string

	// Bucket gets a copy of every CRL; nil: none.
	Bucket *Bucket

	// Purge empties caches in front of this service when a CRL was replaced or a
	// certificate revoked; nil: none.
	Purge *Purge

	// LiveRate is how many answers for one client alone (with a nonce, about
	// several certificates, or a signed "unknown") may be made in a second; more
	// are told to try later. 0: 200.
	LiveRate int

	// SignWorkers is how many answers are signed ahead of time at once: the
	// most cores that may take. 0: half of them, at least one.
	SignWorkers int

	Log      *slog.Logger          // nil: discard
	Registry prometheus.Registerer // nil: not measured
	Loops    *loop.Metrics         // nil: not measured
}

// Defaults of Config, and what is not configurable.
const (
	defaultValidity        = 4 * 24 * time.Hour
	defaultCRLRefresh      = 6 * time.Hour
	defaultRootCRLValidity = 90 * 24 * time.Hour

	// keepExpired is how long the status of an expired certificate is still
	// answered: for clients whose clock is wrong, and for archives.
	keepExpired = 7 * 24 * time.Hour
)

// Service holds the status of all certificates of an installation. It is safe
// for concurrent use.
type Service struct {
	cfg     Config
	ca      *ca.Service
	db      *db.DB
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time

	validity    uint32        // of OCSP answers, minutes
	slots       chan struct{} // bounds signatures made while a client waits
	liveSlots   chan struct{} // bounds answers made for one client alone
	liveRate    rate          // and how many in a second
	signWorkers int           // bounds signatures made ahead of time

	outside map[sink]func(ctx context.Context, due []letter) []error // configured sinks
	client  *http.Client                                             // for them
	pool    sync.Pool                                                // *scratch

	mu    sync.Mutex // held to change books, and the signers in them
	books atomic.Pointer[map[string]*book]

	crlMu sync.Mutex // held to build CRLs, and to take over those of others

	loaded atomic.Bool
	asOf   atomic.Int64 // Unix seconds of the last successful look at the journal
	seq    int64        // of the last entry that was followed, -1 before the first; by the follow loop alone

	wakeFollow, wakeSign, wakeCRL, wakeResponder chan struct{}
}

// book is everything about the certificates of one authority.
type book struct {
	*table
	id     string
	role   ca.Role
	hashes pki.CertIDHashes
	auth   atomic.Pointer[ca.Authority]
	gens   atomic.Pointer[[]*signer] // the last one signs; the others have signed
	crls   []*crl                    // by shard
	loaded atomic.Bool               // all its rows were read
}

// New returns a service that knows nothing yet: run its Loops.
func New(cfg Config) (*Service, error) {
	cfg.setDefaults()
	if cfg.Validity < time.Hour || cfg.CRLValidity <= cfg.CRLRefresh {
		return nil, fault.New(fault.Invalid, "OCSP answers must be valid for at least 1h, and CRLs for longer than they take to be refreshed")
	}
	wake := func() chan struct{} { c := make(chan struct{}, 1); c <- struct{}{}; return c } // the first tick comes at once
	s := &Service{
		cfg: cfg, ca: cfg.CA, db: cfg.DB, log: cfg.Log, now: time.Now, seq: -1,
		validity:    uint32(cfg.Validity / time.Minute),
		slots:       make(chan struct{}, runtime.GOMAXPROCS(0)),
		liveSlots:   make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1)),
		liveRate:    rate{perSecond: cfg.LiveRate},
		signWorkers: cfg.SignWorkers,
		pool:        sync.Pool{New: func() any { return new(scratch) }},
		// Signing and CRLs wait for the load, which wakes them.
		wakeFollow: wake(), wakeSign: make(chan struct{}, 1), wakeCRL: make(chan struct{}, 1), wakeResponder: make(chan struct{}, 1),
	}
	s.client = &http.Client{Timeout: outsideTimeout}
	s.outside = map[sink]func(context.Context, []letter) []error{}
	if cfg.Bucket != nil {
		if err := cfg.Bucket.check(); err != nil {
			return nil, err
		}
		s.outside[sinkBucket] = s.upload
	}
	if cfg.Purge != nil {
		s.outside[sinkPurge] = s.purge
	}
	s.books.Store(&map[string]*book{})
	s.metrics = newMetrics(cfg.Registry, s)
	return s, s.syncBooks()
}

func (cfg *Config) setDefaults() {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	set(&cfg.Validity, defaultValidity)
	set(&cfg.CRLValidity, defaultValidity)
	set(&cfg.CRLRefresh, min(defaultCRLRefresh, cfg.CRLValidity/2))
	set(&cfg.RootCRLValidity, defaultRootCRLValidity)
	if cfg.LiveRate <= 0 {
		cfg.LiveRate = 200
	}
	if cfg.SignWorkers <= 0 {
		cfg.SignWorkers = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
}

// Loops returns the background work; each must run for as long as the service
// is used. Nothing is served before "status.follow" has loaded the table.
func (s *Service) Loops() []loop.Every {
	every := func(name string, interval time.Duration, wake chan struct{}, tick loop.Tick) loop.Every {
		return loop.Every{Name: name, Interval: interval, Timeout: 5 * time.Minute, Wake: wake, Tick: tick,
			Backoff: loop.Backoff{Base: time.Second, Max: 15 * time.Second}, Log: s.log, Metrics: s.cfg.Loops}
	}
	loops := []loop.Every{
		every("status.follow", 500*time.Millisecond, s.wakeFollow, s.follow),
		every("status.sign", 20*time.Second, s.wakeSign, s.presign),
		every("status.crl", time.Second, s.wakeCRL, s.publishCRLs),
		every("status.responder", 10*time.Minute, s.wakeResponder, s.renewResponders),
	}
	if s.cfg.Directory != "" {
		loops = append(loops, every("status.directory", time.Second, nil, s.writeFiles))
	}
	for k := range s.outside {
		loops = append(loops, every("status."+string(k), 2*time.Second, nil, s.deliver(k)))
	}
	if s.cfg.Purge != nil {
		loops = append(loops, every("status.plan_purge", time.Second, nil, s.planPurges))
	}
	return loops
}

// Ready returns nil once the status of every certificate is loaded.
func (s *Service) Ready(context.Context) error {
	if !s.loaded.Load() {
		return notLoaded()
	}
	return nil
}

func notLoaded() *fault.Error {
	return fault.New(fault.Unavailable, "the status of certificates is being loaded; try again").Retry(time.Second)
}

// Wake makes the service look at the journal now: for whoever hears, by another
// way than the journal, that it has grown.
func (s *Service) Wake() { loop.Nudge(s.wakeFollow) }

// Issued tells the service about a certificate that this process just issued,
// so that it need not wait for the journal. Another state than issued is
// ignored.
func (s *Service) Issued(c *ca.Certificate) {
	if c.State == ca.StateIssued {
		s.learn(c.AuthorityID, c.Shard, c.Serial, c.IssuedAt, c.NotAfter, time.Time{}, 0)
	}
}

// Revoked tells the service about a certificate that this process just
// revoked. When it returns, every answer here says so, and the answer that is
// kept is signed; the CRL follows. The error means only that the answer could
// not be signed now: it will be when somebody asks.
func (s *Service) Revoked(ctx context.Context, c *ca.Certificate) error {
	b := s.learn(c.AuthorityID, c.Shard, c.Serial, c.IssuedAt, c.NotAfter, c.RevokedAt, c.Reason)
	loop.Nudge(s.wakeCRL)
	if b == nil {
		return fmt.Errorf("sign revoked answer of certificate %s: authority %s is unknown", c.ID, c.AuthorityID)
	}
	f, _, _, ok := b.get([]byte(c.Serial), bySHA1, nil)
	if !ok {
		return nil
	}
	if _, _, err := s.renew(ctx, b, &f, bySHA1); err != nil && !errors.Is(err, errChanged) && !errors.Is(err, errNoSigner) {
		return fmt.Errorf("sign revoked answer of certificate %s: %w", c.ID, err)
	}
	return nil
}

// RevokedMany tells the service about certificates that this process just
// revoked together (ca.Service.RevokeMany). When it returns, every answer here
// says so; signatures and CRLs follow, with one wake-up.
func (s *Service) RevokedMany(revoked []ca.Changed) {
	for i := range revoked {
		c := &revoked[i]
		s.learn(c.AuthorityID, c.Shard, c.Serial, c.IssuedAt, c.NotAfter, c.RevokedAt, c.Reason)
	}
	s.nudge(len(revoked))
}

// learn takes over what a row says, and returns the book it belongs to.
func (s *Service) learn(authority string, shard int, serial pki.Serial, issuedAt, notAfter, revokedAt time.Time, reason pki.Reason) *book {
	b := s.book(authority)
	if b == nil {
		return nil
	}
	f, ok := newFact(serial, issuedAt, notAfter, revokedAt, reason)
	if !ok {
		s.log.Error("serial cannot be answered for", "authority", authority, "serial", serial.Hex())
		return b
	}
	if b.put(f) && f.revoked() && shard >= 0 && shard < len(b.crls) {
		b.crls[shard].add(&f)
	}
	return b
}

func (s *Service) book(authority string) *book { return (*s.books.Load())[authority] }

// syncBooks takes over the authorities, as the ca package has them now, and
// chooses who signs for each.
func (s *Service) syncBooks() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, now := *s.books.Load(), s.now()
	books := make(map[string]*book, len(old))
	var errs []error
	for _, a := range s.ca.Authorities() {
		if a.Cert == nil || a.Role == ca.RoleOCSP {
			continue
		}
		b := old[a.ID]
		if b == nil {
			var err error
			if b, err = newBook(a); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		b.auth.Store(a)
		errs = append(errs, s.refreshSigner(b, now))
		books[a.ID] = b
	}
	s.books.Store(&books)
	return errors.Join(errs...)
}

func newBook(a *ca.Authority) (*book, error) {
	hashes, err := pki.NewCertIDHashes(a.Cert.RawSubject, a.Cert.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, fmt.Errorf("open status of authority %s: %w", a.Name, err)
	}
	b := &book{table: newTable(), id: a.ID, role: a.Role, hashes: hashes}
	b.gens.Store(new([]*signer))
	for shard := range max(a.Shards, 1) {
		b.crls = append(b.crls, &crl{shard: shard})
	}
	return b, nil
}

// refreshSigner makes the right key sign from now on. The caller holds mu.
func (s *Service) refreshSigner(b *book, now time.Time) error {
	gens := *b.gens.Load()
	a, delegated := s.choose(b.auth.Load(), now)
	if a == nil || len(gens) > 0 && gens[len(gens)-1].auth.ID == a.ID {
		return nil
	}
	g, err := newSigner(a, delegated)
	if err != nil {
		return err
	}
	gens = append(slices.Clone(gens), g)
	b.gens.Store(&gens)
	return nil
}

// current returns the signer for new answers and its generation, or nil.
func (b *book) current(now uint32) (g *signer, gen uint16) {
	gens := *b.gens.Load()
	if n := len(gens); n > 0 && gens[n-1].end > now {
		return gens[n-1], uint16(n - 1)
	}
	return nil, 0
}
