package alert_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/alert"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/loop"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

const day = 24 * time.Hour

// world is a service with channels that write down what they are given.
type world struct {
	db    *db.DB
	inv   *inventory.Store
	s     *alert.Service
	now   time.Time
	sent  map[string][]alert.Message
	fails map[string]error
	key   *ecdsa.PrivateKey
	n     int64
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T, d *db.DB, channels ...alert.Channel) *world {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	w := &world{db: d, inv: inventory.New(d), now: time.Now().UTC().Truncate(time.Second), sent: map[string][]alert.Message{}, fails: map[string]error{}, key: key}
	if len(channels) == 0 {
		channels = []alert.Channel{{Name: "ops", Severity: alert.Warning}, {Name: "boss", Severity: alert.Critical}}
	}
	for i := range channels {
		name := channels[i].Name
		channels[i].Send = func(_ context.Context, m *alert.Message) error {
			if err := w.fails[name]; err != nil {
				return err
			}
			w.sent[name] = append(w.sent[name], *m)
			return nil
		}
	}
	w.s = alert.New(alert.Config{DB: d, Channels: channels, GroupWait: -1, URL: "https://ca.example", Instance: "ca.example"})
	w.s.Takeover("a", time.Minute, loop.Backoff{Base: time.Minute, Max: time.Minute})
	return w
}

// certificate puts one into the inventory that ends after left of life.
func (w *world) certificate(t *testing.T, source inventory.Source, name, team string, life, left time.Duration) string {
	t.Helper()
	w.n++
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(w.n + 1000), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: w.now.Add(left - life), NotAfter: w.now.Add(left)}, &x509.Certificate{Subject: pkix.Name{CommonName: "some CA"}}, &w.key.PublicKey, w.key)
	check(t, err)
	id := db.NewID(w.now)
	res, err := w.inv.Put(context.Background(), []inventory.Observation{{ID: id, DER: der, Source: source, SeenAt: w.now, Team: team}}, w.now)
	check(t, err)
	if len(res.Refused) > 0 {
		t.Fatal(res.Refused)
	}
	return id
}

// only leaves one built-in rule switched on, changed by f.
func (w *world) only(t *testing.T, name string, f func(*alert.Rule)) {
	t.Helper()
	all, err := alert.Rules(context.Background(), w.db.Read())
	check(t, err)
	for _, r := range all {
		r.Enabled = r.Name == name
		if r.Enabled && f != nil {
			f(&r)
		}
		_, err := w.s.PutRule(context.Background(), r, "test", w.now)
		check(t, err)
	}
}

// tick evaluates, notifies and sends after some time.
func (w *world) tick(t *testing.T, after time.Duration) {
	t.Helper()
	w.now = w.now.Add(after)
	_, err := w.s.Evaluate(context.Background(), w.now)
	check(t, err)
	_, err = w.s.Notify(context.Background(), w.now)
	check(t, err)
	for _, c := range w.s.Channels() {
		_, err = w.s.Deliver(context.Background(), c.Name, w.now)
		check(t, err)
	}
}

// said is what a channel was told, a line per message.
func (w *world) said(channel string) (out []string) {
	for _, m := range w.sent[channel] {
		line := string(m.Event)
		for _, a := range m.Alerts {
			line += " " + a.Subject
		}
		out = append(out, line)
	}
	return out
}

func (w *world) expect(t *testing.T, channel string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, w.said(channel)); diff != "" {
		t.Fatalf("%s was told (-want +got)\n%s", channel, diff)
	}
}

func (w *world) alerts(t *testing.T, state alert.State) []alert.Alert {
	t.Helper()
	list, err := alert.List(context.Background(), w.db.Read(), alert.Filter{State: state}, "", 1000)
	check(t, err)
	return list
}

func TestCertificateIsToldOnceAndItsRenewalEndsIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "certificate-ending", nil)
		old := w.certificate(t, inventory.FromImport, "a.example", "web", 100*day, 19*day)
		w.certificate(t, inventory.FromImport, "b.example", "web", 100*day, 21*day) // a fifth is 20 days
		w.certificate(t, inventory.FromImport, "c.example", "web", 1000*day, 40*day)
		for range 3 {
			w.tick(t, time.Hour)
		}
		w.expect(t, "ops", "fire certificate:"+old)
		w.expect(t, "boss") // a warning is not for everybody
		w.certificate(t, inventory.FromImport, "a.example", "web", 100*day, 99*day)
		w.tick(t, time.Hour)
		w.tick(t, time.Hour)
		w.expect(t, "ops", "fire certificate:"+old, "resolve certificate:"+old)
		if got := w.alerts(t, alert.Resolved); len(got) != 1 || got[0].ResolvedAt != w.now.Add(-time.Hour) {
			t.Error(got)
		}
	})
}

func TestCertificateThatEndedGoesOnFiring(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "certificate-last-call", nil)
		id := w.certificate(t, inventory.FromImport, "a.example", "", 90*day, day)
		w.tick(t, 0)
		_, err := w.inv.Sweep(context.Background(), w.now.Add(2*day), 1000)
		check(t, err)
		w.tick(t, 2*day)
		w.expect(t, "boss", "fire certificate:"+id)
		w.tick(t, 7*day)
		w.expect(t, "boss", "fire certificate:"+id, "resolve certificate:"+id)
	})
}

// qDismiss is what ctwatch does when somebody acknowledges a finding.
var qDismiss = db.SQL("test.dismiss_finding", `INSERT INTO ct_finding (id, key, state, log, leaf_index, logged_at, precert, fingerprint, serial, spki_hash, issuer, names, matched, not_before, not_after, der, found_at, decided_by, comment)
	SELECT 'f', $2, 'acknowledged', 'willow', 0, 0, 1, '', serial, spki_hash, '', '', '', 0, 0, $2, 0, 'test', '' FROM inventory WHERE id = $1`)

func TestUnknownCertificate(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "unknown-certificate", nil)
		also := func(id string, source inventory.Source) {
			t.Helper()
			c, err := w.inv.Get(context.Background(), id)
			check(t, err)
			res, err := w.inv.Put(context.Background(), []inventory.Observation{{Fingerprint: c.Fingerprint, Source: source, SeenAt: w.now}}, w.now)
			check(t, err)
			if len(res.Refused) > 0 {
				t.Fatal(res.Refused)
			}
		}
		also(w.certificate(t, inventory.FromCA, "ours.example", "", 90*day, 80*day), inventory.FromCT)
		bad := w.certificate(t, inventory.FromCT, "stranger.example", "", 90*day, 80*day)
		w.certificate(t, inventory.FromScan, "scanned.example", "", 90*day, 80*day)
		w.tick(t, time.Minute)
		w.tick(t, time.Hour)
		w.expect(t, "boss", "fire certificate:"+bad)
		also(bad, inventory.FromRenew)
		w.tick(t, time.Hour)
		w.expect(t, "boss", "fire certificate:"+bad, "resolve certificate:"+bad)

		// One that somebody dismissed needs nobody any more.
		known := w.certificate(t, inventory.FromCT, "partner.example", "", 90*day, 80*day)
		w.tick(t, time.Hour)
		w.expect(t, "boss", "fire certificate:"+bad, "resolve certificate:"+bad, "fire certificate:"+known)
		_, err := d.Read().Exec(context.Background(), qDismiss, known, []byte("k"))
		check(t, err)
		w.tick(t, time.Hour)
		w.expect(t, "boss", "fire certificate:"+bad, "resolve certificate:"+bad, "fire certificate:"+known, "resolve certificate:"+known)
	})
}

func (w *world) probe(t *testing.T, id, failure string) {
	t.Helper()
	o := inventory.Observation{Source: inventory.FromScan, SeenAt: w.now, Endpoint: &inventory.Sighting{Host: "www.example", Port: 443, SNI: "www.example", Address: "192.0.2.1", Probe: "observe", Failure: failure}}
	if failure == "" {
		c, err := w.inv.Get(context.Background(), id)
		check(t, err)
		o.Fingerprint = c.Fingerprint
	}
	res, err := w.inv.Put(context.Background(), []inventory.Observation{o}, w.now)
	check(t, err)
	if len(res.Refused) > 0 {
		t.Fatal(res.Refused)
	}
}

func TestEndpointFailsSoManyTimesOfSoMany(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "endpoint-failing", nil) // 3 of 5
		id := w.certificate(t, inventory.FromImport, "www.example", "", 90*day, 80*day)
		const subject = "endpoint:www.example:443@192.0.2.1"
		step := func(failure string, want ...string) {
			t.Helper()
			w.now = w.now.Add(10 * time.Minute)
			w.probe(t, id, failure)
			w.tick(t, 2*time.Minute)
			w.tick(t, 2*time.Minute) // the same probe counts once
			w.expect(t, "ops", want...)
		}
		step("")
		step("refused")
		step("")
		step("refused")
		step("")
		step("timeout-tls", "fire "+subject) // the third failure of the last five
		step("refused", "fire "+subject)
		step("", "fire "+subject, "resolve "+subject)
		step("refused", "fire "+subject, "resolve "+subject)
	})
}

func TestDriftMustLast(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "endpoint-drift", nil) // for an hour
		served := w.certificate(t, inventory.FromImport, "www.example", "", 90*day, 80*day)
		other := w.certificate(t, inventory.FromImport, "www.example", "x", 90*day, 80*day)
		w.probe(t, served, "")
		desire := func(id string) {
			check(t, w.inv.Desire(context.Background(), []inventory.Desired{{Host: "www.example", Port: 443, SNI: "www.example", CertificateID: id}}, w.now))
		}
		desire(other)
		w.tick(t, time.Minute)
		if got := w.alerts(t, alert.Pending); len(got) != 1 {
			t.Fatal(got)
		}
		desire(served) // in time
		w.tick(t, 30*time.Minute)
		desire(other)
		w.tick(t, 31*time.Minute)
		w.expect(t, "ops")
		w.tick(t, 61*time.Minute)
		w.expect(t, "ops", "fire endpoint:www.example:443@192.0.2.1")
	})
}

func (w *world) journal(t *testing.T, kind, subject string) {
	t.Helper()
	check(t, w.db.Write(context.Background(), func(tx *db.Tx) error {
		return audit.Append(tx, audit.Entry{At: w.now, Kind: audit.Kind(kind), Actor: "test", Subject: subject})
	}))
	_, err := audit.Sequence(context.Background(), w.db, 1000)
	check(t, err)
}

func TestJournalEntries(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.journal(t, "managed.stop", "managed:old") // history
		w.only(t, "renewal-failing", nil)
		w.tick(t, time.Minute)
		w.journal(t, "managed.stop", "managed:a")
		w.journal(t, "managed.deploy_failed", "managed:b")
		w.journal(t, "certificate.issue", "certificate:c")
		w.tick(t, time.Minute)
		w.journal(t, "managed.renew", "managed:a")
		w.tick(t, time.Minute)
		w.tick(t, time.Minute)
		w.expect(t, "boss", "fire managed:a managed:b", "resolve managed:a")
		w.tick(t, 8*day) // it lasts seven days
		w.expect(t, "boss", "fire managed:a managed:b", "resolve managed:a", "resolve managed:b")
	})
}

func TestJournalThatWasChanged(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "journal-mismatch", nil)
		w.journal(t, "x.y", "z:1")
		w.tick(t, time.Minute)
		w.expect(t, "boss")
		check(t, d.Write(context.Background(), func(tx *db.Tx) error { _, err := tx.Exec(context.Background(), qTamper); return err }))
		w.tick(t, time.Hour)
		w.expect(t, "boss", "fire journal")
	})
}

var (
	qTamper  = db.SQL("alerttest.tamper", `UPDATE journal SET actor = 'nobody' WHERE seq = 1`)
	qFinding = db.SQL("alerttest.finding", `INSERT INTO finding (certificate_id, invariant, problem, found_at) VALUES ($1, $2, $3, $4)`)
	qCA      = db.SQL("alerttest.authority", `INSERT INTO authority (id, ca, name, role, state, key_type, key_ref, not_after, shards, created_at) VALUES ($1, 'default', $1, 'issuing', 'active', 'p256', 'x', $2, 1, $3)`)
	qCRL     = db.SQL("alerttest.crl", `INSERT INTO crl (authority_id, shard, number, this_update, next_update, dirty_at, der) VALUES ($1, $2, 1, $3, $4, $5, $6)`)
	qLate    = db.SQL("alerttest.schedule", `INSERT INTO scan_schedule (id, name, targets, kind, site, period_ms, jitter_ms, enabled, next_at, created_by, created_at, updated_at) VALUES ($1, $1, '', 'observe', '', 1, 0, 1, $2, '', 0, 0)`)
	qOutbox  = db.SQL("alerttest.outbox", `INSERT INTO status_outbox (sink, target, number, since, due_at, attempts, error) VALUES ('purge', 'x', 1, $1, 0, 3, 'refused')`)
)

// TestOurOwnHouse covers the rules about authorities, revocation, the checker
// and scans.
func TestOurOwnHouse(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		check(t, d.Write(ctx, func(tx *db.Tx) error {
			tx.Queue(qCA, nil, "young", w.now.Add(1000*day), w.now.Add(-10*day))
			tx.Queue(qCA, nil, "old", w.now.Add(100*day), w.now.Add(-1000*day))
			tx.Queue(qCRL, nil, "young", 0, w.now, w.now.Add(4*day), nil, []byte("x"))
			tx.Queue(qCRL, nil, "young", 1, w.now.Add(-4*day), w.now.Add(time.Hour), nil, []byte("x"))
			tx.Queue(qCRL, nil, "young", 2, w.now, w.now.Add(4*day), w.now.Add(-time.Hour), []byte("x"))
			tx.Queue(qFinding, nil, "c1", "lint", "bad", w.now)
			tx.Queue(qFinding, nil, "c1", "lint", "worse", w.now)
			tx.Queue(qLate, nil, "nightly", w.now.Add(-2*time.Hour))
			tx.Queue(qLate, nil, "weekly", w.now.Add(time.Hour))
			tx.Queue(qOutbox, nil, w.now.Add(-time.Hour))
			return nil
		}))
		w.tick(t, time.Minute)
		want := []string{"authority:old", "certificate:c1/lint", "crl:young/1", "crl:young/2", "outbox:purge", "schedule:nightly"}
		var got []string
		for _, a := range w.alerts(t, alert.Firing) {
			got = append(got, a.Subject)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestSilenceHoldsBackAndThenTells(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		w.only(t, "certificate-ending", nil)
		web := w.certificate(t, inventory.FromImport, "a.example", "web", 100*day, 10*day)
		mail := w.certificate(t, inventory.FromImport, "b.example", "mail", 100*day, 11*day)
		sil, err := w.s.AddSilence(ctx, alert.Silence{Matchers: []alert.Matcher{"team=w*", "severity!=critical"}, Reason: "migration", EndsAt: w.now.Add(3 * time.Hour), CreatedBy: "test"}, w.now)
		check(t, err)
		w.tick(t, time.Hour)
		w.expect(t, "ops", "fire certificate:"+mail)
		if a := w.alerts(t, alert.Firing); len(a) != 2 || a[0].SilenceID != sil.ID && a[1].SilenceID != sil.ID {
			t.Error(a)
		}
		w.tick(t, time.Hour)
		w.expect(t, "ops", "fire certificate:"+mail)
		w.tick(t, time.Hour) // it ends
		w.expect(t, "ops", "fire certificate:"+mail, "fire certificate:"+web)
		if err := w.s.EndSilence(ctx, sil.ID, "test", w.now); !fault.Is(err, fault.NotFound) {
			t.Errorf("ended twice: %v", err)
		}
	})
}

func TestEscalation(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "certificate-ending", func(r *alert.Rule) {
			r.Channels, r.EscalateAfter, r.EscalateTo = []string{"ops"}, alert.Span(4*time.Hour), []string{"boss"}
		})
		a := w.certificate(t, inventory.FromImport, "a.example", "", 100*day, 10*day)
		for range 6 {
			w.tick(t, time.Hour)
		}
		w.expect(t, "ops", "fire certificate:"+a)
		w.expect(t, "boss", "escalate certificate:"+a)
		w.certificate(t, inventory.FromImport, "a.example", "", 100*day, 99*day)
		w.tick(t, time.Hour)
		w.expect(t, "boss", "escalate certificate:"+a, "resolve certificate:"+a)
	})
}

func TestOutageOfAChannel(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		w.only(t, "unknown-certificate", nil)
		a := w.certificate(t, inventory.FromCT, "a.example", "", 90*day, 80*day)
		w.fails["ops"] = errors.New("connection refused")
		w.tick(t, time.Minute)
		b := w.certificate(t, inventory.FromCT, "b.example", "", 90*day, 80*day)
		w.tick(t, time.Hour)
		w.expect(t, "boss", "fire certificate:"+a, "fire certificate:"+b) // is not held up
		w.fails["ops"] = nil
		w.s.Takeover("after a restart", time.Minute, loop.Backoff{})
		w.tick(t, time.Hour)
		w.tick(t, time.Hour)
		w.expect(t, "ops", "fire certificate:"+a, "fire certificate:"+b) // each once, in order
		all, err := alert.Deliveries(ctx, d.Read(), "", 10)
		check(t, err)
		if len(all) != 4 || slices.ContainsFunc(all, func(d alert.Delivery) bool { return d.State != "sent" }) {
			t.Error(all)
		}
	})
}

func TestMessageIsGivenUp(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		w.only(t, "unknown-certificate", nil)
		w.certificate(t, inventory.FromCT, "a.example", "", 90*day, 80*day)
		w.fails["ops"] = alert.Permanent(errors.New("answered 400"))
		w.fails["boss"] = errors.New("connection refused")
		w.tick(t, time.Minute)
		w.tick(t, 23*time.Hour)
		state := func() string {
			all, err := alert.Deliveries(ctx, d.Read(), "", 10)
			check(t, err)
			out := []string{}
			for _, d := range all {
				out = append(out, fmt.Sprint(d.Channel, " ", d.State, " ", d.Attempts, " ", d.Error))
			}
			slices.Sort(out)
			return strings.Join(out, "; ")
		}
		if got := state(); got != "boss waiting 2 connection refused; ops failed 1 answered 400" {
			t.Error(got)
		}
		w.tick(t, 2*time.Hour)
		if got := state(); got != "boss failed 3 connection refused; ops failed 1 answered 400" {
			t.Error(got)
		}
	})
}

// TestDeathBetweenSendAndMark: the channel took the message, and nobody wrote
// it down. It comes again, under the same id, and not before the lease ends.
func TestDeathBetweenSendAndMark(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		dying, die := context.WithCancel(context.Background())
		_, err := w.s.TestChannel(dying, "ops", w.now)
		check(t, err)
		w.fails["ops"] = nil
		ops := &w.s.Channels()[1] // after "boss"
		send := ops.Send
		ops.Send = func(ctx context.Context, m *alert.Message) error {
			check(t, send(ctx, m))
			die() // as a kill would: nothing after this is stored
			return context.Canceled
		}
		_, err = w.s.Deliver(dying, "ops", w.now)
		check(t, err)
		ops.Send = send
		w.s.Takeover("another process", time.Minute, loop.Backoff{})
		_, err = w.s.Deliver(context.Background(), "ops", w.now.Add(time.Minute))
		check(t, err)
		w.expect(t, "ops", "test") // still leased
		_, err = w.s.Deliver(context.Background(), "ops", w.now.Add(3*time.Minute))
		check(t, err)
		w.expect(t, "ops", "test", "test")
		if a, b := w.sent["ops"][0], w.sent["ops"][1]; a.ID != b.ID || a.ID == "" {
			t.Errorf("ids %q and %q", a.ID, b.ID)
		}
	})
}

// TestTwoProcesses: an alert is found and told once, whoever does it.
func TestTwoProcesses(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "unknown-certificate", nil)
		a := w.certificate(t, inventory.FromCT, "a.example", "", 90*day, 80*day)
		other := alert.New(alert.Config{DB: d, Channels: w.s.Channels(), GroupWait: -1})
		done := make(chan error)
		for _, s := range []*alert.Service{w.s, other, w.s, other} {
			go func() {
				ctx := context.Background()
				_, err1 := s.Evaluate(ctx, w.now)
				_, err2 := s.Notify(ctx, w.now)
				done <- errors.Join(err1, err2)
			}()
		}
		for range 4 {
			check(t, <-done)
		}
		w.now = w.now.Add(2 * time.Minute)
		w.tick(t, 0)
		w.tick(t, 2*time.Minute)
		w.expect(t, "boss", "fire certificate:"+a)
	})
}

func TestManyAlertsAreFewMessages(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.only(t, "certificate-ending", nil)
		for i := range 250 {
			w.certificate(t, inventory.FromImport, fmt.Sprintf("h%d.example", i), "", 100*day, 10*day)
		}
		w.tick(t, time.Minute)
		var sizes []int
		for _, m := range w.sent["ops"] {
			sizes = append(sizes, len(m.Alerts))
		}
		if diff := cmp.Diff([]int{100, 100, 50}, sizes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRuleIsSwitchedOffAndReset(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		w.only(t, "unknown-certificate", nil)
		a := w.certificate(t, inventory.FromCT, "a.example", "", 90*day, 80*day)
		w.tick(t, time.Minute)
		r, err := alert.FindRule(ctx, d.Read(), "unknown-certificate")
		check(t, err)
		r.Enabled = false
		r, err = w.s.PutRule(ctx, r, "test", w.now)
		check(t, err)
		if !r.Changed || !r.BuiltIn { // it can still be had as shipped
			t.Errorf("%+v", r)
		}
		w.tick(t, time.Minute)
		w.expect(t, "boss", "fire certificate:"+a, "resolve certificate:"+a)
		for f, want := range map[alert.Filter]int{{State: alert.Resolved}: 1, {State: alert.Resolved, Rule: r.Name}: 1, {State: alert.Resolved, Rule: r.Name, Severity: r.Severity}: 1,
			{State: alert.Resolved, Rule: "scan-late"}: 0, {State: alert.Resolved, Severity: alert.Info}: 0, {State: alert.Firing, Rule: r.Name}: 0} {
			list, err := alert.List(ctx, d.Read(), f, "", 10)
			if err != nil || len(list) != want {
				t.Errorf("%+v: %d alerts, %v", f, len(list), err)
			}
		}
		check(t, w.s.DropRule(ctx, r.Name, "test", w.now))
		w.tick(t, time.Minute)
		w.expect(t, "boss", "fire certificate:"+a, "resolve certificate:"+a, "fire certificate:"+a) // another episode
		if err := w.s.DropRule(ctx, r.Name, "test", w.now); !fault.Is(err, fault.Conflict) {
			t.Error(err)
		}
		kinds := []string{}
		recs, err := audit.BySubject(ctx, d.Read(), "alert-rule:"+r.Name, "", 10)
		check(t, err)
		for _, rec := range recs {
			kinds = append(kinds, string(rec.Kind))
		}
		if diff := cmp.Diff([]string{"alert.put_rule", "alert.put_rule", "alert.delete_rule"}, kinds); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPreviewStoresNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		a := w.certificate(t, inventory.FromImport, "a.example", "web", 100*day, 50*day)
		w.certificate(t, inventory.FromImport, "b.example", "mail", 100*day, 50*day)
		rule := alert.Rule{Name: "mine", Kind: "certificate-expiry", Severity: alert.Info, Match: []alert.Matcher{"team=web"}, Params: alert.Params{Share: 0.6, Within: alert.Span(60 * day)}}
		got, more, err := w.s.Preview(ctx, rule, 10, w.now)
		check(t, err)
		if more || len(got) != 1 || got[0].Subject != "certificate:"+a {
			t.Error(got, more)
		}
		if n := len(w.alerts(t, alert.Firing)) + len(w.alerts(t, alert.Pending)); n != 0 {
			t.Errorf("%d alerts", n)
		}
	})
}

func TestRulesThatAreWrong(t *testing.T) {
	good := alert.Rule{Name: "x", Kind: "certificate-expiry", Severity: alert.Info, Params: alert.Params{Share: 0.5, Within: alert.Span(day)}}
	check(t, good.Check([]string{"ops"}))
	for name, f := range map[string]func(*alert.Rule){
		"name":     func(r *alert.Rule) { r.Name = "A b" },
		"kind":     func(r *alert.Rule) { r.Kind = "weather" },
		"severity": func(r *alert.Rule) { r.Severity = "bad" },
		"channels": func(r *alert.Rule) { r.Channels = []string{"nobody"} },
		"escalate": func(r *alert.Rule) { r.EscalateTo = []string{"ops"} },
		"share":    func(r *alert.Rule) { r.Share = 1.5 },
		"within":   func(r *alert.Rule) { r.Within = 0 },
		"entries":  func(r *alert.Rule) { r.Entries = []string{"a.*"} },
		"failures": func(r *alert.Rule) { r.Kind, r.Params = "endpoint-failing", alert.Params{Failures: 6, Of: 5} },
		"label":    func(r *alert.Rule) { r.Match = []alert.Matcher{"team"} },
		"any": func(r *alert.Rule) {
			r.Kind, r.Params = "journal-entry", alert.Params{Entries: []string{"*"}, Lasts: 1e9}
		},
	} {
		r := good
		f(&r)
		if err := r.Check([]string{"ops"}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, r := range alert.Defaults() {
		check(t, r.Check(nil))
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.bc", false}, {"a.*", "a.b", true}, {"a.*", "b.a.", false}, {"*.b", "a.b", true}, {"*.b", "a.bc", false},
		{"a*a", "a", false}, {"a*a", "aa", true}, {"*b*", "abc", true}, {"*b*", "ac", false}, {"a*b*c", "a-b-c", true}, {"a*b*c", "a-c-b", false},
		{"*ab*ab", "ab", false}, {"*ab*ab", "abab", true}, {"**", "", true}, {"", "", true}, {"", "a", false},
	} {
		if got := alert.Glob(c.pattern, c.text); got != c.want {
			t.Errorf("%q fits %q: %v", c.text, c.pattern, got)
		}
	}
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b", "axxb")
	f.Add("*", "")
	f.Add("a*a", "a")
	f.Fuzz(func(t *testing.T, pattern, text string) {
		if !alert.Glob("*", text) || !alert.Glob(text+"*", text) || !strings.Contains(text, "*") && !alert.Glob(text, text) {
			t.Errorf("%q does not fit itself", text)
		}
		if !strings.Contains(pattern, "*") && alert.Glob(pattern, text) != (pattern == text) {
			t.Errorf("%q and %q", pattern, text)
		}
	})
}

// TestOldThingsAreSwept: what is over can be read for a while, no longer.
func TestOldThingsAreSwept(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w, ctx := newWorld(t, d), context.Background()
		w.only(t, "certificate-last-call", nil)
		w.certificate(t, inventory.FromImport, "a.example", "", 90*day, day)
		w.tick(t, 0)
		w.tick(t, 20*day)
		_, err := w.s.Sweep(ctx, w.now.Add(89*day))
		check(t, err)
		if got := w.alerts(t, alert.Resolved); len(got) != 1 {
			t.Fatal(got)
		}
		_, err = w.s.Sweep(ctx, w.now.Add(91*day))
		check(t, err)
		all, err := alert.Deliveries(ctx, d.Read(), "", 10)
		check(t, err)
		if got := w.alerts(t, alert.Resolved); len(got)+len(all) != 0 {
			t.Error(got, all)
		}
	})
}
