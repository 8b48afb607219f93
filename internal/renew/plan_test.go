package renew

import (
	"testing"
	"time"

	"chancery/internal/limit"
)

// A fleet of 47-day certificates is renewed every 31 to 32 days, and a plan
// says so.
func TestPlanOfAShorterLife(t *testing.T) {
	const today = 20000
	var groups []planGroup
	for d := range int64(60) {
		groups = append(groups, planGroup{"le", today + d, 90, 1000})
	}
	now := simulate(groups, nil, today, 365, 0)
	then := simulate(groups, nil, today, 365, 47)
	s := then.Issuers[0]
	if s.Certificates != 60000 || s.PerDayNow < 960 || s.PerDayNow > 1000 || s.PerDay < 1.8*s.PerDayNow || s.PerDay > 2*s.PerDayNow {
		t.Errorf("%+v", s)
	}
	if got := now.Issuers[0]; got.PerDay != got.PerDayNow {
		t.Errorf("nothing changes, and yet %+v", got)
	}
	total := func(p Plan) (n int) {
		for _, d := range p.Days {
			n += d.Orders
		}
		return n
	}
	// Each is renewed once before its new life holds.
	if a, b := total(now), total(then); b < a*8/5 || b > 2*a {
		t.Errorf("%d orders a year become %d", a, b)
	}
}

// An import that exceeds a CA's budget takes as long as the plan says: 300
// orders per 3 hours are 2,400 a day.
func TestPlanOfAnImport(t *testing.T) {
	le, err := Preset("letsencrypt")
	if err != nil {
		t.Fatal(err)
	}
	const today = 20000
	p := simulate([]planGroup{{"le", today, 0, 100800}}, map[string]Budget{"le": le[0]}, today, 60, 0)
	s := p.Issuers[0]
	if s.Capacity != 2400 || !s.Enough || s.ClearedAt.Sub(p.Days[0].Date) != 41*24*time.Hour {
		t.Errorf("it takes until %s: %+v", s.ClearedAt, s)
	}
	if p.Days[0].Deferred != 100800-2400 || p.Days[41].Deferred != 0 || p.Days[40].Deferred == 0 {
		t.Errorf("deferred: %d, %d, %d", p.Days[0].Deferred, p.Days[40].Deferred, p.Days[41].Deferred)
	}
	short := simulate([]planGroup{{"le", today, 0, 100800}}, map[string]Budget{"le": le[0]}, today, 30, 0)
	if short.Issuers[0].Enough {
		t.Error("it is not done within 30 days")
	}
	own := Budget{Name: "orders", Scope: limit.PerAccount, Rate: limit.Rate{Count: 10, Per: 24 * time.Hour}}
	again := simulate([]planGroup{{"x", today, 90, 15}}, map[string]Budget{"x": own}, today, 5, 0)
	if again.Days[0].Deferred != 5 || again.Days[1].Deferred != 0 {
		t.Errorf("renewals that count: %+v", again.Days)
	}
}
