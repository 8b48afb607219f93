package server

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"chancery/internal/acme"
	"chancery/internal/ca"
)

// recentTTL is how long an order may be served from memory: about as long as
// a client that does not wait for DNS needs. It also bounds what is not seen of
// changes that were made past this process.
const recentTTL = 15 * time.Second

const recentShards = 16

// recentOrders keeps the orders that clients of this process work at, with
// their authorizations, so that the five requests of an issuance do not read
// again what the one before has written.
//
// The database stays the truth: every change is a conditional update there,
// first, and whether an order may be issued is decided in the transaction of
// the claim, never by what is in here. An entry is made only with its order,
// before anybody else can know of it; it follows the changes that belong to an
// issuance, and every other change, failure or doubt drops it. While an order
// is being finalized it has no entry.
//
// It is off (nil) where several processes serve one database.
type recentOrders struct {
	seed  maphash.Seed
	most  int // orders per shard
	shard [recentShards]recentShard
}

// recentShard holds the orders of some accounts.
type recentShard struct {
	mu   sync.Mutex
	byID map[string]*recentOrder // by the ids of the order, its authorizations and its certificate
	ring []*recentOrder          // by age, oldest first
}

// recentOrder is one order. What slices and pointers in it lead to is never
// changed, so copies can be handed out.
type recentOrder struct {
	at     time.Time
	order  Order
	authz  []Authorization
	cert   *ca.Delivery // once issued
	certID string
}

// newRecentOrders returns room for about so many orders, or nil for none.
func newRecentOrders(orders int) *recentOrders {
	if orders <= 0 {
		return nil
	}
	r := &recentOrders{seed: maphash.MakeSeed(), most: max(orders/recentShards, 1)}
	for i := range r.shard {
		r.shard[i].byID = map[string]*recentOrder{}
	}
	return r
}

// of locks the shard of an account.
func (r *recentOrders) of(account string) *recentShard {
	s := &r.shard[maphash.String(r.seed, account)%recentShards]
	s.mu.Lock()
	return s
}

// stored returns an instant as the database gives it back.
func stored(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return time.UnixMilli(t.UnixMilli()).UTC()
}

// add remembers a new order that is about to be written, if all its
// authorizations are new too.
func (r *recentOrders) add(o *Order, fresh []Authorization, now time.Time) {
	if r == nil || o.AutoRenewal != nil || o.DelegationID != "" || len(fresh) != len(o.AuthzIDs) {
		return
	}
	e := &recentOrder{at: now, order: *o, authz: slices.Clone(fresh)}
	e.order.ancestors = nil
	for _, t := range []*time.Time{&e.order.NotBefore, &e.order.NotAfter, &e.order.ExpiresAt, &e.order.CreatedAt} {
		*t = stored(*t)
	}
	for i := range e.authz {
		z := &e.authz[i]
		z.Validated, z.ExpiresAt, z.CreatedAt = stored(z.Validated), stored(z.ExpiresAt), stored(z.CreatedAt)
	}
	r.insert(e)
}

func (r *recentOrders) insert(e *recentOrder) {
	s := r.of(e.order.AccountID)
	defer s.mu.Unlock()
	for len(s.ring) > 0 && (len(s.ring) >= r.most || e.at.Sub(s.ring[0].at) > recentTTL) {
		s.remove(s.ring[0])
	}
	s.ring = append(s.ring, e)
	e.keys(func(id string) { s.byID[id] = e })
}

// keys calls f with every id under which e is found.
func (e *recentOrder) keys(f func(id string)) {
	f(e.order.ID)
	for i := range e.authz {
		f(e.authz[i].ID)
	}
	if e.certID != "" {
		f(e.certID)
	}
}

// remove drops an entry. The caller holds mu.
func (s *recentShard) remove(e *recentOrder) {
	if i := slices.Index(s.ring, e); i >= 0 {
		s.ring = slices.Delete(s.ring, i, i+1)
	}
	e.keys(func(id string) {
		if s.byID[id] == e {
			delete(s.byID, id)
		}
	})
}

// find returns the entry of an id, or nil. The caller holds mu.
func (s *recentShard) find(id string, now time.Time) *recentOrder {
	e := s.byID[id]
	if e == nil || now.Sub(e.at) > recentTTL || now.Before(e.at) {
		return nil
	}
	return e
}

// getOrder returns an order of the account, if it is known.
func (r *recentOrders) getOrder(account, id string, now time.Time) (o Order, ok bool) {
	if r == nil {
		return o, false
	}
	s := r.of(account)
	defer s.mu.Unlock()
	if e := s.find(id, now); e != nil && e.order.ID == id {
		return e.order, true
	}
	return o, false
}

// getAuthz returns an authorization of the account, if it is known.
func (r *recentOrders) getAuthz(account, id string, now time.Time) (z Authorization, ok bool) {
	if r == nil {
		return z, false
	}
	s := r.of(account)
	defer s.mu.Unlock()
	if e := s.find(id, now); e != nil {
		if i := e.index(id); i >= 0 {
			return e.authz[i], true
		}
	}
	return z, false
}

func (e *recentOrder) index(authzID string) int {
	return slices.IndexFunc(e.authz, func(z Authorization) bool { return z.ID == authzID })
}

// authorizations returns those of an order, if they are known.
func (r *recentOrders) authorizations(o *Order, now time.Time) []Authorization {
	if r == nil {
		return nil
	}
	s := r.of(o.AccountID)
	defer s.mu.Unlock()
	if e := s.find(o.ID, now); e != nil && e.order.ID == o.ID {
		return slices.Clone(e.authz)
	}
	return nil
}

// proved follows the transaction that stored the proof of an authorization.
func (r *recentOrders) proved(z *Authorization) {
	if r == nil {
		return
	}
	s := r.of(z.AccountID)
	defer s.mu.Unlock()
	e := s.byID[z.ID]
	if e == nil {
		return
	}
	i := e.index(z.ID)
	if i < 0 || e.authz[i].State != acme.AuthorizationPending || e.order.State != acme.OrderPending || e.order.AuthzPending < 1 {
		s.remove(e)
		return
	}
	next := *e
	next.authz = slices.Clone(e.authz)
	next.authz[i] = *z
	if next.order.AuthzPending--; next.order.AuthzPending == 0 {
		next.order.State = acme.OrderReady
	}
	*e = next // under the lock; what was handed out are copies
}

// drop forgets the order that id belongs to.
func (r *recentOrders) drop(account, id string) {
	if r == nil {
		return
	}
	s := r.of(account)
	defer s.mu.Unlock()
	if e := s.byID[id]; e != nil {
		s.remove(e)
	}
}

// dropAll forgets all orders of an account.
func (r *recentOrders) dropAll(account string) {
	if r == nil {
		return
	}
	s := r.of(account)
	defer s.mu.Unlock()
	for _, e := range slices.Clone(s.ring) {
		if e.order.AccountID == account {
			s.remove(e)
		}
	}
}

// clear forgets everything.
func (r *recentOrders) clear() {
	if r == nil {
		return
	}
	for i := range r.shard {
		s := &r.shard[i]
		s.mu.Lock()
		clear(s.byID)
		s.ring = nil
		s.mu.Unlock()
	}
}

// issued remembers an order that has its certificate, which nothing changes
// any more.
func (r *recentOrders) issued(o *Order, cert *ca.Certificate, now time.Time) {
	if r == nil || o.AutoRenewal != nil {
		return
	}
	d := &ca.Delivery{AuthorityID: cert.AuthorityID, CA: cert.CA, AccountID: cert.AccountID, OrderID: cert.OrderID, State: cert.State, DER: cert.DER}
	r.insert(&recentOrder{at: now, order: *o, cert: d, certID: cert.ID})
}

// take returns a certificate of the account and forgets its order: whoever has
// the certificate is done.
func (r *recentOrders) take(account, certID string, now time.Time) *ca.Delivery {
	if r == nil {
		return nil
	}
	s := r.of(account)
	defer s.mu.Unlock()
	e := s.find(certID, now)
	if e == nil || e.certID != certID {
		return nil
	}
	s.remove(e)
	return e.cert
}
