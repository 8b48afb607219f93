package alert

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Rule says what is looked for, and who is told.
type Rule struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"` // of Looks
	Severity Severity  `json:"severity"`
	Enabled  bool      `json:"enabled"`
	Match    []Matcher `json:"match,omitzero"` // only what fits all of them
	Params

	// Channels are told; none = every channel of the configuration.
	Channels []string `json:"channels,omitzero"`

	// EscalateTo is told EscalateAfter the first notice if it still fires.
	EscalateAfter Span     `json:"escalate_after,omitzero"`
	EscalateTo    []string `json:"escalate_to,omitzero"`

	BuiltIn   bool      `json:"-"` // there is a default of this name
	Changed   bool      `json:"-"` // it is a row, not the default
	UpdatedBy string    `json:"-"`
	UpdatedAt time.Time `json:"-"`
}

// Params are what a kind of rule can be told; each kind uses some of them.
type Params struct {
	// Share is how much of its life must be left at most, 0 to 1.
	Share float64 `json:"share,omitzero"`
	// Within bounds Share: what is further from its end is never found.
	Within Span `json:"within,omitzero"`
	// For is how long it must have been so.
	For Span `json:"for,omitzero"`
	// Failures of the last Of observations must have been bad; 0 = 1 of 1.
	Failures int `json:"failures,omitzero"`
	Of       int `json:"of,omitzero"`
	// Entries are patterns of kinds of journal entries, Clears those that end
	// the episode of the same subject. Without one it ends after Lasts.
	Entries []string `json:"entries,omitzero"`
	Clears  []string `json:"clears,omitzero"`
	Lasts   Span     `json:"lasts,omitzero"`
}

const (
	day = Span(24 * time.Hour)
	// maxSpan bounds every duration of a rule.
	maxSpan = 3660 * day
)

// Defaults returns the built-in rules, ordered by name.
func Defaults() []Rule {
	rules := []Rule{
		{Name: "authority-ending", Kind: "authority-expiry", Severity: Critical, Params: Params{Share: 0.25, Within: 365 * day}},
		{Name: "certificate-ending", Kind: "certificate-expiry", Severity: Warning, Params: Params{Share: 0.2, Within: 30 * day}},
		{Name: "certificate-last-call", Kind: "certificate-expiry", Severity: Critical, Params: Params{Share: 0.08, Within: 7 * day}},
		{Name: "certificate-finding", Kind: "finding", Severity: Critical},
		{Name: "endpoint-drift", Kind: "endpoint-drift", Severity: Warning, Params: Params{For: Span(time.Hour)}},
		{Name: "endpoint-failing", Kind: "endpoint-failing", Severity: Warning, Params: Params{Failures: 3, Of: 5}},
		{Name: "journal-mismatch", Kind: "journal-mismatch", Severity: Critical},
		{Name: "renewal-failing", Kind: "journal-entry", Severity: Critical, Params: Params{
			Entries: []string{"managed.stop", "managed.deploy_failed"}, Clears: []string{"managed.renew", "managed.update", "managed.remove", "managed.deploy_recovered"}, Lasts: 7 * day}},
		{Name: "renewal-hurried", Kind: "journal-entry", Severity: Warning, Params: Params{Entries: []string{"managed.hurry"}, Lasts: 7 * day}},
		{Name: "scan-late", Kind: "scan-late", Severity: Warning, Params: Params{For: Span(time.Hour)}},
		{Name: "status-stale", Kind: "status-stale", Severity: Critical, Params: Params{Share: 0.25, For: Span(15 * time.Minute)}},
		{Name: "unknown-certificate", Kind: "unknown-certificate", Severity: Critical},
		{Name: "working-alone", Kind: "journal-entry", Severity: Info, Params: Params{Entries: []string{"approval.break_glass"}, Lasts: day}},
	}
	for i := range rules {
		rules[i].Enabled, rules[i].BuiltIn = true, true
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	return rules
}

// rulePattern is what the name of a rule looks like.
var rulePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// Check returns an *fault.Error (invalid) that says what is wrong with r. The
// names of channels are held against known, unless it is nil.
func (r *Rule) Check(known []string) error {
	if !rulePattern.MatchString(r.Name) {
		return fault.New(fault.Invalid, "name: a name is 1 to 64 lower-case letters, digits and hyphens")
	}
	if !r.Severity.Valid() {
		return fault.New(fault.Invalid, "severity: must be one of %v", Severities)
	}
	l := lookOf(r.Kind)
	if l == nil {
		return fault.New(fault.Invalid, "kind: there is no kind %.40q of rule; there are %s", r.Kind, strings.Join(Kinds(), " "))
	}
	for _, c := range slices.Concat(r.Channels, r.EscalateTo) {
		if known != nil && !slices.Contains(known, c) {
			return fault.New(fault.Invalid, "channels: no [alert_channel.NAME] has the name %.64q; there are %v", c, known)
		}
	}
	if (r.EscalateAfter > 0) != (len(r.EscalateTo) > 0) {
		return fault.New(fault.Invalid, "escalate_after and escalate_to belong together")
	}
	if err := checkMatchers(r.Match); err != nil {
		return err
	}
	return r.Params.check(l, r.EscalateAfter)
}

// check holds parameters against what a kind uses.
func (p *Params) check(l *Look, more Span) error {
	for name, set := range map[string]bool{"share": p.Share != 0, "within": p.Within != 0, "for": p.For != 0, "failures": p.Failures != 0 || p.Of != 0,
		"entries": len(p.Entries)+len(p.Clears) > 0, "lasts": p.Lasts != 0} {
		if set && !slices.Contains(l.Uses, name) {
			return fault.New(fault.Invalid, "%s: rules of kind %s have no use for it; they use: %s", name, l.Kind, strings.Join(l.Uses, " "))
		}
	}
	for _, name := range l.needs {
		if name == "share" && p.Share == 0 || name == "within" && p.Within == 0 || name == "entries" && len(p.Entries) == 0 || name == "lasts" && p.Lasts == 0 {
			return fault.New(fault.Invalid, "%s: rules of kind %s need it", name, l.Kind)
		}
	}
	switch {
	case p.Share < 0 || p.Share > 1:
		return fault.New(fault.Invalid, "share: must be between 0 and 1")
	case p.Failures < 0 || p.Of > 60 || p.Failures > p.Of:
		return fault.New(fault.Invalid, "failures, of: at least 1 of at most 60, and no more failures than observations")
	case p.Failures == 0 && p.Of > 0:
		return fault.New(fault.Invalid, "failures: must be set together with of")
	case max(p.Within, p.For, p.Lasts, more) > maxSpan || min(p.Within, p.For, p.Lasts, more) < 0:
		return fault.New(fault.Invalid, "a duration is between 0 and 10 years")
	case len(p.Entries)+len(p.Clears) > maxMatchers:
		return fault.New(fault.Invalid, "entries: there are more than %d patterns", maxMatchers)
	}
	for _, pattern := range slices.Concat(p.Entries, p.Clears) {
		if pattern == "" || len(pattern) > maxText {
			return fault.New(fault.Invalid, "entries: a pattern is 1 to %d bytes", maxText)
		}
		if glob(pattern, "alert.put_rule") && strings.HasPrefix(pattern, "*") {
			return fault.New(fault.Invalid, "entries: a pattern begins with the kind of object, such as approval.*")
		}
	}
	return nil
}

var (
	qRules   = db.SQL("alert.list_rules", `SELECT name, definition, updated_by, updated_at FROM alert_rule ORDER BY name LIMIT 1000`, db.Scan("a few rows that people wrote"))
	qPutRule = db.SQL("alert.upsert_rule", `INSERT INTO alert_rule (name, definition, updated_by, updated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET definition = excluded.definition, updated_by = excluded.updated_by, updated_at = excluded.updated_at`)
	qDropRule = db.SQL("alert.delete_rule", `DELETE FROM alert_rule WHERE name = $1`)
	qResetRun = db.SQL("alert.reset_run", `UPDATE alert_run SET position = '', next_at = 0 WHERE rule = $1`)
	qEndRule  = db.SQL("alert.resolve_of_rule", `UPDATE alert SET state = 'resolved', resolved_at = $2, escalate_at = NULL WHERE rule = $1 AND state <> 'resolved'`)
)

// maxRules bounds the rules that people may add.
const maxRules = 500

// Rules returns every rule: those stored, and the built-in ones that no row
// takes the place of. They are ordered by name.
func Rules(ctx context.Context, q db.Q) ([]Rule, error) {
	rows := map[string]Rule{}
	err := q.All(ctx, qRules, func(row *db.Row) error {
		var r Rule
		name, text, by, at := row.Text(), row.Bytes(), row.Text(), row.Time()
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("decode rule %s: %w", name, err)
		}
		r.Name, r.Changed, r.UpdatedBy, r.UpdatedAt = name, true, by, at
		rows[name] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list alert rules: %w", err)
	}
	out := make([]Rule, 0, len(rows)+12)
	for _, r := range Defaults() {
		if row, ok := rows[r.Name]; ok {
			row.BuiltIn = true
			r = row
			delete(rows, r.Name)
		}
		out = append(out, r)
	}
	for _, r := range rows {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// FindRule returns one rule, or a notFound fault.
func FindRule(ctx context.Context, q db.Q, name string) (Rule, error) {
	all, err := Rules(ctx, q)
	if err != nil {
		return Rule{}, err
	}
	for _, r := range all {
		if r.Name == name {
			return r, nil
		}
	}
	return Rule{}, fault.New(fault.NotFound, "there is no alert rule %.64q; chancery alerts rules lists them", name)
}

// PutRule stores a rule, journals who did it, and has it looked at anew. What
// it found before ends when it is switched off.
func (s *Service) PutRule(ctx context.Context, r Rule, actor string, now time.Time) (Rule, error) {
	if err := r.Check(s.names()); err != nil {
		return r, err
	}
	all, err := Rules(ctx, s.db.Read())
	if err != nil {
		return r, err
	}
	known := slices.ContainsFunc(all, func(o Rule) bool { return o.Name == r.Name })
	if !known && len(all) >= maxRules {
		return r, fault.New(fault.Conflict, "there are %d rules already; delete some", len(all))
	}
	text, err := json.Marshal(r)
	if err != nil {
		return r, fmt.Errorf("encode rule: %w", err)
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qPutRule, nil, r.Name, string(text), actor, now)
		tx.Queue(qResetRun, nil, r.Name)
		if !r.Enabled {
			tx.Queue(qEndRule, nil, r.Name, now)
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "alert.put_rule", Actor: actor, Subject: "alert-rule:" + r.Name, Data: r})
	})
	if err != nil {
		return r, fmt.Errorf("store alert rule: %w", err)
	}
	return FindRule(ctx, s.db.Read(), r.Name)
}

// errNoRule ends a transaction that found nothing to delete.
var errNoRule = errors.New("no such rule")

// DropRule deletes a rule; of a built-in one only what was changed, so that it
// is as shipped again.
func (s *Service) DropRule(ctx context.Context, name, actor string, now time.Time) error {
	builtIn := slices.ContainsFunc(Defaults(), func(r Rule) bool { return r.Name == name })
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qDropRule, db.ExactlyOne(errNoRule), name)
		tx.Queue(qResetRun, nil, name)
		if !builtIn {
			tx.Queue(qEndRule, nil, name, now)
		}
		return audit.Append(tx, audit.Entry{At: now, Kind: "alert.delete_rule", Actor: actor, Subject: "alert-rule:" + name})
	})
	switch {
	case errors.Is(err, errNoRule) && builtIn:
		return fault.New(fault.Conflict, "the rule %s is as shipped; switch it off instead (enabled: false)", name)
	case errors.Is(err, errNoRule):
		return fault.New(fault.NotFound, "there is no alert rule %.64q", name)
	case err != nil:
		return fmt.Errorf("delete alert rule: %w", err)
	}
	return nil
}
