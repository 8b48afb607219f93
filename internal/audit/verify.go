package audit

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/db"
	"chancery/internal/fault"
)

func encode64(b []byte) string          { return base64.StdEncoding.EncodeToString(b) }
func decode64(s string) ([]byte, error) { return base64.StdEncoding.Strict().DecodeString(s) }

// Report is the result of verifying a part of the journal.
type Report struct {
	Entries     int64  // placed entries from the first on that are now verified
	Checkpoints int    // signed checkpoints compared in this part
	Waiting     int64  // entries that have no place yet
	Head        string // hex hash of the last verified entry
	Done        bool   // the end was reached, or a problem found
	// Problem is the first break, "" when there is none.
	Problem string
}

// VerifyStep is the most entries that VerifyPart takes, so that no request
// lasts long; parts begin at multiples of it.
const VerifyStep = nodeWidth * nodeWidth

// Verify verifies the whole journal.
func Verify(ctx context.Context, d *db.DB) (rep Report, err error) {
	checkpoints := 0
	for !rep.Done && err == nil {
		rep, err = VerifyPart(ctx, d, rep.Entries)
		checkpoints += rep.Checkpoints
	}
	rep.Checkpoints = checkpoints
	return rep, err
}

// VerifyPart recomputes the chain of hashes over up to VerifyStep entries after
// the first ones, which it takes as verified, and compares it with the stored
// hashes, the nodes of the Merkle tree and every checkpoint signed for the
// part. A changed, removed, added or reordered entry is a Problem; err is only
// for a failure to read.
func VerifyPart(ctx context.Context, d *db.DB, after int64) (rep Report, err error) {
	if after < 0 || after%VerifyStep != 0 {
		return rep, fault.New(fault.Invalid, "verification goes on at a multiple of %d entries", VerifyStep)
	}
	err = d.Snapshot(ctx, func(q db.Q) error {
		v := verifier{ctx: ctx, q: q, tree: newTree(ctx, q)}
		rep, err = v.part(after)
		return err
	})
	return rep, err
}

// verifier verifies one part over one consistent state.
type verifier struct {
	ctx  context.Context
	q    db.Q
	tree *tree
	rep  Report
	hash []byte

	fields []byte // of the entry at hand
}

func (v *verifier) part(after int64) (Report, error) {
	v.rep.Entries = after
	steps := []func() error{v.begin, v.chain, v.nodes, v.checkpoints, v.end}
	for _, step := range steps {
		if err := step(); err != nil {
			return v.rep, err
		}
		if v.rep.Problem != "" {
			v.rep.Done = true
			break
		}
	}
	v.rep.Head = hex.EncodeToString(v.hash)
	return v.rep, nil
}

func (v *verifier) problem(format string, args ...any) error {
	v.rep.Problem = fmt.Sprintf(format, args...)
	return nil
}

// begin finds the hash that the part goes on from.
func (v *verifier) begin() (err error) {
	if v.rep.Waiting, err = Backlog(v.ctx, v.q); err != nil {
		return err
	}
	if v.hash = genesis(); v.rep.Entries == 0 {
		return nil
	}
	last, err := Follow(v.ctx, v.q, v.rep.Entries-1, 1)
	if err != nil {
		return err
	}
	if len(last) != 1 || last[0].Seq != v.rep.Entries {
		return v.problem("entry %d is missing", v.rep.Entries)
	}
	v.hash = last[0].Hash
	return nil
}

// chain recomputes the hashes of the entries and of the nodes of level 1.
func (v *verifier) chain() error {
	stop, enc := v.rep.Entries+VerifyStep, newLeafEncoder()
	for v.rep.Entries < stop {
		recs, err := Follow(v.ctx, v.q, v.rep.Entries, nodeWidth)
		if err != nil || len(recs) == 0 {
			return err
		}
		first, leaves := v.rep.Entries, make([]tlog.Hash, len(recs))
		for i := range recs {
			rec, want := &recs[i], v.rep.Entries+1
			if rec.Seq != want {
				return v.problem("entry %d is missing: the next one is %d", want, rec.Seq)
			}
			v.fields = rec.appendFields(v.fields[:0])
			v.hash = chain(v.hash, want, v.fields)
			if string(v.hash) != string(rec.Hash) {
				return v.problem("entry %d (%s, %s) does not match its hash: it, or one before it, was changed", want, rec.ID, rec.Kind)
			}
			if leaves[i], err = enc.hash(rec); err != nil {
				return v.problem("entry %d (%s, %s) cannot be encoded: it was changed", want, rec.ID, rec.Kind)
			}
			v.rep.Entries++
		}
		v.tree.pages[0] = page{first, leaves}
		if err := v.node(1, v.rep.Entries); err != nil || v.rep.Problem != "" {
			return err
		}
	}
	return nil
}

// nodes recomputes the nodes of level 2 and above that end with the part.
func (v *verifier) nodes() error {
	for level := 2; v.rep.Entries>>(nodeBits*level) > 0; level++ {
		if err := v.node(level, v.rep.Entries); err != nil || v.rep.Problem != "" {
			return err
		}
	}
	return nil
}

// node compares the stored node of a level that ends with entry end, if there
// is one, with what is below it.
func (v *verifier) node(level int, end int64) error {
	width := int64(1) << (nodeBits * level)
	if end%width != 0 {
		return nil
	}
	idx := end/width - 1
	stored, err := db.List(v.ctx, v.q, qNodes, scanHash, level, idx, idx+1)
	if err != nil || len(stored) == 0 {
		return err // not stored yet
	}
	want, err := v.tree.full(level, idx)
	if errors.Is(err, errTree) {
		return v.problem("%s", err)
	}
	if err == nil && want != stored[0] {
		return v.problem("the entries %d to %d do not match their node of the tree", idx*width+1, end)
	}
	return err
}

// checkpoints compares every checkpoint of the part.
func (v *verifier) checkpoints() error {
	vkeys, err := Signers(v.ctx, v.q)
	if err != nil {
		return err
	}
	from := (v.rep.Entries - 1) / VerifyStep * VerifyStep
	list, err := db.List(v.ctx, v.q, qCheckpoints, scanCheckpoint, from, v.rep.Entries)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := openNote(c.Note, vkeys); err != nil {
			return v.problem("the checkpoint of %d entries is not signed by a key of this journal: %v", c.Size, err)
		}
		problem, err := v.tree.compare(c)
		if err != nil || problem != "" {
			v.rep.Problem = problem
			return err
		}
		v.rep.Checkpoints++
	}
	return nil
}

// end finds entries removed from the end, which break no link.
func (v *verifier) end() error {
	var seq int64
	var stored []byte
	err := v.q.One(v.ctx, qHead, func(r *db.Row) { seq, stored = r.Int64(), r.Bytes() })
	switch {
	case errors.Is(err, db.ErrNotFound) && v.rep.Entries == 0:
		v.rep.Done = true
		return nil
	case errors.Is(err, db.ErrNotFound):
		return v.problem("the head of the journal is missing")
	case err != nil:
		return err
	case seq > v.rep.Entries && v.rep.Entries%VerifyStep == 0 && v.rep.Entries > 0:
		return v.more()
	case seq != v.rep.Entries || string(stored) != string(v.hash):
		return v.problem("the journal ends at entry %d, its head says %d: entries were removed", v.rep.Entries, seq)
	}
	v.rep.Done = true
	latest, err := Latest(v.ctx, v.q)
	if err == nil && latest.Size > seq {
		return v.problem("the journal ends at entry %d, a checkpoint speaks of %d: entries were removed", seq, latest.Size)
	}
	return err
}

// more makes sure that the next part begins with an entry, so that a journal
// cut at the end of a part is noticed.
func (v *verifier) more() error {
	next, err := Follow(v.ctx, v.q, v.rep.Entries, 1)
	if err == nil && len(next) == 0 {
		return v.problem("the journal ends at entry %d before its head: entries were removed", v.rep.Entries)
	}
	return err
}
