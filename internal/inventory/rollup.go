package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// dayMillis is one UTC day.
const dayMillis = 24 * 60 * 60 * 1000

// dims are the dimensions by which certificates are counted.
type dims struct {
	day         int64 // not_after / dayMillis
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
}

// grains are ordered from the cheapest to read to the dearest.
var grains = []grain{
	{"make", []Dimension{ByStatus, ByIssuer, ByKey, ByEnvironment}, func(d dims) dims {
		return dims{status: d.status, issuer: d.issuer, key: d.key, environment: d.environment}
	}},
	{"place", []Dimension{ByStatus, ByOwner, ByTeam, ByEnvironment}, func(d dims) dims {
		return dims{status: d.status, owner: d.owner, team: d.team, environment: d.environment}
	}},
	{"origin", []Dimension{ByStatus, ByIssuer, ByEnvironment, BySource, ByManaged}, func(d dims) dims {
		return dims{status: d.status, issuer: d.issuer, environment: d.environment, source: d.source, managed: d.managed}
	}},
	{"held", []Dimension{ByStatus, ByOwner, BySource, ByManaged}, func(d dims) dims {
		return dims{status: d.status, owner: d.owner, source: d.source, managed: d.managed}
	}},
	{"facet", []Dimension{ByStatus, ByIssuer, ByKey, ByOwner, ByTeam}, func(d dims) dims {
		return dims{status: d.status, issuer: d.issuer, key: d.key, owner: d.owner, team: d.team}
	}},
	{"expiry", []Dimension{ByDay, ByStatus, ByIssuer, ByKey}, func(d dims) dims {
		return dims{day: d.day, status: d.status, issuer: d.issuer, key: d.key}
	}},
	{"group", []Dimension{ByDay, ByStatus, ByTeam, ByEnvironment}, func(d dims) dims {
		return dims{day: d.day, status: d.status, team: d.team, environment: d.environment}
	}},
	{"owner", []Dimension{ByDay, ByStatus, ByOwner}, func(d dims) dims { return dims{day: d.day, status: d.status, owner: d.owner} }},
}

// covering returns the cheapest grain that has all of want, or nil.
func covering(want ...Dimension) *grain {
	for i := range grains {
		all := true
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
	qRecount    = recountStatements()
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

// recountStatements returns, per grain, the statement that counts anew.
func recountStatements() []*db.Stmt {
	source := map[Dimension]string{ByDay: fmt.Sprintf("not_after / %d", dayMillis), ByStatus: "status", ByIssuer: "issuer_id", ByKey: "key_type",
		ByOwner: "owner", ByTeam: "team", ByEnvironment: "environment", BySource: "source", ByManaged: "managed"}
	empty := map[Dimension]string{ByDay: "0", ByStatus: "''", ByIssuer: "0", ByKey: "''", ByOwner: "''", ByTeam: "''", ByEnvironment: "''", BySource: "0", ByManaged: "0"}
	var out []*db.Stmt
	for _, g := range grains {
		var values, group []string
		for _, d := range []Dimension{ByDay, ByStatus, ByIssuer, ByKey, ByOwner, ByTeam, ByEnvironment, BySource, ByManaged} {
			if !slices.Contains(g.dims, d) {
				values = append(values, empty[d])
				continue
			}
			values = append(values, source[d])
			group = append(group, source[d])
		}
		out = append(out, db.SQL("inventory.recount_"+g.name, `INSERT INTO inventory_rollup (`+rollupKey+`, n)
			SELECT '`+g.name+`', `+strings.Join(values, ", ")+`, count(*) FROM inventory GROUP BY `+strings.Join(group, ", "),
			db.Scan("counts every certificate anew")))
	}
	return out
}

// Rebuild counts everything anew, in one transaction. Roll-ups follow every
// change by themselves; this is for a restored or damaged database, and holds
// up other structural changes for some seconds per million certificates.
func (s *Store) Rebuild(ctx context.Context) error {
	err := s.change(ctx, func(ctx context.Context, c *change) error {
		if _, err := c.tx.Exec(ctx, qClearCells); err != nil {
			return err
		}
		for _, q := range qRecount {
			if _, err := c.tx.Exec(ctx, q); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("rebuild roll-ups: %w", err)
	}
	return nil
}
