package renew

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/limit"
)

// PlanQuery asks what is ahead.
type PlanQuery struct {
	Days     int           // 1 to 400
	Lifetime time.Duration // life of every certificate from its next renewal on; 0 = as now
	Issuer   string        // whose certificates; "" = all
	Import   int           // certificates that come on top, today, at Issuer
}

// Plan is the load of the days ahead.
type Plan struct {
	Days    []PlanDay
	Issuers []IssuerPlan // by name
}

// PlanDay is one UTC day.
type PlanDay struct {
	Date     time.Time
	Orders   int            // certificates that fall due
	ByIssuer map[string]int // of these
	Deferred int            // that have to wait for another day, because a budget is used up
}

// IssuerPlan sums up one issuer.
type IssuerPlan struct {
	Name         string
	Certificates int
	PerDay       float64   // orders in the long run
	PerDayNow    float64   // the same with the lives that certificates have now
	Peak         int       // most orders of one day
	PeakAt       time.Time // that day
	Capacity     float64   // orders a day that the account's budget allows; 0 = not limited
	Budget       string    // the budget, for people
	ClearedAt    time.Time // the first day without deferred orders after the last with some; zero = never deferred
	Enough       bool      // nothing is left waiting at the end
}

// planGroup is a number of certificates that behave alike.
type planGroup struct {
	issuer string
	day    int64 // of the next renewal, in days since 1970
	life   int64 // in days; 0 = no certificate yet
	n      int
}

var qPlanGroups = db.SQL("renew.count_plan", `SELECT issuer, COALESCE(renew_at, created_at) / 86400000, COALESCE(not_after - not_before + 1000, 0) / 86400000, count(*)
	FROM managed WHERE drill_id IS NULL AND paused = 0 GROUP BY 1, 2, 3`, db.Scan("a plan is about every certificate; asked for by people"), db.Long("the same"))

// maxPlanDays bounds a plan.
const maxPlanDays = 400

// Plan computes the load of the days ahead.
func (e *Engine) Plan(ctx context.Context, pq PlanQuery) (Plan, error) {
	switch {
	case pq.Days < 1 || pq.Days > maxPlanDays:
		return Plan{}, fault.New(fault.Invalid, "a plan is for 1 to %d days", maxPlanDays)
	case pq.Lifetime != 0 && (pq.Lifetime < 24*time.Hour || pq.Lifetime > 3*366*24*time.Hour):
		return Plan{}, fault.New(fault.Invalid, "a lifetime is 1 day to 3 years, such as 47d")
	case pq.Import < 0 || pq.Import > 100_000_000 || pq.Import > 0 && e.issuers[pq.Issuer] == nil:
		return Plan{}, fault.New(fault.Invalid, "to plan an import, name its issuer; %s", e.choices())
	case pq.Issuer != "" && e.issuers[pq.Issuer] == nil:
		return Plan{}, fault.New(fault.NotFound, "there is no issuer %.64q; %s", pq.Issuer, e.choices())
	}
	groups, err := db.List(ctx, e.db.Read(), qPlanGroups, func(r *db.Row) planGroup { return planGroup{r.Text(), r.Int64(), r.Int64(), r.Int()} })
	if err != nil {
		return Plan{}, fmt.Errorf("count certificates: %w", err)
	}
	today := e.now().Unix() / 86400
	if pq.Import > 0 {
		groups = append(groups, planGroup{pq.Issuer, today, 0, pq.Import})
	}
	if pq.Issuer != "" {
		groups = slices.DeleteFunc(groups, func(g planGroup) bool { return g.issuer != pq.Issuer })
	}
	budgets := map[string]Budget{}
	for name, i := range e.issuers {
		for _, b := range i.Budgets {
			if b.Scope == limit.PerAccount {
				budgets[name] = b
			}
		}
	}
	return simulate(groups, budgets, today, pq.Days, int64(pq.Lifetime/(24*time.Hour))), nil
}

// newLife is what a certificate that does not exist yet is planned with, in days.
const newLife = 90

// every returns after how many days a certificate of a life is renewed.
func every(life int64) float64 {
	if life < 10 {
		return max(float64(life)/2, 1)
	}
	return float64(life)*2/3 + float64(life)/48 // the middle of its window
}

// demand is the load of one issuer on one day.
type demand struct{ first, again int }

// simulate walks through the days. It is a pure function, so that what a plan
// says can be tested against what a year brings.
func simulate(groups []planGroup, budgets map[string]Budget, today int64, days int, lifetime int64) Plan {
	load := map[string][]demand{}
	sums := map[string]*IssuerPlan{}
	for _, g := range groups {
		if load[g.issuer] == nil {
			load[g.issuer] = make([]demand, days)
			sums[g.issuer] = &IssuerPlan{Name: g.issuer, Enough: true}
		}
		life, was := lifetime, g.life
		if was == 0 {
			was = newLife
		}
		if life == 0 {
			life = was
		}
		s := sums[g.issuer]
		s.Certificates += g.n
		s.PerDay += float64(g.n) / every(life)
		s.PerDayNow += float64(g.n) / every(was)
		at := max(g.day, today)
		for k, d := 0, float64(at-today); d < float64(days); k, d = k+1, d+every(life) {
			if k == 0 && g.life == 0 {
				load[g.issuer][int(d)].first += g.n
			} else {
				load[g.issuer][int(d)].again += g.n
			}
		}
	}
	p := Plan{Days: make([]PlanDay, days)}
	for i := range p.Days {
		p.Days[i] = PlanDay{Date: time.Unix((today+int64(i))*86400, 0).UTC(), ByIssuer: map[string]int{}}
	}
	for _, name := range slices.Sorted(maps.Keys(load)) {
		s := sums[name]
		b, limited := budgets[name]
		if limited {
			s.Capacity, s.Budget = float64(b.Rate.Count)*float64(24*time.Hour)/float64(b.Rate.Per), b.Rate.String()
		}
		p.add(s, load[name], limited && b.RenewalExempt)
		p.Issuers = append(p.Issuers, *s)
	}
	return p
}

// add books the load of one issuer, as far as its budget lets it through.
func (p *Plan) add(s *IssuerPlan, load []demand, exempt bool) {
	waiting := 0.0
	for i, d := range load {
		day := &p.Days[i]
		n := d.first + d.again
		day.Orders += n
		if n > 0 {
			day.ByIssuer[s.Name] += n
		}
		if n > s.Peak {
			s.Peak, s.PeakAt = n, day.Date
		}
		if s.Capacity == 0 {
			continue
		}
		counted := float64(n)
		if exempt {
			counted = float64(d.first)
		}
		before := waiting
		waiting = max(waiting+counted-s.Capacity, 0)
		if waiting >= 1 {
			day.Deferred += int(waiting)
		} else if before >= 1 {
			s.ClearedAt = day.Date
		}
	}
	if waiting >= 1 {
		s.Enough = false
	}
}
