package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// dayMillis is one UTC day.
const dayMillis = 24 * 60 * 60 * 1000

// dims are the dimensions by which certificates are counted.
type dims struct {
	day         int64 // of not_after, see dayOf
	status      Status
	issuer      int64
	key         string
	owner       string
	team        string
	environment string
	source      Source
	managed     int64
}

// Dimension names one of dims.
type Dimension string

// Dimensions that counts and facets are taken by.
const (
	ByDay         Dimension = "day"
	ByStatus      Dimension = "status"
	ByIssuer      Dimension = "issuer"
	ByKey         Dimension = "key"
	ByOwner       Dimension = "owner"
	ByTeam        Dimension = "team"
	ByEnvironment Dimension = "env"
	BySource      Dimension = "source"
	ByManaged     Dimension = "managed"
)

// Dimensions lists every dimension that Facets accepts.
var Dimensions = []Dimension{ByStatus, ByIssuer, ByKey, ByOwner, ByTeam, ByEnvironment, BySource, ByManaged}

// columns of inventory_rollup by dimension.
var rollupColumn = map[Dimension]string{
	ByDay: "day", ByStatus: "status", ByIssuer: "issuer_id", ByKey: "key_type", ByOwner: "owner",
	ByTeam: "team", ByEnvironment: "environment", BySource: "source", ByManaged: "managed",
}

// grain is one set of dimensions that is counted together. The whole cube
// would have nearly a cell per certificate; these few answer what the screens
// ask, with some thousand cells each.
type grain struct {
	name string
	dims []Dimension
	keep func(dims) dims
	// blocks marks the grain that has the cells of another one by day summed up
	// over blocks of days.
	blocks bool
}

// blockDays is how many days make a block. A span of days is some whole blocks
// and fewer than two of them in days, however long it is.
const blockDays = 16

// blockSuffix is what the name of a grain of blocks has behind that of the
// grain of days.
const blockSuffix = "_blocks"

// floor is the greatest multiple of n up to v.
func floor(v, n int64) int64 { return v - (v%n+n)%n }

// dayOf is the day of an instant, blockOf the first day of the block of a day.
func dayOf(ms int64) int64    { return floor(ms, dayMillis) / dayMillis }
func blockOf(day int64) int64 { return floor(day, blockDays) }

// grains are ordered from the cheapest to read to the dearest, those of blocks
// at the end.
var grains = withBlocks([]grain{
	{name: "kind", dims: []Dimension{ByStatus, ByKey, BySource, ByManaged}, keep: func(d dims) dims {
		return dims{status: d.status, key: d.key, source: d.source, managed: d.managed}
	}},
	{name: "make", dims: []Dimension{ByStatus, ByIssuer, ByKey, ByEnvironment}, keep: func(d dims) dims {
		return dims{status: d.status, issuer: d.issuer, key: d.key, environment: d.environment}
	}},
	{name: "place", dims: []Dimension{ByStatus, ByOwner, ByTeam, ByEnvironment}, keep: func(d dims) dims {
		return dims{status: d.status, owner: d.owner, team: d.team, environment: d.environment}
	}},
	{name: "held", dims: []Dimension{ByStatus, ByOwner, BySource, ByManaged}, keep: func(d dims) dims {
		return dims{status: d.status, owner: d.owner, source: d.source, managed: d.managed}
	}},
	{name: "origin", dims: []Dimension{ByStatus, ByIssuer, ByKey, ByEnvironment, BySource, ByManaged}, keep: func(d dims) dims {
		return dims{status: d.status, issuer: d.issuer, key: d.key, environment: d.environment, source: d.source, managed: d.managed}
	}},
	{name: "facet", dims: []Dimension{ByStatus, ByIssuer, ByKey, ByOwner, ByTeam}, keep: func(d dims) dims {
		return dims{status: d.status, issuer: d.issuer, key: d.key, owner: d.owner, team: d.team}
	}},
	{name: "arrival", dims: []Dimension{ByDay, ByStatus, BySource, ByManaged}, keep: func(d dims) dims {
		return dims{day: d.day, status: d.status, source: d.source, managed: d.managed}
	}},
	{name: "expiry", dims: []Dimension{ByDay, ByStatus, ByIssuer, ByKey}, keep: func(d dims) dims {
		return dims{day: d.day, status: d.status, issuer: d.issuer, key: d.key}
	}},
	{name: "group", dims: []Dimension{ByDay, ByStatus, ByTeam, ByEnvironment}, keep: func(d dims) dims {
		return dims{day: d.day, status: d.status, team: d.team, environment: d.environment}
	}},
	{name: "owner", dims: []Dimension{ByDay, ByStatus, ByOwner}, keep: func(d dims) dims {
		return dims{day: d.day, status: d.status, owner: d.owner}
	}},
})

// withBlocks adds the grains of blocks to those by day.
func withBlocks(all []grain) []grain {
	for _, g := range all {
		if !slices.Contains(g.dims, ByDay) {
			continue
		}
		all = append(all, grain{name: g.name + blockSuffix, dims: g.dims, blocks: true, keep: func(d dims) dims {
			d.day = blockOf(d.day)
			return g.keep(d)
		}})
	}
	return all
}

// covering returns the cheapest grain that has all of want, or nil.
func covering(want ...Dimension) *grain {
	for i := range grains {
		all := !grains[i].blocks
		for _, d := range want {
			all = all && slices.Contains(grains[i].dims, d)
		}
		if all {
			return &grains[i]
		}
	}
	return nil
}

// cell is one counter.
type cell struct {
	grain int
	dims
}

// ledger gathers the changes of counters within one transaction.
type ledger map[cell]int64

func (l ledger) add(d dims, n int64) {
	for i := range grains {
		l[cell{i, grains[i].keep(d)}] += n
	}
}

// sorted returns the cells in the order of the primary key: it keeps the
// writes close together.
func (l ledger) sorted() []cell {
	cells := make([]cell, 0, len(l))
	for c, n := range l {
		if n != 0 {
			cells = append(cells, c)
		}
	}
	slices.SortFunc(cells, func(a, b cell) int {
		return cmp.Or(cmp.Compare(a.grain, b.grain), cmp.Compare(a.day, b.day), strings.Compare(string(a.status), string(b.status)),
			cmp.Compare(a.issuer, b.issuer), strings.Compare(a.key, b.key), strings.Compare(a.owner, b.owner), strings.Compare(a.team, b.team),
			strings.Compare(a.environment, b.environment), cmp.Compare(a.source, b.source), cmp.Compare(a.managed, b.managed))
	})
	return cells
}

func (c cell) row(n int64) []any {
	return []any{grains[c.grain].name, c.day, c.status, c.issuer, c.key, c.owner, c.team, c.environment, int64(c.source), c.managed, n}
}

// rollupKey are the columns of the primary key, in order.
const rollupKey = `grain, day, status, issuer_id, key_type, owner, team, environment, source, managed`

var (
	putCells = db.BulkInsert("inventory.insert_cells", "inventory_rollup", false,
		"grain", "day", "status", "issuer_id", "key_type", "owner", "team", "environment", "source", "managed", "n")
	qAddCell = db.SQL("inventory.add_cell", `INSERT INTO inventory_rollup (`+rollupKey+`, n)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (`+rollupKey+`) DO UPDATE SET n = inventory_rollup.n + excluded.n`)
	qClearCells = db.SQL("inventory.delete_cells", `DELETE FROM inventory_rollup`, db.Scan("rebuilds the table"))
	qAllDims    = db.SQL("inventory.list_dimensions", `SELECT not_after, status, issuer_id, key_type, owner, team, environment, source, managed FROM inventory`,
		db.Scan("counts every certificate anew"), db.Long("the same"))
)

// maxOwners bounds Owners.
const maxOwners = 10_000

var qOwners = db.SQL("inventory.list_owners", `SELECT owner FROM inventory_rollup WHERE grain = 'owner' GROUP BY owner ORDER BY owner LIMIT $1`)

// Owners returns every owner that has, or had, certificates, in order.
func (s *Store) Owners(ctx context.Context) ([]string, error) {
	owners, err := db.List(ctx, s.db.Read(), qOwners, (*db.Row).Text, maxOwners+1)
	if err != nil {
		return nil, fmt.Errorf("list owners: %w", err)
	}
	if len(owners) > maxOwners {
		return nil, fault.New(fault.TooLarge, "there are more than %d owners, which a limited sign-in cannot be held against", maxOwners)
	}
	return owners, nil
}

// flush queues the changes of l.
func (l ledger) flush(tx *db.Tx) {
	for _, c := range l.sorted() {
		tx.Queue(qAddCell, nil, c.row(l[c])...)
	}
	clear(l)
}

// Rebuild counts everything anew, in one transaction. Roll-ups follow every
// change by themselves; this is for a damaged database, and holds up other
// structural changes for some seconds per million certificates.
func (s *Store) Rebuild(ctx context.Context) error {
	_, err := s.rebuild(ctx, nil)
	return err
}

// rebuild also runs more, if it is not nil, in the transaction. It returns how
// many certificates there are.
func (s *Store) rebuild(ctx context.Context, more func(*db.Tx)) (n int64, err error) {
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		n = 0
		if _, err := c.tx.Exec(ctx, qClearCells); err != nil {
			return err
		}
		if more != nil {
			more(c.tx)
		}
		return c.tx.All(ctx, qAllDims, func(r *db.Row) error {
			c.counts.add(dims{day: dayOf(r.Int64()), status: Status(r.Word()), issuer: r.Int64(), key: r.Word(), owner: r.Word(), team: r.Word(),
				environment: r.Word(), source: Source(r.Int64()), managed: r.Int64()}, 1)
			n++
			return nil
		})
	})
	if err != nil {
		return 0, fmt.Errorf("rebuild roll-ups: %w", err)
	}
	return n, nil
}

// The setting that says which grains the roll-ups have. Whoever changes grains
// counts rollupShape up.
const (
	rollupSetting = "inventory.rollups"
	rollupShape   = "2"
)

// Upgrade counts everything anew if the roll-ups were kept, or dumped, by a
// program with other grains, and returns how many certificates that were. Call it
// before the counts are asked for.
func (s *Store) Upgrade(ctx context.Context, now time.Time) (counted int64, err error) {
	shape, err := db.Get(ctx, s.db.Read(), qSetting, (*db.Row).Text, rollupSetting)
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return 0, fmt.Errorf("read shape of roll-ups: %w", err)
	}
	if shape == rollupShape {
		return 0, nil
	}
	return s.rebuild(ctx, func(tx *db.Tx) { tx.Queue(qSetSetting, nil, rollupSetting, rollupShape, now) })
}
