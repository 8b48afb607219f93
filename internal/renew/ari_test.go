package renew_test

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"chancery/internal/db/dbtest"
	"chancery/internal/issuer"
	"chancery/internal/renew"
)

// advised is an issuer whose renewal information a test sets, and that
// remembers what was asked.
type advised struct {
	issuer.Issuer

	mu       sync.Mutex
	info     issuer.RenewalInfo
	err      error
	asked    int
	replaced [][]byte
}

func (a *advised) set(info issuer.RenewalInfo, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.info, a.err = info, err
}

func (a *advised) seen() (asked int, replaced [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked, a.replaced
}

// Issue implements issuer.Issuer.
func (a *advised) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	a.mu.Lock()
	a.replaced = append(a.replaced, r.Replaces)
	a.mu.Unlock()
	return a.Issuer.Issue(ctx, r)
}

// RenewalInfo implements issuer.Informer.
func (a *advised) RenewalInfo(context.Context, *x509.Certificate) (issuer.RenewalInfo, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.info, a.err
}

// RFC 9773: the window of the issuer counts, its Retry-After is kept over a
// restart, an answer that makes no sense changes nothing, and the predecessor
// is named to the issuer that made it, and to nobody else.
func TestRenewalInformation(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 60*24*time.Hour)
	a, b := &advised{Issuer: w.own}, &advised{Issuer: w.own}
	day := 24 * time.Hour
	start := time.Now().Add(10 * day).UTC().Truncate(time.Second)
	a.set(issuer.RenewalInfo{Start: start, End: start.Add(day), Explanation: "https://ca.test/why", RetryAfter: time.Now().Add(100 * day)}, nil)
	c := newClock()
	config := renew.Config{Now: c.now, Lease: driven, Issuers: map[string]*renew.Issuer{"a": {Issuer: a}, "b": {Issuer: b}}}
	stop := w.start(t, config)
	_, err := w.engine.Create(ctx, renew.Spec{Name: "x", Names: names(t, "x.example.test"), Issuer: "a"}, "test")
	must(t, err)
	m := w.until(t, "x", "idle", isIdle)
	c.set(time.Until(m.AskAt) + time.Second)
	w.engine.Wake()
	m = w.until(t, "x", "planned by its issuer", func(m renew.Managed) bool { return m.WindowStart.Equal(start) })
	if m.RenewAt.Before(start) || !m.RenewAt.Before(start.Add(day)) || m.Explanation != "https://ca.test/why" {
		t.Errorf("%+v", m)
	}
	if wait := m.AskAt.Sub(c.now()); wait < 21*time.Hour || wait > 27*time.Hour {
		t.Errorf("100 days of Retry-After became %s; a day is the most", wait)
	}
	stop()
	w.start(t, config)
	time.Sleep(50 * time.Millisecond)
	if asked, _ := a.seen(); asked != 1 {
		t.Errorf("asked %d times, also after a restart", asked)
	}

	// What makes no sense, and what is no answer, leaves the plan alone.
	for i, bad := range []issuer.RenewalInfo{{Start: start, End: start}, {}, {Start: start.Add(day), End: start}} {
		a.set(bad, nil)
		if i == 1 {
			a.set(bad, errors.New("503"))
		}
		c.set(time.Until(m.AskAt) + time.Second)
		w.engine.Wake()
		next := w.until(t, "x", "asked again", func(n renew.Managed) bool { return n.AskAt.After(m.AskAt) })
		if !next.RenewAt.Equal(m.RenewAt) || !next.WindowStart.Equal(start) {
			t.Errorf("answer %d changed the plan to %+v", i, next)
		}
		m = next
	}

	c.set(time.Until(m.RenewAt) + time.Second)
	w.engine.Wake()
	again := w.until(t, "x", "renewed", func(n renew.Managed) bool { return isIdle(n) && n.LiveID != m.LiveID })
	if _, replaced := a.seen(); len(replaced) != 2 || replaced[0] != nil || replaced[1] == nil {
		t.Errorf("it named %d predecessors", len(replaced))
	}
	spec := again.Spec
	spec.Issuer = "b"
	_, err = w.engine.Update(ctx, "x", spec, "test")
	must(t, err)
	_, err = w.engine.RenewNow(ctx, "x", "test")
	must(t, err)
	w.until(t, "x", "issued by the other", func(n renew.Managed) bool { return isIdle(n) && n.IssuedBy == "b" })
	if _, replaced := b.seen(); len(replaced) != 1 || replaced[0] != nil {
		t.Error("a certificate of one issuer was named to another")
	}

	// A window in the past means now; one in a far future does not outlive the
	// certificate.
	b.set(issuer.RenewalInfo{Start: time.Now().Add(-2 * day), End: time.Now().Add(-day)}, nil)
	_, err = w.engine.AskSoon(ctx, "b", time.Second)
	must(t, err)
	m = w.until(t, "x", "renewed at once", func(n renew.Managed) bool { _, r := b.seen(); return isIdle(n) && len(r) == 2 })
	b.set(issuer.RenewalInfo{Start: m.NotAfter.Add(day), End: m.NotAfter.Add(2 * day)}, nil)
	_, err = w.engine.AskSoon(ctx, "b", time.Second)
	must(t, err)
	m = w.until(t, "x", "planned", func(n renew.Managed) bool { return n.WindowStart.After(n.NotAfter) })
	if left := m.NotAfter.Sub(m.RenewAt); left < 5*day {
		t.Errorf("it is renewed %s before its end", left)
	}
}

// hasty is an issuer whose certificates are all brought forward once more while
// it is asked, so that whoever asks loses the lease.
type hasty struct {
	*advised
	engine func() *renew.Engine
	times  int
}

// RenewalInfo implements issuer.Informer.
func (h *hasty) RenewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	info, err := h.advised.RenewalInfo(ctx, leaf)
	if info.Explanation == "" || h.times > 0 {
		return info, err
	}
	h.times++
	_, err = h.engine().AskSoon(ctx, "own", time.Millisecond)
	return info, err
}

// People are told why a certificate is replaced at once, also when whoever was
// about to say so lost its lease.
func TestHurryIsToldAfterALostLease(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	h := &hasty{advised: &advised{Issuer: w.own}, engine: func() *renew.Engine { return w.engine }}
	w.engine = w.open(renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: h}}})
	run(t, w.engine)
	_, err := w.engine.Create(ctx, renew.Spec{Name: "x", Names: names(t, "x.example.test"), Issuer: "own"}, "test")
	must(t, err)
	m := w.until(t, "x", "idle", isIdle)
	h.set(issuer.RenewalInfo{Start: time.Now().Add(-2 * time.Hour), End: time.Now().Add(-time.Hour), Explanation: "https://ca.test/why"}, nil)
	_, err = w.engine.AskSoon(ctx, "own", time.Millisecond)
	must(t, err)
	w.until(t, "x", "renewed", func(n renew.Managed) bool { return isIdle(n) && n.LiveID != m.LiveID })
	if n := w.journal(t, "managed.hurry"); h.times != 1 || n == 0 {
		t.Errorf("people are told %d times", n)
	}
}
