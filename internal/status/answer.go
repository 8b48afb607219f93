package status

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Why there is no answer.
var (
	errUnknown  = errors.New("serial is not one that was issued")
	errNoSigner = errors.New("no key at hand can sign answers of this authority")
	errChanged  = errors.New("status changed while its answer was signed")
	errBusy     = errors.New("too many signatures are being made")
)

// scratch is the memory of one request.
type scratch struct {
	req          pki.OCSPRequest
	text, raw    []byte // the request, in base64 and in DER
	id, tbs, sig []byte
	one          [1]pki.OCSPSingle
}

// answer is a whole OCSPResponse and what HTTP caches may know about it.
type answer struct {
	der     []byte
	status  pki.OCSPStatus
	at      time.Time // thisUpdate
	next    time.Time // nextUpdate
	refresh time.Time // a newer one will be there from now on
	etag    string
}

// hash returns the hash of a form.
func (f form) hash() crypto.Hash {
	if f == bySHA256 {
		return crypto.SHA256
	}
	return crypto.SHA1
}

// turn returns the thisUpdate of the answer that f should have: the last turn
// of its refresh clock before the last look at the journal, but not before the
// certificate came to be what it is, and not in the future.
func (s *Service) turn(f *fact, now uint32) uint32 {
	asOf := min(uint32(s.asOf.Load()/60), now)
	period := s.validity / 2
	if asOf < period { // the journal was never read
		return min(f.since, now)
	}
	last := asOf - (asOf-f.phase()%period)%period
	return min(max(last, f.since), now)
}

// next returns the nextUpdate of an answer.
func (s *Service) next(at uint32, g *signer) uint32 { return min(at+s.validity, g.end) }

// single fills in what an answer says about f.
func (s *Service) single(o *pki.OCSPSingle, f *fact, id []byte, at, next uint32) {
	*o = pki.OCSPSingle{CertID: id, ThisUpdate: minuteTime(at), NextUpdate: minuteTime(next)}
	if f.revoked() {
		o.Status, o.Reason = pki.OCSPRevoked, pki.Reason(f.reason)
		o.RevokedAt = time.Unix(int64(f.revokedAt), 0).UTC()
	}
}

// tbs appends the ResponseData of the answer about f.
func (s *Service) tbs(sc *scratch, b *book, g *signer, f *fact, form form, at uint32) ([]byte, error) {
	sc.id = b.hashes.AppendCertID(sc.id[:0], form.hash(), pki.Serial(f.key()))
	s.single(&sc.one[0], f, sc.id, at, s.next(at, g))
	return g.enc.AppendTBS(sc.tbs[:0], minuteTime(at), nil, sc.one[:]...)
}

// kept returns the answer about a serial from memory, signing it first if
// there is none or it is too old to be served.
func (s *Service) kept(ctx context.Context, b *book, serial pki.Serial, form form, sc *scratch) (a answer, err error) {
	for range 3 { // facts change at most once, from good to revoked
		f, se, sig, ok := b.get([]byte(serial), form, sc.sig[:0])
		if !ok {
			return a, errUnknown
		}
		sc.sig = sig
		if must, should := s.wants(b, &f, form, se); must || should {
			fresh, made, err := s.lazy(ctx, b, &f, form)
			switch {
			case errors.Is(err, errChanged):
				continue
			case err == nil:
				se, sig = fresh, made
			case must:
				return a, err
			}
		}
		return s.rebuild(sc, b, (*b.gens.Load())[se.gen], &f, form, se.at, sig)
	}
	return a, errBusy
}

// wants reports whether a kept answer must be signed before it can be served,
// or only should: the background renews those by SHA-1 alone.
func (s *Service) wants(b *book, f *fact, form form, se seal) (must, should bool) {
	now := minutes(s.now())
	if se.at == 0 || s.next(se.at, (*b.gens.Load())[se.gen]) <= now {
		return true, true
	}
	return false, form != bySHA1 && se.at < s.turn(f, now)
}

// rebuild makes the answer around a kept signature.
func (s *Service) rebuild(sc *scratch, b *book, g *signer, f *fact, form form, at uint32, sig []byte) (a answer, err error) {
	if sc.tbs, err = s.tbs(sc, b, g, f, form, at); err != nil {
		return a, err
	}
	var der [112]byte
	a.der = g.enc.Assemble(sc.tbs, g.appendSignature(der[:0], sig))
	a.status, a.at, a.next = sc.one[0].Status, sc.one[0].ThisUpdate, sc.one[0].NextUpdate
	period := s.validity / 2
	a.refresh = minuteTime(at + period - (at-f.phase()%period)%period)
	// The signature is over everything else in the answer, so its first octets
	// identify the bytes as a whole.
	tag := append(make([]byte, 0, 34), '"')
	a.etag = string(append(hex.AppendEncode(tag, sig[:16]), '"'))
	return a, nil
}

// lazy signs while a client waits.
func (s *Service) lazy(ctx context.Context, b *book, f *fact, form form) (seal, []byte, error) {
	release, err := wait(ctx, s.slots)
	if err != nil {
		return seal{}, nil, err
	}
	defer release()
	s.metrics.lazy.Inc()
	return s.renew(ctx, b, f, form)
}

// wait waits a moment for the right to sign. Clients decide how many answers
// are made on demand; this decides how much of the machine that may take.
func wait(ctx context.Context, slots chan struct{}) (release func(), err error) {
	release = func() { <-slots }
	select {
	case slots <- struct{}{}:
		return release, nil
	default:
	}
	t := time.NewTimer(200 * time.Millisecond)
	defer t.Stop()
	select {
	case slots <- struct{}{}:
		return release, nil
	case <-t.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// rate lets so many pass in each second, all of them at once if need be.
type rate struct {
	perSecond int

	mu     sync.Mutex
	second int64
	passed int
}

func (r *rate) allow(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if second := now.Unix(); second != r.second {
		r.second, r.passed = second, 0
	}
	r.passed++
	return r.passed <= r.perSecond
}

// renew signs the answer about f and keeps it.
func (s *Service) renew(ctx context.Context, b *book, f *fact, form form) (se seal, sig []byte, err error) {
	now := minutes(s.now())
	g, gen := b.current(now)
	if g == nil {
		return se, nil, errNoSigner
	}
	se = seal{at: s.turn(f, now), gen: gen}
	if s.next(se.at, g) <= now {
		return se, nil, fmt.Errorf("the journal was last read at %s: %w", time.Unix(s.asOf.Load(), 0).UTC(), errNoSigner)
	}
	sc := s.pool.Get().(*scratch)
	defer s.pool.Put(sc)
	if sc.tbs, err = s.tbs(sc, b, g, f, form, se.at); err != nil {
		return se, nil, err
	}
	if sig, err = g.sign(ctx, sc.tbs); err != nil {
		return se, nil, fmt.Errorf("sign OCSP answer: %w", err)
	}
	if !b.keep(f, form, se, sig) {
		return se, nil, errChanged
	}
	return se, sig, nil
}

// live makes an answer for one client alone: about several certificates, with
// its nonce, or about a serial that nobody has. Such answers have limits of
// their own, so that those who want them cannot keep the signer from the others.
func (s *Service) live(ctx context.Context, b *book, req *pki.OCSPRequest) (a answer, err error) {
	if !s.liveRate.allow(s.now()) {
		return a, errBusy
	}
	now := minutes(s.now())
	g, _ := b.current(now)
	if g == nil {
		return a, errNoSigner
	}
	at := max(min(uint32(s.asOf.Load()/60), now), 1)
	a.at, a.next = minuteTime(at), minuteTime(s.next(at, g))
	if !a.next.After(s.now()) {
		return a, errNoSigner
	}
	singles := make([]pki.OCSPSingle, len(req.Certs))
	for i := range req.Certs {
		if err := s.liveSingle(&singles[i], b, &req.Certs[i], at, now, g); err != nil {
			return a, err
		}
	}
	a.status = singles[0].Status
	var nonce []byte
	if s.cfg.EchoNonce {
		nonce = req.Nonce
	}
	tbs, err := g.enc.TBS(a.at, nonce, singles...)
	if err != nil {
		return a, err
	}
	release, err := wait(ctx, s.liveSlots)
	if err != nil {
		return a, err
	}
	defer release()
	s.metrics.live.Inc()
	sig, err := g.auth.SignTBS(ctx, tbs)
	if err != nil {
		return a, fmt.Errorf("sign OCSP answer: %w", err)
	}
	a.der = g.enc.Assemble(tbs, sig)
	return a, nil
}

// liveSingle is the part of a live answer about one certificate.
func (s *Service) liveSingle(o *pki.OCSPSingle, b *book, id *pki.OCSPCertID, at, now uint32, g *signer) error {
	f, _, _, ok := b.get([]byte(id.Serial), bySHA1, nil)
	if !ok && !s.cfg.SignUnknown {
		return errUnknown
	}
	at = min(max(at, f.since), now)
	s.single(o, &f, id.DER, at, s.next(at, g))
	if !ok {
		o.Status = pki.OCSPUnknown
	}
	return nil
}

// unavailable is the fault of an answer that cannot be given now.
func unavailable(cause error) error {
	return fault.Wrap(cause, fault.Unavailable, "the status of this certificate cannot be answered now; try again").Retry(10 * time.Second)
}
