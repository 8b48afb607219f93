package renew

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// Budget is one limit of a CA, as it publishes it.
type Budget struct {
	Name  string      // part of the key of its rows
	Scope limit.Scope // PerAccount, PerDomain, PerNameSet or PerName
	Rate  limit.Rate

	// ARIExempt orders that replace a certificate (RFC 9773 section 5) do not
	// count; RenewalExempt orders for a set of names that has a certificate do
	// not count.
	ARIExempt, RenewalExempt bool
}

const week = 7 * 24 * time.Hour

// Presets are the published limits of well-known CAs.
//
// Let's Encrypt: https://letsencrypt.org/docs/rate-limits/ and
// https://letsencrypt.org/docs/staging-environment/, as of 2025. Orders with
// ARI's "replaces" are exempt from all of them; failed authorizations are
// counted when they fail.
var presets = map[string][]Budget{
	"none": {},
	"letsencrypt": {
		{Name: "orders", Scope: limit.PerAccount, Rate: limit.Rate{Count: 300, Per: 3 * time.Hour}, ARIExempt: true, RenewalExempt: true},
		{Name: "domain", Scope: limit.PerDomain, Rate: limit.Rate{Count: 50, Per: week}, ARIExempt: true, RenewalExempt: true},
		{Name: "name-set", Scope: limit.PerNameSet, Rate: limit.Rate{Count: 5, Per: week}, ARIExempt: true},
		{Name: "failures", Scope: limit.PerName, Rate: limit.Rate{Count: 5, Per: time.Hour}},
	},
	"letsencrypt-staging": {
		{Name: "orders", Scope: limit.PerAccount, Rate: limit.Rate{Count: 1500, Per: 3 * time.Hour}, ARIExempt: true, RenewalExempt: true},
		{Name: "domain", Scope: limit.PerDomain, Rate: limit.Rate{Count: 30000, Per: week}, ARIExempt: true, RenewalExempt: true},
		{Name: "name-set", Scope: limit.PerNameSet, Rate: limit.Rate{Count: 30000, Per: week}, ARIExempt: true},
		{Name: "failures", Scope: limit.PerName, Rate: limit.Rate{Count: 200, Per: time.Hour}},
	},
}

// Preset returns the published limits of a CA by name, or an invalid fault.
func Preset(name string) ([]Budget, error) {
	if name == "" {
		name = "none"
	}
	b, ok := presets[name]
	if !ok {
		return nil, fault.New(fault.Invalid, "limits %.40q are not known; choose one of %s", name, strings.Join(PresetNames(), ", "))
	}
	return slices.Clone(b), nil
}

// PresetNames lists the presets.
func PresetNames() []string { return []string{"none", "letsencrypt", "letsencrypt-staging"} }

// charge is what one order spends.
type charge struct {
	budget  *Budget
	subject string
}

// charges lists what an order for names spends. replaces says that it names
// its predecessor to the CA that made it, renewal that these names have a
// certificate already.
func charges(budgets []Budget, names []pki.Identifier, replaces, renewal bool) []charge {
	var out []charge
	for i := range budgets {
		b := &budgets[i]
		if b.ARIExempt && replaces || b.RenewalExempt && renewal {
			continue
		}
		for _, s := range subjects(b.Scope, names) {
			out = append(out, charge{b, s})
		}
	}
	return out
}

// failureCharges lists what a failed validation of names spends.
func failureCharges(budgets []Budget, names []pki.Identifier) []charge {
	var out []charge
	for i := range budgets {
		if b := &budgets[i]; b.Scope == limit.PerName {
			for _, n := range names {
				out = append(out, charge{b, n.Base().Value})
			}
		}
	}
	return out
}

// subjects are whose rows a budget of a scope has for an order.
func subjects(scope limit.Scope, names []pki.Identifier) []string {
	switch scope {
	case limit.PerAccount:
		return []string{""}
	case limit.PerNameSet:
		sum := sha256.Sum256([]byte(encodeNames(names)))
		return []string{hex.EncodeToString(sum[:16])}
	case limit.PerDomain:
		var out []string
		for _, n := range names {
			out = append(out, registered(n))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	return nil
}

// registered is the domain that a CA counts a name under: one label below a
// public suffix, or the name itself.
func registered(id pki.Identifier) string {
	if id.Type != pki.DNS {
		return id.Value
	}
	name := id.Base().Value
	if d, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		return d
	}
	return name
}

var (
	qBudgetEnsure = db.SQL("renew.insert_budget", `INSERT INTO renew_budget (issuer, budget, subject, tat) VALUES ($1, $2, $3, 0) ON CONFLICT DO NOTHING`)
	qBudgetLock   = db.SQL("renew.lock_budget", `SELECT tat FROM renew_budget WHERE issuer = $1 AND budget = $2 AND subject = $3 FOR UPDATE`)
	qBudgetSpend  = db.SQL("renew.update_budget", `UPDATE renew_budget SET tat = $4 WHERE issuer = $1 AND budget = $2 AND subject = $3`)
	qBudgetPurge  = db.SQL("renew.delete_budgets", `DELETE FROM renew_budget WHERE issuer = $1 AND budget = $2 AND tat < $3`)
)

// Tidy forgets budgets that are full again, and old batches.
func (e *Engine) Tidy(ctx context.Context) (loop.Count, error) {
	now := e.now()
	old, err := e.forgetBatches(ctx, now)
	n := int(old)
	if err != nil {
		return loop.Count{}, err
	}
	for name, i := range e.issuers {
		for _, b := range i.Budgets {
			err := e.db.Write(ctx, func(tx *db.Tx) error {
				gone, err := tx.Exec(ctx, qBudgetPurge, name, b.Name, now.Add(-time.Hour).UnixNano())
				n += int(gone)
				return err
			})
			if err != nil {
				return loop.Count{Done: n}, fmt.Errorf("forget budgets: %w", err)
			}
		}
	}
	return loop.Count{Done: n}, nil
}

// overspent is what a budget answers when it is used up.
type overspent struct {
	charge
	issuer string
	retry  time.Duration
}

// Error implements error.
func (e *overspent) Error() string {
	return fmt.Sprintf("budget %s of issuer %s (%s) is used up for another %s", e.budget.Name, e.issuer, e.budget.Rate, e.retry.Round(time.Second))
}

// spend books charges in tx, or returns an *overspent that must end it. Rows
// are locked in one order, so that no two replicas wait for each other.
func spend(ctx context.Context, tx *db.Tx, issuer string, cs []charge, now time.Time) error {
	slices.SortFunc(cs, func(a, b charge) int {
		if c := strings.Compare(a.budget.Name, b.budget.Name); c != 0 {
			return c
		}
		return strings.Compare(a.subject, b.subject)
	})
	for _, c := range cs {
		if c.budget.Rate.Unlimited() {
			continue
		}
		tat, err := lockBudget(ctx, tx, issuer, c)
		if err != nil {
			return err
		}
		next, ok, retry := c.budget.Rate.Take(tat, now.UnixNano(), 1)
		if !ok {
			return &overspent{c, issuer, retry}
		}
		tx.Queue(qBudgetSpend, nil, issuer, c.budget.Name, c.subject, next)
	}
	return nil
}

func lockBudget(ctx context.Context, tx *db.Tx, issuer string, c charge) (int64, error) {
	if _, err := tx.Exec(ctx, qBudgetEnsure, issuer, c.budget.Name, c.subject); err != nil {
		return 0, err
	}
	return db.Get(ctx, tx, qBudgetLock, (*db.Row).Int64, issuer, c.budget.Name, c.subject)
}

// accountLeft returns how many orders the account's budgets let through at now,
// and when there will be one if there is none. An order may turn out to be
// exempt; a claim of one lets it find out.
func accountLeft(ctx context.Context, tx *db.Tx, issuer string, budgets []Budget, now time.Time) (left int, retry time.Duration, err error) {
	left = math.MaxInt
	for i := range budgets {
		b := &budgets[i]
		if b.Scope != limit.PerAccount || b.Rate.Unlimited() || b.ARIExempt || b.RenewalExempt {
			continue
		}
		tat, err := lockBudget(ctx, tx, issuer, charge{b, ""})
		if err != nil {
			return 0, 0, err
		}
		n := b.Rate.Left(tat, now.UnixNano())
		if n < left {
			left = n
		}
		if n == 0 {
			_, _, wait := b.Rate.Take(tat, now.UnixNano(), 1)
			retry = max(retry, wait)
		}
	}
	return left, retry, nil
}
