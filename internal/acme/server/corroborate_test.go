package server_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/acme/perspective/perspectivetest"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/dns/dnstest"
)

var qJournalOf = db.SQL("servertest.journal", `SELECT kind, data FROM journal WHERE subject = $1 ORDER BY id`)

// watched returns a client of a replica that asks one perspective for each DNS
// server: the world's own is an honest one, any other is deceived. They are
// in two regions by turns.
func (w *world) watched(t testing.TB, c *client, change func(*server.CA), servers ...*dnstest.Server) *client {
	t.Helper()
	d, _ := w.watchedBy(t, c, change, servers...)
	return d
}

// watchedBy is watched that also returns how to stop each perspective.
func (w *world) watchedBy(t testing.TB, c *client, change func(*server.CA), servers ...*dnstest.Server) (d *client, stop []func()) {
	t.Helper()
	cfg := w.cfg
	cfg.Replica, cfg.CAs = 0, maps.Clone(w.cfg.CAs)
	if change != nil {
		forCA(change)(&cfg)
	}
	key := perspectivetest.Key(t)
	var remotes []perspective.Remote
	for i, s := range servers {
		r, end := perspectivetest.Start(t, key, perspectivetest.Where{Name: fmt.Sprintf("p%d", i), Region: []string{"eu", "us"}[i%2], DNS: s.Addr()})
		remotes, stop = append(remotes, r), append(stop, end)
	}
	var err error
	if cfg.Perspectives, err = perspective.New(perspective.Config{Remotes: remotes, Key: key, Timeout: 10 * time.Second, Settle: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cfg.Perspectives.Close)
	d = c.copy()
	d.via = w.handler(w.replica(t, cfg))
	return d, stop
}

// try orders a name and answers its dns-01 challenge.
func (c *client) try(name string) (acme.Order, acme.Challenge) {
	c.t.Helper()
	o, _ := c.order(name)
	return o, c.solve(c.post(o.Authorizations[0], nil).want(http.StatusOK).authz(), challenge.DNS01)
}

func (w *world) evidence(t testing.TB, o acme.Order) []server.Evidence {
	t.Helper()
	list, err := server.ListEvidence(context.Background(), w.db.Read(), lastPart(o.Authorizations[0]))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func (w *world) journal(t testing.TB, o acme.Order) []string {
	t.Helper()
	list, err := db.List(context.Background(), w.db.Read(), qJournalOf, func(r *db.Row) string { return r.Text() + " " + r.Text() },
		"authorization:"+lastPart(o.Authorizations[0]))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPerspectives(t *testing.T) { // Baseline Requirements 3.2.2.9
	each(t, func(t *testing.T, w *world) {
		lying := dnstest.Start(t)
		lying.Add(`_acme-challenge.held.test. 60 IN TXT "owner"`)
		first := w.account(t)

		t.Run("one of five that differs does not block, and is remembered", func(t *testing.T) {
			c := w.watched(t, first, nil, w.dns, lying, w.dns, w.dns, w.dns)
			o, ch := c.try("held.test")
			if ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
			c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "held.test")}).want(http.StatusOK)
			all := w.evidence(t, o)
			if len(all) != 1 || !all[0].Corroborated || all[0].Kind != server.EvidenceValidation || all[0].Method != challenge.DNS01 || len(all[0].Observations) != 5 {
				t.Fatalf("%+v", all)
			}
			if p := all[0].Observations[1]; p.Verdict != challenge.Disagrees || p.Perspective != "p1" || p.Region != "us" || len(p.Steps) != 1 {
				t.Errorf("%+v", p)
			}
			if j := w.journal(t, o); len(j) != 1 || j[0] != `authorization.corroborate {"identifier":"held.test","method":"dns-01","kind":"validation","agree":["p0","p2","p3","p4"],"disagree":["p1"]}` {
				t.Errorf("%v", j)
			}
		})
		t.Run("two of five block: the name is not this account's everywhere", func(t *testing.T) {
			lying.Add(`_acme-challenge.two.test. 60 IN TXT "owner"`)
			c := w.watched(t, first, nil, w.dns, lying, w.dns, lying, w.dns)
			o, ch := c.try("two.test")
			if ch.Status != acme.ChallengeInvalid || ch.Error == nil || !strings.HasSuffix(ch.Error.Type, ":incorrectResponse") || !strings.Contains(ch.Error.Detail, "2 of 5") {
				t.Fatalf("%+v", ch)
			}
			if all := w.evidence(t, o); len(all) != 1 || all[0].Corroborated {
				t.Errorf("%+v", all)
			}
			if j := w.journal(t, o); len(j) != 1 || !strings.HasPrefix(j[0], "authorization.contradict ") {
				t.Errorf("%v", j)
			}
		})
		t.Run("a deceived primary gets nothing", func(t *testing.T) {
			lying.Add(`_acme-challenge.mine.test. 60 IN TXT "owner"`)
			c := w.watched(t, first, nil, lying, lying, lying)
			if _, ch := c.try("mine.test"); ch.Status != acme.ChallengeInvalid {
				t.Errorf("%+v", ch)
			}
		})
		t.Run("silence decides nothing: the challenge can be tried again", func(t *testing.T) {
			c, stop := w.watchedBy(t, first, nil, w.dns, w.dns, w.dns)
			stop[0]()
			stop[1]()
			o, _ := c.order("again.test")
			z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
			ch := find(t, z, challenge.DNS01)
			w.dns.Add("_acme-challenge.again.test. 60 IN TXT " + challenge.DNS01Value(c.keyAuth(ch)))
			c.post(ch.URL, map[string]any{}).problem(http.StatusServiceUnavailable, "serverInternal")
			if all := w.evidence(t, o); len(all) != 1 || all[0].Corroborated || all[0].Observations[0].Verdict != challenge.Silent {
				t.Errorf("%+v", all)
			}
			d := w.watched(t, first, nil, w.dns, w.dns, w.dns)
			if got := d.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge(); got.Status != acme.ChallengeValid {
				t.Errorf("%+v", got)
			}
		})
		t.Run("without perspectives nothing is stored", func(t *testing.T) {
			o, ch := first.try("plain.test")
			if ch.Status != acme.ChallengeValid || len(w.evidence(t, o)) != 0 || len(w.journal(t, o)) != 0 {
				t.Errorf("%+v", ch)
			}
		})
	})
}

// The records may change in the hours between validation and issuance, and
// again in one place alone.
func TestPerspectivesRecheckCAA(t *testing.T) {
	w := lite(t)
	other := []*dnstest.Server{dnstest.Start(t), dnstest.Start(t)}
	c := w.watched(t, w.account(t), nil, other[0], other[1], w.dns)
	o, _ := c.order("caa.test")
	z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
	ka := acme.KeyAuthorization(find(t, z, challenge.DNS01).Token, c.signer.PublicKey().Thumbprint)
	for _, s := range other {
		s.Add(`_acme-challenge.caa.test. 60 IN TXT "` + challenge.DNS01Value(ka) + `"`)
	}
	if ch := c.solve(z, challenge.DNS01); ch.Status != acme.ChallengeValid {
		t.Fatalf("%+v", ch)
	}
	w.exec(t, qForget, lastPart(o.Authorizations[0]))
	for _, s := range other {
		s.Add(`caa.test. 60 IN CAA 0 issue "other.test"`)
	}
	// The agents' answers are up to 5 s old; another CA checks anew.
	d := w.watched(t, c, nil, other[0], other[1], w.dns)
	d.post(o.Finalize, map[string]string{"csr": csr(t, nil, "caa.test")}).problem(http.StatusForbidden, "caa")
	all := w.evidence(t, o)
	if len(all) != 2 || all[1].Corroborated || all[1].Kind != server.EvidenceCAA || all[1].Observations[0].Code != "caa" {
		t.Fatalf("%+v", all)
	}
	other[1].Remove("caa.test.")
	e := w.watched(t, c, nil, w.dns, other[1], w.dns)
	e.post(o.Finalize, map[string]string{"csr": csr(t, nil, "caa.test")}).want(http.StatusOK)
	if all = w.evidence(t, o); len(all) != 3 || !all[2].Corroborated {
		t.Errorf("%+v", all)
	}
}

// What must have been seen from elsewhere is judged when the certificate is
// issued, whenever the proof was made.
func TestPerspectivesAreRequiredAtIssuance(t *testing.T) {
	w := lite(t)
	first := w.account(t)
	need := func(n int) func(*server.CA) { return func(a *server.CA) { a.MinPerspectives = n } }
	o, ch := first.try("old.test")
	if ch.Status != acme.ChallengeValid {
		t.Fatalf("%+v", ch)
	}
	three := []*dnstest.Server{w.dns, w.dns, w.dns}
	c := w.watched(t, first, need(3), three...)
	c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "old.test")}).problem(http.StatusForbidden, "unauthorized")
	if z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz(); z.Status == acme.AuthorizationValid {
		t.Errorf("%+v", z)
	}
	o, ch = c.try("new.test")
	if ch.Status != acme.ChallengeValid {
		t.Fatalf("%+v", ch)
	}
	c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "new.test")}).want(http.StatusOK)

	// More than there are: nobody is looked at in vain.
	few := w.watched(t, first, need(4), three...)
	o, _ = few.order("few.test")
	z := few.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
	few.post(find(t, z, challenge.DNS01).URL, map[string]any{}).problem(http.StatusServiceUnavailable, "serverInternal")
	if w.dns.Count("_acme-challenge.few.test", "TXT") != 0 {
		t.Error("the name was looked at")
	}

	// The public Web PKI wants what its date says, whatever the operator does.
	public := w.watched(t, first, func(a *server.CA) { a.Trust = ca.PublicWebPKI }, three...)
	o, _ = public.order("public.test")
	z = public.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
	public.post(find(t, z, challenge.DNS01).URL, map[string]any{}).problem(http.StatusServiceUnavailable, "serverInternal")
}

// A record of dns-persist-01 that only we see makes no order ready.
func TestPerspectivesJustInTime(t *testing.T) {
	w := lite(t, offer(challenge.DNSPersist01))
	c := w.known(t)
	c.persistRecord("jit.test", "")
	lying := dnstest.Start(t)
	d := w.watched(t, c, nil, lying, lying)
	o, _ := d.order("jit.test")
	if o.Status != acme.OrderPending {
		t.Errorf("%+v", o)
	}
	if all := w.evidence(t, o); len(all) != 1 || all[0].Corroborated {
		t.Errorf("%+v", all)
	}
	e := w.watched(t, c, nil, w.dns, w.dns)
	c.persistRecord("seen.test", "")
	if o, _ = e.order("seen.test"); o.Status != acme.OrderReady {
		t.Errorf("%+v", o)
	}
	if all := w.evidence(t, o); len(all) != 1 || !all[0].Corroborated {
		t.Errorf("%+v", all)
	}
}

// Evidence goes with its authorization.
func TestEvidenceExpires(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.watched(t, w.account(t), nil, w.dns, w.dns)
		o, _ := c.try("gone.test")
		if len(w.evidence(t, o)) != 1 {
			t.Fatal("no evidence")
		}
		if _, err := w.Expire(context.Background(), time.Now().Add(365*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if n := len(w.evidence(t, o)); n != 0 {
			t.Errorf("%d pieces of evidence are left", n)
		}
	})
}
