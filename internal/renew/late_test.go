package renew_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
	"chancery/internal/renew"
)

// slowCA takes an order and issues when it is told to, as a CA whose people
// look at orders.
type slowCA struct {
	issuer.Issuer
	ready     atomic.Bool
	submitted atomic.Int32
	collected atomic.Int32
}

// Issue implements issuer.Issuer.
func (s *slowCA) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	f := rest.Flow{Deadline: time.Millisecond,
		Submit: func(context.Context, *issuer.Request) (string, [][]byte, error) {
			s.submitted.Add(1)
			return "order-1", nil, nil
		},
		Collect: func(ctx context.Context, token string) ([][]byte, error) {
			s.collected.Add(1)
			if !s.ready.Load() {
				time.Sleep(2 * time.Millisecond) // the CA's own time: longer than the deadline
				return nil, rest.ErrPending
			}
			reply, err := s.Issuer.Issue(ctx, r)
			return reply.Chain, err
		}}
	return f.Issue(ctx, r)
}

// A CA that takes longer than its deadline stops the certificate and people are
// told. Its order is kept: started again, the certificate that was issued
// meanwhile is taken, for the key that was sent, and nothing is ordered twice.
func TestCertificateAfterTheDeadlineIsTaken(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		w := newWorld(t, d, t.TempDir(), 24*time.Hour)
		slow := &slowCA{Issuer: w.own}
		w.start(t, renew.Config{Issuers: map[string]*renew.Issuer{"slow": {Issuer: slow}}})
		m, err := w.engine.Create(ctx, renew.Spec{Names: names(t, "late.example.test"), Issuer: "slow"}, "test")
		must(t, err)
		stopped := func(m renew.Managed) bool { return m.State == renew.Stopped }
		m = w.until(t, m.ID, "stopped", stopped)
		if m.WorkID == "" || m.ErrorClass != issuer.Permanent || w.journal(t, "managed.stop") != 1 {
			t.Fatalf("%+v: its order is not kept, or nobody was told", m)
		}
		work := m.WorkID

		// Too early: it stops again, and still has its order.
		before := slow.collected.Load()
		_, err = w.engine.RenewNow(ctx, m.ID, "test")
		must(t, err)
		m = w.until(t, m.ID, "looked at again", func(m renew.Managed) bool { return stopped(m) && slow.collected.Load() > before })
		if m.WorkID != work {
			t.Fatalf("the order %s became %s", work, m.WorkID)
		}

		slow.ready.Store(true)
		_, err = w.engine.RenewNow(ctx, m.ID, "test")
		must(t, err)
		m = w.until(t, m.ID, "idle", isIdle)
		if m.LiveID != work || slow.submitted.Load() != 1 {
			t.Errorf("live is %s of order %s; %d orders were submitted", m.LiveID, work, slow.submitted.Load())
		}
		w.leaf(t, &m)
		w.mustHold(t)
	})
}
