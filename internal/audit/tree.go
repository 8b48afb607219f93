package audit

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/db"
)

// The journal is also a Merkle tree (RFC 6962 section 2.1), whose leaf n is the
// entry with seq n+1. Only one hash in 256 is stored: a node of level k covers
// 256^k entries. A hash below is computed from one page of entries, one between
// two stored levels from one page of nodes.
const (
	nodeBits  = 8
	nodeWidth = 1 << nodeBits
)

var (
	qNodes      = db.SQL("audit.list_nodes", `SELECT hash FROM journal_node WHERE level = $1 AND idx >= $2 AND idx < $3 ORDER BY idx`)
	qLastNode   = db.SQL("audit.last_node", `SELECT idx FROM journal_node WHERE level = $1 ORDER BY idx DESC LIMIT 1`)
	qInsertNode = db.SQL("audit.insert_node", `INSERT INTO journal_node (level, idx, hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
)

// tree reads hashes of the tree from the journal. It keeps the last page of
// each stored level, so it serves one goroutine and a few hashes.
type tree struct {
	ctx   context.Context
	q     db.Q
	pages map[int]page
}

// page holds the hashes of one stored level (0: entries) from index first on.
type page struct {
	first  int64
	hashes []tlog.Hash
}

func newTree(ctx context.Context, q db.Q) *tree {
	return &tree{ctx: ctx, q: q, pages: map[int]page{}}
}

// ReadHashes implements tlog.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		level, n := tlog.SplitStoredHashIndex(index)
		h, err := t.hash(level, n)
		if err != nil {
			return nil, err
		}
		out[i] = h
	}
	return out, nil
}

// hash returns the hash over the 2^level entries from n * 2^level on.
func (t *tree) hash(level int, n int64) (tlog.Hash, error) {
	stored, above := level/nodeBits, level%nodeBits
	from, to := n<<above, (n+1)<<above
	p, err := t.page(stored, from/nodeWidth*nodeWidth)
	if err != nil {
		return tlog.Hash{}, err
	}
	if to-p.first > int64(len(p.hashes)) {
		return tlog.Hash{}, fmt.Errorf("%w: %d nodes of level %d end at %d, %d are needed", errTree, len(p.hashes), stored, p.first+int64(len(p.hashes)), to)
	}
	return fold(p.hashes[from-p.first : to-p.first]), nil
}

// errTree says that the stored tree lacks what the journal once had.
var errTree = errors.New("the tree of the journal is incomplete")

// fold returns the root of a perfect tree over a power of two of hashes.
func fold(h []tlog.Hash) tlog.Hash {
	if len(h) == 1 {
		return h[0]
	}
	return tlog.NodeHash(fold(h[:len(h)/2]), fold(h[len(h)/2:]))
}

// page returns up to nodeWidth hashes of a stored level.
func (t *tree) page(level int, first int64) (page, error) {
	if p, ok := t.pages[level]; ok && p.first == first {
		return p, nil
	}
	p := page{first: first}
	var err error
	if level == 0 {
		p.hashes, err = leafHashes(t.ctx, t.q, first)
	} else {
		p.hashes, err = db.List(t.ctx, t.q, qNodes, scanHash, level, first, first+nodeWidth)
	}
	if err == nil {
		t.pages[level] = p
	}
	return p, err
}

func scanHash(r *db.Row) (h tlog.Hash) {
	copy(h[:], r.Bytes())
	return h
}

// leafHashes returns the leaf hashes of up to nodeWidth entries from leaf first
// on.
func leafHashes(ctx context.Context, q db.Q, first int64) ([]tlog.Hash, error) {
	out, enc := make([]tlog.Hash, 0, nodeWidth), newLeafEncoder()
	err := q.All(ctx, qLeaves, func(r *db.Row) error {
		rec := Record{Seq: r.Int64()}
		rec.scan(r)
		if want := first + int64(len(out)) + 1; rec.Seq != want {
			return fmt.Errorf("%w: entry %d is missing", errTree, want)
		}
		h, err := enc.hash(&rec)
		out = append(out, h)
		return err
	}, first, nodeWidth)
	return out, err
}

// extend stores up to limit nodes that size entries have completed and returns
// how many. Any number of replicas may call it: all compute the same.
func extend(ctx context.Context, d *db.DB, size int64, limit int) (stored int, err error) {
	for level, n := 1, size>>nodeBits; n > 0; level, n = level+1, n>>nodeBits {
		next, err := nodes(ctx, d.Read(), level)
		if err != nil {
			return stored, err
		}
		todo := min(n-next, int64(limit-stored))
		if todo <= 0 {
			continue
		}
		t, hashes := newTree(ctx, d.Read()), make([]tlog.Hash, todo)
		for i := range hashes {
			if hashes[i], err = t.full(level, next+int64(i)); err != nil {
				return stored, err
			}
		}
		err = d.Write(ctx, func(tx *db.Tx) error {
			for i, h := range hashes {
				tx.Queue(qInsertNode, nil, level, next+int64(i), h[:])
			}
			return nil
		})
		if err != nil {
			return stored, fmt.Errorf("store nodes of the journal: %w", err)
		}
		stored += len(hashes)
	}
	return stored, nil
}

// full computes a stored node from the level below it.
func (t *tree) full(level int, idx int64) (tlog.Hash, error) {
	p, err := t.page(level-1, idx*nodeWidth)
	if err == nil && len(p.hashes) != nodeWidth {
		err = fmt.Errorf("%w: node %d of level %d has %d of %d parts", errTree, idx, level, len(p.hashes), nodeWidth)
	}
	if err != nil {
		return tlog.Hash{}, err
	}
	return fold(p.hashes), nil
}

// nodes returns how many nodes of a level are stored.
func nodes(ctx context.Context, q db.Q, level int) (int64, error) {
	last, err := db.Get(ctx, q, qLastNode, (*db.Row).Int64, level)
	if errors.Is(err, db.ErrNotFound) {
		return 0, nil
	}
	return last + 1, err
}
