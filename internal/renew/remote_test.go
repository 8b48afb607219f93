package renew_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/issuer"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// An order for names that an agent may not have any more stops where it is, with
// the reason. It is that order which goes on when they are allowed again.
func TestOrderOfForbiddenNamesStops(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)), t.TempDir(), 24*time.Hour)
	var calls atomic.Int64
	slow := issuerFunc(func(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
		if calls.Add(1) == 1 {
			return issuer.Reply{PollAt: time.Now().Add(time.Hour)}, r.Save(ctx, issuer.State{Step: "posted"})
		}
		return w.own.Issue(ctx, r)
	})
	var forbidden atomic.Bool
	id, held := db.NewID(time.Now()), names(t, "agent.example.test")
	key, err := keys.Generate(pki.P256)
	must(t, err)
	csr, err := pki.CreateRequest(key, held)
	must(t, err)
	w.start(t, renew.Config{Issuers: map[string]*renew.Issuer{"own": {Issuer: slow}}, Remote: renew.Remote{
		Request: func(context.Context, string) ([]byte, error) { return csr, nil },
		Permit: func(names []pki.Identifier) error {
			if forbidden.Load() {
				return errors.New("nobody may have " + names[0].Value)
			}
			return nil
		}}})
	_, err = w.engine.CreateRemote(ctx, id, renew.Spec{Names: held, Issuer: "own"}, "test")
	must(t, err)
	ordered := w.until(t, "assignment."+id, "posted", func(m renew.Managed) bool { return m.State == renew.Posted })
	forbidden.Store(true)
	must(t, w.engine.RenewRemote(ctx, id, "test"))
	m := w.until(t, "assignment."+id, "stopped", func(m renew.Managed) bool { return m.State == renew.Stopped })
	if m.WorkID != ordered.WorkID || m.ErrorClass != issuer.Permanent || !strings.Contains(m.Error, "nobody may have agent.example.test") || calls.Load() != 1 {
		t.Errorf("after %d calls: %+v", calls.Load(), m)
	}
	forbidden.Store(false)
	must(t, w.engine.RenewRemote(ctx, id, "test"))
	if m = w.until(t, "assignment."+id, "idle", isIdle); m.LiveID != ordered.WorkID {
		t.Errorf("another order was made: %+v", m)
	}
}
