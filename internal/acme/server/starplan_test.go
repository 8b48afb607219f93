package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
)

func instant(t testing.TB, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// The example of RFC 8739 section 3.5.1.
func TestStarScheduleOfTheRFC(t *testing.T) {
	r := &acme.AutoRenewal{StartDate: acme.At(instant(t, "2016-01-10T00:00:00Z")), EndDate: acme.At(instant(t, "2016-01-20T00:00:00Z")),
		Lifetime: 345600, LifetimeAdjust: 259200}
	p := scheduleOf(r, instant(t, "2016-01-01T00:00:00Z"))
	type window struct{ From, To string }
	var got []window
	for i := range p.last() + 1 {
		from, to := p.window(i)
		got = append(got, window{from.Format(time.RFC3339), to.Format(time.RFC3339)})
	}
	want := []window{
		{"2016-01-10T00:00:00Z", "2016-01-14T00:00:00Z"},
		{"2016-01-11T00:00:00Z", "2016-01-18T00:00:00Z"},
		{"2016-01-15T00:00:00Z", "2016-01-20T00:00:00Z"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever the numbers: the next certificate is there when half of the life of
// the present one is over (section 3.3), each is valid when it is published,
// there is no gap, and none outlives the end.
func TestStarScheduleHasNoGap(t *testing.T) {
	start := instant(t, "2026-11-22T12:00:00Z")
	for _, c := range []struct{ lifetime, adjust, end time.Duration }{
		{time.Hour, 0, 10 * time.Hour}, {time.Hour, time.Hour, 10 * time.Hour}, {time.Hour, 50 * time.Minute, 90 * time.Minute},
		{7 * time.Second, 3 * time.Second, time.Minute}, {time.Hour, 0, time.Minute}, {time.Hour, 9 * time.Hour, 2*time.Hour + 1*time.Second},
		{time.Second, 0, 5 * time.Second}, {time.Hour, 0, time.Hour},
	} {
		p := schedule{start: start, end: start.Add(c.end), lifetime: c.lifetime, adjust: c.adjust}
		for i := int64(0); i <= p.last(); i++ {
			from, to := p.window(i)
			if !from.Before(to) || to.After(p.end) || from.Before(start) {
				t.Errorf("%+v: certificate %d lives from %s to %s", c, i, from, to)
			}
			if at, ok := p.at(from); !ok || at < i {
				t.Errorf("%+v: at %s certificate %d is due, want %d", c, from, at, i)
			}
			next := p.next(i)
			if (i == p.last()) != next.IsZero() || i == p.last() && !to.Equal(p.end) {
				t.Errorf("%+v: after the last certificate: %s, %s", c, next, to)
			}
			if i == p.last() {
				break
			}
			if half := p.nominal(i).Add(c.lifetime / 2); next.After(half) || next.After(to) {
				t.Errorf("%+v: certificate %d follows at %s, after half of the life of the one before it", c, i+1, next)
			}
		}
		for _, now := range []time.Time{start.Add(-1), p.end, p.end.Add(time.Hour)} {
			if i, ok := p.at(now); ok {
				t.Errorf("%+v: at %s certificate %d is due", c, now, i)
			}
		}
	}
}
