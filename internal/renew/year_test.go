package renew_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"chancery/internal/db/dbtest"
	"chancery/internal/issuer"
	"chancery/internal/renew"
)

// weather is an issuer that is down at times, and asks to be asked daily.
type weather struct {
	issuer.Issuer
	begin time.Time
	down  []span
	calls *int
}

// span is a part of the year, in days.
type span struct{ from, to float64 }

func (s span) holds(since time.Duration) bool {
	d := since.Hours() / 24
	return s.from <= d && d < s.to
}

func (w weather) up() error {
	for _, s := range w.down {
		if s.holds(time.Since(w.begin)) {
			return &issuer.Error{Class: issuer.Unavailable, Err: errors.New("connection refused")}
		}
	}
	return nil
}

// Issue implements issuer.Issuer.
func (w weather) Issue(ctx context.Context, r *issuer.Request) (issuer.Reply, error) {
	if err := w.up(); err != nil {
		return issuer.Reply{}, err
	}
	return w.Issuer.Issue(ctx, r)
}

// RenewalInfo implements issuer.Informer.
func (w weather) RenewalInfo(ctx context.Context, leaf *x509.Certificate) (issuer.RenewalInfo, error) {
	if err := w.up(); err != nil {
		return issuer.RenewalInfo{}, err
	}
	info, err := w.Issuer.(issuer.Informer).RenewalInfo(ctx, leaf)
	info.RetryAfter = time.Now().Add(24 * time.Hour)
	return info, err
}

// A year of 45-day certificates, with CAs that are down for up to ten days, a
// target that refuses for a week, a process that restarts, and clocks that jump
// by days and by a year: no certificate expires where it is in use.
func TestSimulatedYear(t *testing.T) {
	if testing.Short() {
		t.Skip("a year takes half a minute")
	}
	synctest.Test(t, func(t *testing.T) {
		const fleet, days = 12, 365
		ctx := context.Background()
		d := dbtest.Open(t, dbtest.SQLiteURL(t))
		defer d.Close()
		w := newWorld(t, d, t.TempDir(), 45*24*time.Hour)
		begin := time.Now()
		first := weather{w.own, begin, []span{{33, 36}, {90, 100}, {200, 200.5}, {300, 309}}, nil}
		second := weather{w.own, begin, []span{{95, 97}, {150, 160}, {300, 304}}, nil}
		f := &folder{dir: t.TempDir()}
		c := newClock()
		config := renew.Config{Now: c.now, Issuers: map[string]*renew.Issuer{
			"first": {Issuer: first, Own: true, Fallbacks: []string{"second"}}, "second": {Issuer: second, Own: true}, "alone": {Issuer: first, Own: true}},
			Targets: map[string]*renew.Place{"folder": {Run: f.run, Collect: 15 * time.Minute}}}
		stop := w.start(t, config)
		for i := range fleet {
			site := fmt.Sprintf("n%d", i)
			_, err := w.engine.Create(ctx, renew.Spec{Name: site, Names: names(t, site+".example.test"), Issuer: []string{"first", "second", "alone"}[i%3],
				Targets: []renew.Target{{Name: "folder", Params: map[string]string{"site": site}}}}, "test")
			must(t, err)
		}
		renewals := map[string]int{}
		last := map[string]string{}
		for hour := 1; hour <= 24*days; hour++ {
			day := float64(hour) / 24
			c.set(jump(day))
			switch hour {
			case 24 * 60, 24 * 250:
				for i := range 6 {
					f.set(fmt.Sprint("n", i), errors.New("the new configuration does not load"))
				}
			case 24 * 67, 24 * 257:
				for i := range 6 {
					f.set(fmt.Sprint("n", i), nil)
				}
			case 24 * 120:
				stop()
				stop = w.start(t, config)
			}
			time.Sleep(time.Hour)
			if hour%6 != 0 {
				continue
			}
			for i := range fleet {
				site := fmt.Sprint("n", i)
				der, err := os.ReadFile(filepath.Join(f.dir, site))
				must(t, err)
				cert, err := x509.ParseCertificate(der)
				must(t, err)
				if !time.Now().Before(cert.NotAfter) {
					m, err := renew.Get(ctx, d.Read(), site)
					must(t, err)
					events, err := renew.Events(ctx, d.Read(), m.ID, 20)
					must(t, err)
					t.Fatalf("day %.1f: %s serves a certificate that ended at %s: %+v\n%+v", day, site, cert.NotAfter, m, events)
				}
				if s := cert.SerialNumber.String(); s != last[site] {
					last[site] = s
					renewals[site]++
				}
			}
		}
		stop()
		for site, n := range renewals {
			// 365 days / 30 to 31 days each, and some more for the jumps.
			if n < 11 || n > 20 {
				t.Errorf("%s was renewed %d times", site, n)
			}
		}
		if f := f.sizes(); len(f) == 0 {
			t.Error("nothing was deployed")
		}
	})
}

// jump is how far the engine's clock is ahead on a day of the year.
func jump(day float64) time.Duration {
	for _, j := range []struct {
		span
		ahead time.Duration
	}{{span{20, 20.2}, 400 * 24 * time.Hour}, {span{70, 72}, -26 * time.Hour}, {span{140, 140.5}, 10 * 24 * time.Hour}, {span{220, 221}, -10 * time.Minute}} {
		if j.holds(time.Duration(day * 24 * float64(time.Hour))) {
			return j.ahead
		}
	}
	return 0
}
