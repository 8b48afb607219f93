// Package audit keeps the journal: an append-only, hash-chained record of
// everything that changed trust (keys, certificates, accounts, tokens).
//
// An entry is written in the transaction of the change it records, so neither
// exists without the other. Giving each entry its place in the chain there
// would put one lock around every write of the fleet; a sequencer does it
// shortly after the commit instead, in one transaction per batch. The chain
// order is therefore the order in which commits were seen, without gaps, and
// a reader that follows seq never misses an entry of a long transaction.
//
// Entries hold no secret: callers pass identifiers and hashes, never keys,
// tokens or request bodies.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json/v2"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"chancery/internal/db"
)

// Kind names what happened, as "object.verb".
type Kind string

// Entry is one event.
type Entry struct {
	At      time.Time
	Kind    Kind
	Actor   string // who: "account:ID", "token:NAME", "system"
	Subject string // on what: "certificate:ID", "order:ID", "authority:NAME"
	Data    any    // details, a struct or map that encodes as a JSON object, or a Raw; nil = {}
}

// Raw is Data that is encoded already: the text of a JSON object.
type Raw string

var (
	qInsert = db.SQL("audit.insert_entry", `INSERT INTO journal (id, at, kind, actor, subject, data) VALUES ($1, $2, $3, $4, $5, $6)`)

	qWaiting = db.SQL("audit.list_waiting", `SELECT id, at, kind, actor, subject, data FROM journal
		WHERE seq IS NULL ORDER BY id LIMIT $1`)
	qUnplaced = db.SQL("audit.list_unplaced", `SELECT id, at, kind, actor, subject, data FROM journal WHERE seq IS NULL ORDER BY id`)
	qPlace    = db.SQL("audit.place_entry", `UPDATE journal SET seq = $2, hash = $3 WHERE id = $1 AND seq IS NULL`)
	qHead     = db.SQL("audit.read_head", `SELECT seq, hash FROM journal_head WHERE id = 1`)
	qBegin    = db.SQL("audit.insert_head", `INSERT INTO journal_head (id, seq, hash) VALUES (1, 0, $1) ON CONFLICT DO NOTHING`)
	qMove     = db.SQL("audit.move_head", `UPDATE journal_head SET seq = $2, hash = $3 WHERE id = 1 AND seq = $1`)
	qFollow   = db.SQL("audit.follow_entries", `SELECT seq, hash, id, at, kind, actor, subject, data FROM journal
		WHERE seq > $1 ORDER BY seq LIMIT $2`)
	qLeaves = db.SQL("audit.list_leaves", `SELECT seq, id, at, kind, actor, subject, data FROM journal
		WHERE seq > $1 ORDER BY seq LIMIT $2`)
	qSkim = db.SQL("audit.skim_entries", `SELECT seq, kind, subject, hash, id, at, actor, data FROM journal
		WHERE seq > $1 ORDER BY seq LIMIT $2`)
	qBySubject = db.SQL("audit.list_by_subject", `SELECT COALESCE(seq, 0), hash, id, at, kind, actor, subject, data FROM journal
		WHERE subject = $1 AND id > $2 ORDER BY id LIMIT $3`)
	qBySubjects = db.SQL("audit.list_by_subjects", `SELECT COALESCE(seq, 0), hash, id, at, kind, actor, subject, data FROM journal
		WHERE subject = ANY($1::text[]) ORDER BY subject, id`)
	qBacklog = db.SQL("audit.count_waiting", `SELECT count(*) FROM journal WHERE seq IS NULL`)
)

// Append adds e to the transaction. It cannot fail before the commit does.
func Append(tx *db.Tx, e Entry) error {
	data := "{}"
	if raw, ok := e.Data.(Raw); ok {
		data = string(raw)
	} else if e.Data != nil {
		b, err := json.Marshal(e.Data, json.Deterministic(true))
		if err != nil {
			return fmt.Errorf("encode journal entry %s: %w", e.Kind, err)
		}
		data = string(b)
	}
	row := &struct{ id, data string }{db.NewID(e.At), data}
	tx.Queue(qInsert, nil, &row.id, &e.At, (*string)(&e.Kind), &e.Actor, &e.Subject, &row.data)
	return nil
}

// Record is an entry as it stands in the journal.
type Record struct {
	Seq     int64     `json:"seq"` // 0: not placed yet
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	Kind    Kind      `json:"kind"`
	Actor   string    `json:"actor"`
	Subject string    `json:"subject"`
	Data    string    `json:"data"` // JSON object
	Hash    []byte    `json:"hash"` // of this entry and all before it
}

// scan reads the fields of an entry, beside its place.
func (r *Record) scan(row *db.Row) {
	r.ID, r.At, r.Kind, r.Actor, r.Subject, r.Data = row.Text(), row.Time(), Kind(row.Word()), row.Text(), row.Text(), row.Text()
}

func scanRecord(r *db.Row) Record {
	rec := Record{Seq: r.Int64(), Hash: r.Bytes()}
	rec.scan(r)
	return rec
}

// chain returns the hash of an entry behind prev: SHA-256 over prev, its place
// and its fields.
func chain(prev []byte, seq int64, fields []byte) []byte {
	var small [512]byte
	b := append(small[:0], prev...)
	b = binary.BigEndian.AppendUint64(b, uint64(seq))
	sum := sha256.Sum256(append(b, fields...))
	return sum[:]
}

// appendFields appends every field of rec, each with its length, so that no two
// records share an encoding.
func (r *Record) appendFields(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.At.UnixMilli()))
	for _, s := range [...]string{r.ID, string(r.Kind), r.Actor, r.Subject, r.Data} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// unplaced are entries that wait for their place, with their fields as
// Record.appendFields writes them, one behind the other.
type unplaced struct {
	fields  []byte
	entries []place
}

// place is that of an entry: in the chain, and in unplaced.fields, where it ends.
type place struct {
	id   string
	end  int
	seq  int64
	hash []byte
}

// spare is the memory of a run of the sequencer, for the next one.
var spare atomic.Pointer[unplaced]

// maxSpare bounds it, in octets of fields.
const maxSpare = 1 << 20

// add takes an entry of qWaiting.
func (u *unplaced) add(r *db.Row) error {
	id := r.Text()
	b := binary.BigEndian.AppendUint64(u.fields, uint64(r.Time().UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(len(id)))
	b = append(b, id...)
	for range 4 {
		from := len(b) + 8
		b = r.AppendText(append(b, 0, 0, 0, 0, 0, 0, 0, 0))
		binary.BigEndian.PutUint64(b[from-8:], uint64(len(b)-from))
	}
	u.fields = b
	u.entries = append(u.entries, place{id: id, end: len(b)})
	return nil
}

// genesis is the hash before the first entry.
func genesis() []byte {
	h := sha256.Sum256([]byte("chancery journal v1"))
	return h[:]
}

// errMoved means that another replica's sequencer was faster.
var errMoved = errors.New("journal head moved")

// Sequence places up to limit waiting entries at the end of the chain and
// returns how many. Any number of replicas may call it; the head moves only
// once per position.
func Sequence(ctx context.Context, d *db.DB, limit int) (placed int, err error) {
	u := spare.Swap(nil)
	if u == nil {
		u = new(unplaced)
	}
	defer func() {
		if cap(u.fields) <= maxSpare {
			spare.Store(u)
		}
	}()
	err = d.Write(ctx, func(tx *db.Tx) error {
		placed = 0
		u.fields, u.entries = u.fields[:0], u.entries[:0]
		if err := tx.All(ctx, qWaiting, u.add, limit); err != nil || len(u.entries) == 0 {
			return err
		}
		seq, hash, err := head(ctx, tx)
		if err != nil {
			return err
		}
		from, start, once := seq, 0, db.ExactlyOne(errMoved)
		for i := range u.entries {
			e := &u.entries[i]
			seq++
			hash = chain(hash, seq, u.fields[start:e.end])
			e.seq, e.hash, start = seq, hash, e.end
			tx.Queue(qPlace, once, &e.id, &e.seq, &e.hash)
		}
		tx.Queue(qMove, once, from, seq, hash)
		placed = len(u.entries)
		return nil
	})
	if errors.Is(err, errMoved) || errors.Is(err, db.ErrConflict) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("sequence journal: %w", err)
	}
	return placed, nil
}

func head(ctx context.Context, tx *db.Tx) (seq int64, hash []byte, err error) {
	read := func() error {
		return tx.One(ctx, qHead, func(r *db.Row) { seq, hash = r.Int64(), r.Bytes() })
	}
	if err = read(); !errors.Is(err, db.ErrNotFound) {
		return seq, hash, err
	}
	if _, err = tx.Exec(ctx, qBegin, genesis()); err != nil {
		return 0, nil, err
	}
	err = read()
	return seq, hash, err
}

// Head returns the seq of the last placed entry, 0 for an empty journal. Who
// reads a state and then follows from the Head read before it misses nothing.
func Head(ctx context.Context, q db.Q) (int64, error) {
	seq, err := db.Get(ctx, q, qHead, (*db.Row).Int64)
	if errors.Is(err, db.ErrNotFound) {
		return 0, nil
	}
	return seq, err
}

// Follow returns up to limit placed entries after seq, in order, without gaps.
func Follow(ctx context.Context, q db.Q, seq int64, limit int) ([]Record, error) {
	return db.List(ctx, q, qFollow, scanRecord, seq, limit)
}

// Skim calls each for up to limit placed entries after seq, in order, and returns
// how many there were and the Seq of the last. It is Follow for those who act on
// some kinds of entries only: the others have nothing but Seq, Kind and Subject.
// The entry is each's until it returns.
func Skim(ctx context.Context, q db.Q, seq int64, limit int, whole func(Kind) bool, each func(*Record) error) (n int, last int64, err error) {
	last = seq
	var rec Record
	err = q.All(ctx, qSkim, func(r *db.Row) error {
		rec = Record{Seq: r.Int64(), Kind: Kind(r.Word()), Subject: r.Text()}
		if whole(rec.Kind) {
			rec.Hash, rec.ID, rec.At, rec.Actor, rec.Data = r.Bytes(), r.Text(), r.Time(), r.Text(), r.Text()
		}
		n, last = n+1, rec.Seq
		return each(&rec)
	}, seq, limit)
	return n, last, err
}

// BySubject returns up to limit entries about subject, oldest first, after the
// entry with id after ("" = from the first).
func BySubject(ctx context.Context, q db.Q, subject, after string, limit int) ([]Record, error) {
	return db.List(ctx, q, qBySubject, scanRecord, subject, after, limit)
}

// BySubjects returns all entries about each of some subjects, oldest first.
func BySubjects(ctx context.Context, q db.Q, subjects []string) (map[string][]Record, error) {
	all := make(map[string][]Record, len(subjects))
	err := q.All(ctx, qBySubjects, func(r *db.Row) error {
		rec := scanRecord(r)
		all[rec.Subject] = append(all[rec.Subject], rec)
		return nil
	}, subjects)
	return all, err
}

// Waiting calls f for every entry that waits for its place, oldest first. There
// are few: the sequencer runs several times a second.
func Waiting(ctx context.Context, q db.Q, f func(*Record) error) error {
	return q.All(ctx, qUnplaced, func(r *db.Row) error {
		var rec Record
		rec.scan(r)
		return f(&rec)
	})
}

// Backlog returns the number of entries that wait for their place.
func Backlog(ctx context.Context, q db.Q) (int64, error) {
	return db.Get(ctx, q, qBacklog, (*db.Row).Int64)
}
