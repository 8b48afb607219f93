package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// Count is a number of certificates. When it is not Exact there are at least
// N: counting stopped at the bound of its work.
type Count struct {
	N     int64
	Exact bool
}

// Facet is how many certificates have each value of a dimension.
type Facet struct {
	By     Dimension
	Values []FacetValue // most frequent first
	Other  int64        // certificates with values beyond maxValues
	// Exact says that every certificate was counted; if not, the values are
	// those of the first ones only.
	Exact bool
}

// FacetValue is one value of a facet.
type FacetValue struct {
	Value string // as the query language takes it ("none" for an empty one)
	N     int64
}

const (
	maxValues  = 200  // values of one facet
	sampleRows = 2000 // rows counted when no roll-up has the answer
	maxDays    = 1500 // of a timeline
)

// rollupWhere are the conditions on a grain; NULL, 0 or -1 switch one off.
const rollupWhere = ` FROM inventory_rollup WHERE grain = $1 AND day >= $2 AND day < $3
	AND ($4::text[] IS NULL OR status = ANY($4::text[]))
	AND ($5::text[] IS NULL OR team = ANY($5::text[]))
	AND ($6::text[] IS NULL OR environment = ANY($6::text[]))
	AND ($7::bigint[] IS NULL OR issuer_id = ANY($7::bigint[]))
	AND ($8::text[] IS NULL OR key_type = ANY($8::text[]))
	AND ($9::bigint = 0 OR (source & $9::bigint) <> 0)
	AND ($10::bigint < 0 OR managed = $10::bigint)`

// rollupForms are the two forms: one owner has an index of its own, which "+"
// makes SQLite prefer to the one by day.
var rollupForms = [2]string{rollupWhere + ` AND ($11::text[] IS NULL OR owner = ANY($11::text[]))`,
	strings.ReplaceAll(rollupWhere, " day ", " +day ") + ` AND owner = $11::text`}

var qFacet, qTimeline = facetStatements()

// sumsCells marks what sums up to some ten thousand cells.
var sumsCells = db.Long("it sums thousands of cells")

// facetStatements composes the statements by dimension, and by whether there
// is one owner.
func facetStatements() (facet, timeline map[Dimension][2]*db.Stmt) {
	facet, timeline = map[Dimension][2]*db.Stmt{}, map[Dimension][2]*db.Stmt{}
	for _, d := range Dimensions {
		var f, t [2]*db.Stmt
		for i, form := range []string{"", "_of_owner"} {
			column := rollupColumn[d]
			f[i] = db.SQL("inventory.facet_"+string(d)+form, `SELECT `+column+`, sum(n)::bigint`+rollupForms[i]+` GROUP BY `+column, sumsCells)
			if covering(ByDay, d) != nil {
				t[i] = db.SQL("inventory.timeline_"+string(d)+form, `SELECT day, `+column+`, sum(n)::bigint`+rollupForms[i]+` GROUP BY day, `+column, sumsCells)
			}
		}
		facet[d], timeline[d] = f, t
	}
	return facet, timeline
}

// counted returns the dimensions that c depends on, and whether roll-ups know
// everything that it asks for.
func (c *conditions) counted() ([]Dimension, bool) {
	var out []Dimension
	for d, is := range map[Dimension]bool{ByStatus: c.statuses != nil, ByOwner: c.owners != nil, ByTeam: c.teams != nil, ByEnvironment: c.environments != nil,
		ByIssuer: c.issuers != nil, ByKey: c.keys != nil, BySource: c.source != 0, ByManaged: c.managed >= 0, ByDay: c.expires != anyTime} {
		if is {
			out = append(out, d)
		}
	}
	days := true
	for i, edge := range c.expires {
		days = days && (edge == anyTime[i] || edge >= 0 && edge%dayMillis == 0)
	}
	return out, days && c.ids == nil && c.name.Name == "" && c.endpoint.Name == "" && len(c.tags) == 0 && c.words == [maxWords]string{} &&
		c.seen == anyTime && c.ca < 0
}

// span is a run of cells of one grain, from a day until before another.
type span struct {
	grain    string
	from, to int64
}

// days are the days of c in grain g, which has none if it does not tell days
// apart.
func (c *conditions) days(g *grain) span {
	if !slices.Contains(g.dims, ByDay) {
		return span{g.name, 0, 1}
	}
	from, to := c.expires[0]/dayMillis, c.expires[1]/dayMillis
	if c.expires[0] == minInstant {
		from = blockOf(from)
	}
	if c.expires[1] == maxInstant {
		to = blockOf(to)
	}
	return span{g.name, from, to}
}

// spans are the same cells with as many days as possible in whole blocks.
func (c *conditions) spans(g *grain) []span {
	all := c.days(g)
	if !slices.Contains(g.dims, ByDay) {
		return []span{all}
	}
	lo, hi := blockOf(all.from+blockDays-1), blockOf(all.to)
	if lo >= hi {
		return []span{all}
	}
	out := []span{{g.name + blockSuffix, lo, hi}}
	if all.from < lo {
		out = append(out, span{g.name, all.from, lo})
	}
	if hi < all.to {
		out = append(out, span{g.name, hi, all.to})
	}
	return out
}

// rollupArgs are the arguments of rollupWhere for a span, and which form fits.
func (c *conditions) rollupArgs(at span) ([]any, int) {
	args := []any{at.grain, at.from, at.to, list(c.statuses), list(c.teams), list(c.environments), list(c.issuers), list(c.keys), int64(c.source), c.managed}
	if len(c.owners) == 1 {
		return append(args, c.owners[0]), 1
	}
	return append(args, list(c.owners)), 0
}

// Count returns how many certificates match f.
func (s *Store) Count(ctx context.Context, f Filter) (Count, error) {
	c, err := s.prepare(ctx, &f)
	if err != nil || c.never {
		return Count{Exact: err == nil}, err
	}
	if dims, ok := c.counted(); ok {
		if g := covering(append(dims, ByStatus)...); g != nil {
			vs, err := s.tally(ctx, c, g, ByStatus)
			var n int64
			for _, v := range vs {
				n += v
			}
			return Count{n, true}, err
		}
	}
	n := Count{}
	n.Exact, err = s.sample(ctx, f, func(*Certificate) { n.N++ })
	return n, err
}

// tally sums one dimension of a grain.
func (s *Store) tally(ctx context.Context, c *conditions, g *grain, by Dimension) (map[string]int64, error) {
	sums := map[string]int64{}
	numeric := by == ByIssuer || by == BySource || by == ByManaged || by == ByDay
	for _, at := range c.spans(g) {
		args, form := c.rollupArgs(at)
		err := s.db.Read().All(ctx, qFacet[by][form], func(r *db.Row) error {
			key := ""
			if numeric {
				key = strconv.FormatInt(r.Int64(), 10)
			} else {
				key = r.Text()
			}
			if n := r.Int64(); n != 0 {
				sums[key] += n
			}
			return nil
		}, args...)
		if err != nil {
			return nil, fmt.Errorf("count certificates: %w", err)
		}
	}
	return sums, nil
}

// Facets counts the certificates that match f by dimensions. The facet of a
// dimension leaves f's own condition on it aside, so that it shows what else
// there is to choose; one that is not Exact does not.
func (s *Store) Facets(ctx context.Context, f Filter, by ...Dimension) ([]Facet, error) {
	c, err := s.prepare(ctx, &f)
	if err != nil {
		return nil, err
	}
	out := make([]Facet, len(by))
	var rest []int
	for i, d := range by {
		if !slices.Contains(Dimensions, d) {
			return nil, fault.New(fault.Invalid, "facet %.32q is not known; facets are: %v", string(d), Dimensions)
		}
		out[i] = Facet{By: d, Exact: true}
		if c.never {
			continue
		}
		own := c.but(d)
		dims, ok := own.counted()
		g := covering(append(dims, d)...)
		if !ok || g == nil {
			rest = append(rest, i)
			continue
		}
		sums, err := s.tally(ctx, own, g, d)
		if err != nil {
			return nil, err
		}
		if err := s.fillFacet(ctx, &out[i], sums); err != nil {
			return nil, err
		}
	}
	if len(rest) == 0 {
		return out, nil
	}
	return out, s.sampleFacets(ctx, f, out, rest)
}

// but is c without its condition on d.
func (c conditions) but(d Dimension) *conditions {
	switch d {
	case ByStatus:
		c.statuses = nil
	case ByOwner:
		c.owners = c.within
	case ByTeam:
		c.teams = nil
	case ByEnvironment:
		c.environments = nil
	case ByIssuer:
		c.issuers = nil
	case ByKey:
		c.keys = nil
	case BySource:
		c.source = 0
	case ByManaged:
		c.managed = -1
	}
	return &c
}

// sampleFacets counts the rows themselves, up to sampleRows.
func (s *Store) sampleFacets(ctx context.Context, f Filter, out []Facet, rest []int) error {
	sums := make([]map[string]int64, len(out))
	for _, i := range rest {
		sums[i] = map[string]int64{}
	}
	exact, err := s.sample(ctx, f, func(c *Certificate) {
		for _, i := range rest {
			sums[i][c.value(out[i].By)]++
		}
	})
	if err != nil {
		return err
	}
	for _, i := range rest {
		out[i].Exact = exact
		if err := s.fillFacet(ctx, &out[i], sums[i]); err != nil {
			return err
		}
	}
	return nil
}

// value is c's value of a dimension in the form of tally.
func (c *Certificate) value(d Dimension) string {
	switch d {
	case ByStatus:
		return string(c.Status)
	case ByIssuer:
		return strconv.FormatInt(c.IssuerID, 10)
	case ByKey:
		return c.KeyType
	case ByOwner:
		return c.Owner
	case ByTeam:
		return c.Team
	case ByEnvironment:
		return c.Environment
	case BySource:
		return strconv.FormatInt(int64(c.Source), 10)
	}
	return strconv.FormatInt(flag(&c.Managed), 10)
}

// sample calls each for up to sampleRows certificates that match f, and
// reports whether those were all.
func (s *Store) sample(ctx context.Context, f Filter, each func(*Certificate)) (bool, error) {
	q := Query{Filter: f, Limit: MaxLimit}
	for n := 0; n < sampleRows; {
		p, err := s.List(ctx, q)
		if err != nil {
			return false, err
		}
		for i := range p.Certificates {
			each(&p.Certificates[i])
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			return true, nil
		}
		if p.Partial {
			return false, nil
		}
		n += len(p.Certificates)
	}
	return false, nil
}

// fillFacet turns sums into values that users know.
func (s *Store) fillFacet(ctx context.Context, f *Facet, sums map[string]int64) error {
	named, err := s.nameValues(ctx, f.By, sums)
	if err != nil {
		return err
	}
	for v, n := range named {
		f.Values = append(f.Values, FacetValue{v, n})
	}
	slices.SortFunc(f.Values, func(a, b FacetValue) int {
		return cmp.Or(cmp.Compare(b.N, a.N), strings.Compare(a.Value, b.Value))
	})
	if len(f.Values) > maxValues {
		for _, v := range f.Values[maxValues:] {
			f.Other += v.N
		}
		f.Values = f.Values[:maxValues]
	}
	return nil
}

func (s *Store) nameValues(ctx context.Context, by Dimension, sums map[string]int64) (map[string]int64, error) {
	named := make(map[string]int64, len(sums))
	switch by {
	case ByIssuer:
		return s.nameIssuers(ctx, sums)
	case BySource: // a certificate counts for each of its sources
		for v, n := range sums {
			bits, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read sources: %w", err)
			}
			for _, name := range Source(bits).Names() {
				named[name] += n
			}
		}
	case ByManaged:
		for v, n := range sums {
			named[map[string]string{"0": "no", "1": "yes"}[v]] += n
		}
	default:
		for v, n := range sums {
			if v == "" {
				v = none
			}
			named[v] += n
		}
	}
	return named, nil
}

// nameIssuers replaces ids by labels; keys of one CA have one label.
func (s *Store) nameIssuers(ctx context.Context, sums map[string]int64) (map[string]int64, error) {
	var ids []int64
	for v := range sums {
		id, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read issuers: %w", err)
		}
		ids = append(ids, id)
	}
	labels, err := s.issuers.of(ctx, s.db.Read(), ids)
	if err != nil {
		return nil, fmt.Errorf("read issuers: %w", err)
	}
	named := make(map[string]int64, len(sums))
	for _, id := range ids {
		named[labels[id]] += sums[strconv.FormatInt(id, 10)]
	}
	return named, nil
}

// Bucket is how many certificates with a value end on a day.
type Bucket struct {
	Day   time.Time // midnight UTC
	Value string    // as in FacetValue
	N     int64
}

// Timeline counts the certificates that match f by the day on which they end,
// from the day of from until before the day of to, and by a dimension (status,
// issuer, key, owner, team or env). It is always exact; a condition that the
// roll-ups do not know together with it is a *fault.Error (invalid).
func (s *Store) Timeline(ctx context.Context, f Filter, from, to time.Time, by Dimension) ([]Bucket, error) {
	if to.Before(from) || to.Sub(from) > maxDays*24*time.Hour {
		return nil, fault.New(fault.Invalid, "a timeline has from 0 to %d days", maxDays)
	}
	c, err := s.prepare(ctx, &f)
	if err != nil || c.never {
		return nil, err
	}
	c.expires[0] = max(c.expires[0], from.UTC().Truncate(24*time.Hour).UnixMilli())
	c.expires[1] = min(c.expires[1], to.UTC().Truncate(24*time.Hour).UnixMilli())
	dims, ok := c.counted()
	g := covering(append(dims, ByDay, by)...)
	if !ok || g == nil || by == ByDay {
		return nil, fault.New(fault.Invalid, "the timeline cannot be split by %.32q under this query; drop conditions on names, tags, endpoints, words or sources, or split by status", string(by))
	}
	return s.buckets(ctx, c, g, by)
}

func (s *Store) buckets(ctx context.Context, c *conditions, g *grain, by Dimension) ([]Bucket, error) {
	args, form := c.rollupArgs(c.days(g))
	days := map[int64]map[string]int64{}
	err := s.db.Read().All(ctx, qTimeline[by][form], func(r *db.Row) error {
		day, value := r.Int64(), ""
		if by == ByIssuer {
			value = strconv.FormatInt(r.Int64(), 10)
		} else {
			value = r.Text()
		}
		n := r.Int64()
		if n == 0 {
			return nil
		}
		if days[day] == nil {
			days[day] = map[string]int64{}
		}
		days[day][value] += n
		return nil
	}, args...)
	if err != nil {
		return nil, fmt.Errorf("count certificates by day: %w", err)
	}
	var out []Bucket
	for day, sums := range days {
		named, err := s.nameValues(ctx, by, sums)
		if err != nil {
			return nil, err
		}
		for v, n := range named {
			out = append(out, Bucket{time.UnixMilli(day * dayMillis).UTC(), v, n})
		}
	}
	slices.SortFunc(out, func(a, b Bucket) int { return cmp.Or(a.Day.Compare(b.Day), strings.Compare(a.Value, b.Value)) })
	return out, nil
}
