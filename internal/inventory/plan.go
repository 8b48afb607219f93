package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// An access path walks one index in the order of its keyset. Each has two
// statements per direction, composed here from constants: the rows of a window
// of the index with every other condition applied, and the end of such a
// window. User text only ever is an argument.

// residual are the conditions that no index answers, on inventory c and
// inventory_seen s; NULL, ” or 0 switch a condition off. The arguments are
// those of conditions.args.
const residual = `
	AND ($1::text[] IS NULL OR c.status = ANY($1::text[]))
	AND ($2::text[] IS NULL OR c.owner = ANY($2::text[]))
	AND ($3::text[] IS NULL OR c.team = ANY($3::text[]))
	AND ($4::text[] IS NULL OR c.environment = ANY($4::text[]))
	AND ($5::bigint[] IS NULL OR c.issuer_id = ANY($5::bigint[]))
	AND ($6::text[] IS NULL OR c.key_type = ANY($6::text[]))
	AND ($7::bigint = 0 OR (c.source & $7::bigint) <> 0)
	AND ($8::bigint < 0 OR c.managed = $8::bigint)
	AND ($9::bigint < 0 OR c.is_ca = $9::bigint)
	AND ($10::bigint = ` + sqlMin + ` OR c.not_after >= $10::bigint) AND ($11::bigint = ` + sqlMax + ` OR c.not_after < $11::bigint)
	AND ($12::bigint = ` + sqlMin + ` OR (SELECT z.last_seen_at FROM inventory_seen z WHERE z.inventory_id = c.id) >= $12::bigint)
	AND ($13::bigint = ` + sqlMax + ` OR (SELECT z.last_seen_at FROM inventory_seen z WHERE z.inventory_id = c.id) < $13::bigint)
	AND ($14::text = '' OR c.names LIKE $14::text ESCAPE '\' OR lower(c.subject_cn) LIKE $14::text ESCAPE '\')
	AND ($15::text = '' OR c.names LIKE $15::text ESCAPE '\' OR lower(c.subject_cn) LIKE $15::text ESCAPE '\')
	AND ($16::text = '' OR c.names LIKE $16::text ESCAPE '\' OR lower(c.subject_cn) LIKE $16::text ESCAPE '\')
	AND ($17::text[] IS NULL OR (SELECT count(*) FROM inventory_tag t WHERE t.inventory_id = c.id AND t.tag = ANY($17::text[])) = $18::bigint)
`

// The ends of time (minInstant, maxInstant) as SQL.
const sqlMin, sqlMax = `-4611686018427387904`, `4611686018427387904`

// residualHost is the condition on endpoints, for every path but theirs.
const residualHost = `
	AND ($23::text = '' OR EXISTS (SELECT 1 FROM endpoint e WHERE e.inventory_id = c.id AND e.rhost >= $23::text AND e.rhost < $24::text
		AND (e.rhost >= $25::text OR e.rhost = $26::text) AND ($27::bigint = 0 OR e.port = $27::bigint)))`

// firstHost is the same for the endpoints x of a path: one that matches, and
// is the first of its certificate that does.
const firstHost = `
	AND x.inventory_id IS NOT NULL AND x.rhost < $24::text AND (x.rhost >= $25::text OR x.rhost = $26::text) AND ($27::bigint = 0 OR x.port = $27::bigint)
	AND NOT EXISTS (SELECT 1 FROM endpoint y WHERE y.inventory_id = x.inventory_id AND y.rhost >= $23::text
		AND (y.rhost, y.port, y.sni, y.address) < (x.rhost, x.port, x.sni, x.address)
		AND (y.rhost >= $25::text OR y.rhost = $26::text) AND ($27::bigint = 0 OR y.port = $27::bigint))`

// residualName is the condition on names, for every path but that of names
// below a suffix, which has its own.
const residualName = `
	AND ($19::text = '' OR EXISTS (SELECT 1 FROM inventory_name w WHERE w.inventory_id = c.id AND w.rname >= $19::text AND w.rname < $20::text
		AND (w.rname >= $21::text OR w.rname = $22::text)))`

// firstName is the same for the names x of a path: one that matches, and is
// the first of its certificate that does.
const firstName = `
	AND x.rname < $20::text AND (x.rname >= $21::text OR x.rname = $22::text)
	AND NOT EXISTS (SELECT 1 FROM inventory_name y WHERE y.inventory_id = x.inventory_id AND y.rname >= $19::text AND y.rname < x.rname
		AND (y.rname >= $21::text OR y.rname = $22::text))`

// form is how much of residual a rows statement has. The short forms are the
// common ones, and PostgreSQL plans a statement each time it runs it.
type form int

const (
	plain    form = iota // nothing: the index answers everything
	visible              // nothing but that retired certificates are left out
	filtered             // everything
)

var formNames = []string{"", "_visible", "_filtered"}

// length says how long a rows statement of a form may take: one that filters
// reads a window of the index, the others no more than the page.
func (f form) length() db.Option {
	if f == filtered {
		return db.Long("it may read a whole window for one row")
	}
	return db.Long("")
}

// residuals is how many arguments the residual conditions have.
const residuals = 27

// keyed is what a path's keyset is made of.
type keyed string

// Keysets, by the kinds of their parts (see decodeCursor).
const (
	keyExpiry keyed = "nt"   // not_after, id
	keySeen   keyed = "nt"   // last_seen_at, id
	keyAdded  keyed = "t"    // id
	keyName   keyed = "tnt"  // rname, not_after, id
	keyHost   keyed = "tntt" // rhost, port, sni, address
)

// path is one way through the inventory.
type path struct {
	name string
	// from lists the tables, the one that leads first; CROSS JOIN keeps
	// SQLite's planner from changing the order.
	from string
	// join are the join conditions of from, each followed by AND.
	join string
	// lead is the leading table alone.
	lead string
	// where is the condition that the index answers, with %[1]s for its
	// argument; "" = none.
	where string
	// cast is the type of that argument.
	cast string
	// columns are the keyset, in the leading table's alias.
	columns []string
	types   []string
	kinds   keyed
	// whole marks a path so short that it is read at once, without windows.
	whole bool

	rows   [2][3]*db.Stmt // ascending and descending, by form
	window [2]*db.Stmt
}

// byExpiry is a path over an index of inventory (x, not_after, id).
func byExpiry(name, where, cast string) *path {
	return &path{name: name, from: "inventory c", lead: "inventory c", where: where, cast: cast,
		columns: []string{"c.not_after", "c.id"}, types: []string{"bigint", "text"}, kinds: keyExpiry}
}

// through is a path over an index of another table (x, not_after, inventory_id).
func through(name, table, column string) *path {
	return &path{name: name, from: table + " x CROSS JOIN inventory c", join: "c.id = x.inventory_id AND ", lead: table + " x",
		where: "x." + column + " = %[1]s", cast: "text",
		columns: []string{"x.not_after", "x.inventory_id"}, types: []string{"bigint", "text"}, kinds: keyExpiry}
}

// among is a path over a few certificates by id.
func among(name, cast, column string) *path {
	p := &path{name: name, from: "inventory c", where: "c.id = ANY(%[1]s)", cast: "text[]",
		columns: []string{"c.id"}, types: []string{"text"}, kinds: keyAdded, whole: true}
	if column == "s.last_seen_at" {
		p.from, p.join = "inventory c CROSS JOIN inventory_seen s", "s.inventory_id = c.id AND "
	}
	if column != "" {
		p.columns, p.types, p.kinds = []string{column, "c.id"}, []string{cast, "text"}, keyExpiry
	}
	return p.build()
}

// The paths. Names below a suffix, and endpoints, come in the order of the
// reversed name, a certificate with several at the first of them.
var (
	pathAll      = byExpiry("expiry", "", "").build()
	pathStatus   = byExpiry("status", "c.status = %[1]s", "text").build()
	pathOwner    = byExpiry("owner", "c.owner = %[1]s", "text").build()
	pathTeam     = byExpiry("team", "c.team = %[1]s", "text").build()
	pathIssuer   = byExpiry("issuer", "c.issuer_id = %[1]s", "bigint").build()
	pathKey      = byExpiry("key", "c.key_type = %[1]s", "text").build()
	pathIDs      = among("ids", "bigint", "c.not_after")
	pathIDsSeen  = among("ids_seen", "bigint", "s.last_seen_at")
	pathIDsAdded = among("ids_added", "", "")
	pathTag      = through("tag", "inventory_tag", "tag").build()
	pathName     = through("name", "inventory_name", "rname").build()
	pathSuffix   = (&path{name: "suffix", from: "inventory_name x CROSS JOIN inventory c", join: "c.id = x.inventory_id AND ",
		lead: "inventory_name x", columns: []string{"x.rname", "x.not_after", "x.inventory_id"}, types: []string{"text", "bigint", "text"}, kinds: keyName}).build()
	pathHost = (&path{name: "host", from: "endpoint x CROSS JOIN inventory c", join: "c.id = x.inventory_id AND ", lead: "endpoint x",
		columns: []string{"x.rhost", "x.port", "x.sni", "x.address"}, types: []string{"text", "bigint", "text", "text"}, kinds: keyHost}).build()
	pathSeen = (&path{name: "seen", from: "inventory_seen s CROSS JOIN inventory c", join: "c.id = s.inventory_id AND ", lead: "inventory_seen s",
		columns: []string{"s.last_seen_at", "s.inventory_id"}, types: []string{"bigint", "text"}, kinds: keySeen}).build()
	pathAdded = (&path{name: "added", from: "inventory c", lead: "inventory c",
		columns: []string{"c.id"}, types: []string{"text"}, kinds: keyAdded}).build()
)

// build composes the statements of p.
func (p *path) build() *path {
	for dir, word := range []string{"asc", "desc"} {
		for f, suffix := range formNames {
			if form(f) == filtered || !p.whole && !p.first() {
				p.rows[dir][f] = db.SQL("inventory.list_"+p.name+"_"+word+suffix, p.rowsText(dir, form(f)), form(f).length())
			}
		}
		if !p.whole {
			p.window[dir] = db.SQL("inventory.window_"+p.name+"_"+word, p.windowText(dir))
		}
	}
	return p
}

// first reports whether p may meet a certificate several times, of which the
// first counts; the keyset is then no part of the certificate.
func (p *path) first() bool { return p.kinds == keyName || p.kinds == keyHost }

// span compares the keyset with two of n arguments each, beginning with $first:
// behind the one, and not behind the other.
func (p *path) span(dir, first int) string {
	behind, upTo := ">", "<="
	if dir == 1 {
		behind, upTo = "<", ">="
	}
	tuple := func(at int) string {
		var args []string
		for i, t := range p.types {
			args = append(args, fmt.Sprintf("$%d::%s", at+i, t))
		}
		return "(" + strings.Join(args, ", ") + ")"
	}
	columns := "(" + strings.Join(p.columns, ", ") + ")"
	return columns + " " + behind + " " + tuple(first) + " AND " + columns + " " + upTo + " " + tuple(first+len(p.columns))
}

// condition is what the index answers, with argument $at; it begins with AND.
func (p *path) condition(at int) string {
	if p.where == "" {
		return ""
	}
	return " AND " + fmt.Sprintf(p.where, fmt.Sprintf("$%d::%s", at, p.cast))
}

func (p *path) order(dir int) string {
	by := make([]string, len(p.columns))
	for i, c := range p.columns {
		by[i] = c + []string{"", " DESC"}[dir]
	}
	return " ORDER BY " + strings.Join(by, ", ")
}

func (p *path) rowsText(dir int, f form) string {
	n, first, key, rest := len(p.columns), 1, "", ""
	switch {
	case f == visible:
		rest = ` AND c.status <> 'retired'`
	case p.kinds == keyName:
		first, rest = residuals+1, firstName+residualHost+residual
	case p.kinds == keyHost:
		first, rest = residuals+1, firstHost+residualName+residual
	case f == filtered:
		first, rest = residuals+1, residualName+residualHost+residual
	}
	if p.first() {
		key = ", " + strings.Join(p.columns, ", ")
	}
	return `SELECT ` + shown + key + ` FROM ` + p.from + ` WHERE ` + p.join + p.span(dir, first) + p.condition(first+2*n+1) +
		rest + p.order(dir) + fmt.Sprintf(` LIMIT $%d`, first+2*n)
}

// windowText finds the key of the n-th next entry, whatever it is. The OFFSET
// is no page number: it is at most maxWindow, and walks the bare index.
func (p *path) windowText(dir int) string {
	n := len(p.columns)
	return `SELECT ` + strings.Join(p.columns, ", ") + ` FROM ` + p.lead + ` WHERE ` + p.span(dir, 1) + p.condition(2*n+2) +
		p.order(dir) + fmt.Sprintf(` LIMIT 1 OFFSET $%d`, 2*n+1)
}

// anyTime is no condition on an instant.
var anyTime = [2]int64{minInstant, maxInstant}

// conditions is a filter made ready for statements.
type conditions struct {
	statuses, owners, teams, environments, keys []string
	issuers                                     []int64
	source                                      Source
	managed, ca                                 int64
	expires, seen                               [2]int64
	words                                       [maxWords]string
	tags                                        []string
	name, endpoint                              Host
	port                                        int
	ids                                         []string // nil = no condition
	within                                      []string // Filter.Within: also holds where the condition on owners is left aside
	never                                       bool     // nothing can match
	visible                                     bool     // statuses are all but retired
}

// prepare resolves what needs the database: issuers, and the conditions that
// name few certificates.
func (s *Store) prepare(ctx context.Context, f *Filter) (*conditions, error) {
	c := &conditions{owners: unset(f.Owners), teams: unset(f.Teams), environments: unset(f.Environments), keys: f.Keys, source: f.Source,
		managed: flag(f.Managed), ca: flag(f.CA), tags: sorted(f.Tags), name: f.Name, endpoint: f.Endpoint, port: f.Port}
	for _, st := range f.statuses() {
		c.statuses = append(c.statuses, string(st))
	}
	c.confine(f.Within)
	c.visible = len(c.statuses) == len(Statuses)-1 && !slices.Contains(c.statuses, string(Retired))
	if len(c.statuses) == len(Statuses) {
		c.statuses = nil
	}
	c.expires[0], c.expires[1] = f.Expires.millis()
	c.seen[0], c.seen[1] = f.Seen.millis()
	for i, w := range f.Words {
		if i == maxWords {
			return nil, fault.New(fault.Invalid, "at most %d words to look for", maxWords)
		}
		c.words[i] = "%" + escapeLike(w) + "%"
	}
	if err := s.resolveIssuers(ctx, c, f.Issuers); err != nil {
		return nil, err
	}
	if err := s.resolveKeys(ctx, c); err != nil {
		return nil, err
	}
	return c, s.resolveIDs(ctx, c, f)
}

// confine narrows c to owners that whoever asks may know of.
func (c *conditions) confine(within []string) {
	if within == nil {
		return
	}
	c.within = within
	if c.owners == nil {
		c.owners = within
	} else {
		c.owners = slices.DeleteFunc(c.owners, func(o string) bool { return !slices.Contains(within, o) })
	}
	c.never = c.never || len(c.owners) == 0
}

// unset turns the word none into the empty text that the table has.
func unset(vs []string) []string {
	var out []string
	for _, v := range vs {
		if v == none {
			v = ""
		}
		out = append(out, v)
	}
	return out
}

func flag(v *bool) int64 {
	switch {
	case v == nil:
		return -1
	case *v:
		return 1
	}
	return 0
}

func (s *Store) resolveIssuers(ctx context.Context, c *conditions, texts []string) error {
	for _, text := range texts {
		ids, err := matching(ctx, s.db.Read(), text)
		if err != nil {
			return fmt.Errorf("find issuers: %w", err)
		}
		c.issuers = append(c.issuers, ids...)
	}
	c.never = c.never || len(texts) > 0 && len(c.issuers) == 0
	return nil
}

// fewIDs is how many certificates a condition may name to be resolved first;
// beyond it the condition is common enough to be met while walking.
const fewIDs = 1500

var (
	qIDsBySerial = db.SQL("inventory.list_ids_by_serial", `SELECT id FROM inventory WHERE serial_key = ANY($1::bigint[]) AND serial = $2 LIMIT $3`)
	qIDsByKey    = db.SQL("inventory.list_ids_by_key", `SELECT id FROM inventory WHERE spki_key = $1 AND spki_hash = $2 LIMIT $3`)
	qIDsByHost   = db.SQL("inventory.list_ids_by_host", `SELECT inventory_id FROM endpoint WHERE rhost >= $1 AND rhost < $2
		AND (rhost >= $3 OR rhost = $4) AND ($5::bigint = 0 OR port = $5::bigint) AND inventory_id IS NOT NULL LIMIT $6`)
)

// resolveIDs turns exact conditions into a set of ids.
func (s *Store) resolveIDs(ctx context.Context, c *conditions, f *Filter) error {
	if f.ID != "" {
		c.only([]string{f.ID})
	}
	type lookup struct {
		stmt *db.Stmt
		args []any
	}
	var lookups []lookup
	if f.Fingerprint != "" {
		lookups = append(lookups, lookup{qIDByFingerprint, []any{f.Fingerprint}})
	}
	if f.Serial != "" {
		lookups = append(lookups, lookup{qIDsBySerial, []any{serialKeys(f.Serial), f.Serial, fewIDs}})
	}
	if f.SPKI != "" {
		hash, err := unhex(f.SPKI)
		if err != nil {
			return err
		}
		lookups = append(lookups, lookup{qIDsByKey, []any{prefix64(hash), hash, fewIDs}})
	}
	for _, l := range lookups {
		ids, err := db.List(ctx, s.db.Read(), l.stmt, (*db.Row).Text, l.args...)
		if err != nil {
			return fmt.Errorf("find certificates: %w", err)
		}
		c.only(ids)
	}
	return s.resolveEndpoint(ctx, c)
}

func (s *Store) resolveEndpoint(ctx context.Context, c *conditions) error {
	if c.endpoint.Name == "" {
		return nil
	}
	args := append(c.endpoint.args(), int64(c.port), fewIDs+1)
	ids, err := db.List(ctx, s.db.Read(), qIDsByHost, (*db.Row).Text, args...)
	if err != nil {
		return fmt.Errorf("find endpoints: %w", err)
	}
	if len(ids) <= fewIDs {
		c.only(ids)
		c.endpoint, c.port = Host{}, 0
	}
	return nil
}

// only narrows c to ids.
func (c *conditions) only(ids []string) {
	ids = sorted(ids)
	if c.ids != nil {
		have := map[string]bool{}
		for _, id := range c.ids {
			have[id] = true
		}
		kept := ids[:0]
		for _, id := range ids {
			if have[id] {
				kept = append(kept, id)
			}
		}
		ids = kept
	}
	c.ids = append([]string{}, ids...)
	c.never = c.never || len(ids) == 0
}

// args are the bounds of h: lowest, end, lowest below it, and itself.
func (h Host) args() []any {
	if h.Name == "" {
		return []any{"", "", "", ""}
	}
	lo, hi := h.bounds()
	r := reversed(h.Name)
	switch {
	case h.Exact && h.Below:
		return []any{lo, hi, r + ".", r}
	case h.Below:
		return []any{lo, hi, lo, ""}
	}
	return []any{lo, hi, hi, r}
}

// without drops the conditions that the index of p answers.
func (c conditions) without(p *path) *conditions {
	switch p {
	case pathStatus:
		c.statuses = nil
	case pathOwner:
		c.owners = nil
	case pathTeam:
		c.teams = nil
	case pathIssuer:
		c.issuers = nil
	case pathKey:
		c.keys = nil
	case pathName:
		c.name = Host{}
	case pathTag:
		c.tags = c.tags[1:]
	}
	return &c
}

// args are the arguments of residual.
func (c *conditions) args() []any {
	out := []any{list(c.statuses), list(c.owners), list(c.teams), list(c.environments), list(c.issuers), list(c.keys),
		int64(c.source), c.managed, c.ca, c.expires[0], c.expires[1], c.seen[0], c.seen[1], c.words[0], c.words[1], c.words[2],
		list(c.tags), int64(len(c.tags))}
	out = append(out, c.name.args()...)
	out = append(out, c.endpoint.args()...)
	return append(out, int64(c.port))
}

// list is nil for an empty list: no condition.
func list[T any](vs []T) any {
	if len(vs) == 0 {
		return nil
	}
	return vs
}

// walk is a path with its argument, and how much it leaves to conditions.
type walk struct {
	*path
	dir  int
	arg  any
	form form
}

// candidates returns the paths that c can take in an order, the preferred one
// first.
func (c *conditions) candidates(sort Sort) []walk {
	dir := 0
	if strings.HasPrefix(string(sort), "-") {
		dir = 1
	}
	order := strings.TrimPrefix(string(sort), "-")
	switch {
	case c.ids != nil:
		few := map[string]*path{"expires": pathIDs, "seen": pathIDsSeen, "added": pathIDsAdded}
		return []walk{{few[order], dir, c.ids, filtered}}
	case order == "seen":
		return []walk{{pathSeen, dir, nil, c.left(pathSeen)}}
	case order == "added":
		return []walk{{pathAdded, dir, nil, c.left(pathAdded)}}
	}
	if c.name.Name != "" {
		if c.name.Below {
			return []walk{{pathSuffix, dir, nil, filtered}}
		}
		return []walk{{pathName, dir, reversed(c.name.Name), c.left(pathName)}}
	}
	if c.endpoint.Name != "" { // too many to have been resolved
		return []walk{{pathHost, dir, nil, filtered}}
	}
	var out []walk
	add := func(p *path, arg any) { out = append(out, walk{p, dir, arg, c.left(p)}) }
	if len(c.tags) > 0 {
		add(pathTag, c.tags[0])
	}
	single := func(p *path, vs []string) {
		if len(vs) == 1 {
			add(p, vs[0])
		}
	}
	single(pathOwner, c.owners)
	single(pathTeam, c.teams)
	if len(c.issuers) == 1 {
		add(pathIssuer, c.issuers[0])
	}
	single(pathKey, c.keys)
	single(pathStatus, c.statuses)
	if len(out) == 0 {
		add(pathAll, nil)
	}
	return out
}

// left returns how much of c is left when the index of p has answered.
func (c *conditions) left(p *path) form {
	rest := c.without(p)
	for _, is := range []bool{rest.statuses != nil && !rest.visible, rest.owners != nil, rest.teams != nil, rest.environments != nil, rest.issuers != nil,
		rest.keys != nil, rest.source != 0, rest.managed >= 0, rest.ca >= 0, len(rest.tags) > 0, rest.name.Name != "", rest.endpoint.Name != "",
		rest.words != [maxWords]string{}, p != pathSeen && rest.seen != anyTime, (p == pathSeen || p == pathAdded) && rest.expires != anyTime} {
		if is {
			return filtered
		}
	}
	if rest.visible {
		return visible
	}
	return plain
}
