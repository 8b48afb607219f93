package audit

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/db"
	"chancery/internal/fault"
)

var (
	qLastCheckpoint   = db.SQL("audit.last_checkpoint", `SELECT size, note, created_at FROM journal_checkpoint ORDER BY size DESC LIMIT 1`, db.Scan("ends with the first row"))
	qListCheckpoints  = db.SQL("audit.list_checkpoints", `SELECT size, note, created_at FROM journal_checkpoint WHERE size < $1 ORDER BY size DESC LIMIT $2`)
	qCheckpoints      = db.SQL("audit.list_checkpoints_between", `SELECT size, note, created_at FROM journal_checkpoint WHERE size > $1 AND size <= $2 ORDER BY size`)
	qInsertCheckpoint = db.SQL("audit.insert_checkpoint", `INSERT INTO journal_checkpoint (size, note, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	qInsertSigner     = db.SQL("audit.insert_signer", `INSERT INTO journal_signer (vkey, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`)
	qListSigners      = db.SQL("audit.list_signers", `SELECT vkey FROM journal_signer ORDER BY created_at, vkey`, db.Scan("one row per change of key"))
)

// Checkpoint is a signed statement about the first Size entries of the journal:
// a signed note (C2SP signed-note, tlog-checkpoint) whose text has the lines
// origin, size, and the root of the Merkle tree in base64.
type Checkpoint struct {
	Size int64
	Note string
	At   time.Time
}

func scanCheckpoint(r *db.Row) Checkpoint {
	return Checkpoint{Size: r.Int64(), Note: r.Text(), At: r.Time()}
}

// noteSigner signs notes with a key of the key store.
type noteSigner struct {
	name string
	hash uint32
	key  crypto.Signer
}

func (s *noteSigner) Name() string    { return s.name }
func (s *noteSigner) KeyHash() uint32 { return s.hash }
func (s *noteSigner) Sign(msg []byte) ([]byte, error) {
	return s.key.Sign(nil, msg, crypto.Hash(0))
}

// Log signs checkpoints of the journal of a database.
type Log struct {
	db     *db.DB
	signer *noteSigner
	vkey   string
}

// NewLog returns the log of d under an origin, a name without white space or
// "+" such as "ca.example.com/journal". key is an Ed25519 key (RFC 8032).
func NewLog(d *db.DB, origin string, key crypto.Signer) (*Log, error) {
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("open journal key: %T is not an Ed25519 key", key.Public())
	}
	vkey, err := note.NewEd25519VerifierKey(origin, pub)
	if err != nil {
		return nil, fmt.Errorf("open journal key: %w", err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("open journal key: %w", err)
	}
	return &Log{db: d, signer: &noteSigner{origin, v.KeyHash(), key}, vkey: vkey}, nil
}

// VerifierKey returns the public key of the log in the form that checkers of
// signed notes read: name+hash+base64.
func (l *Log) VerifierKey() string { return l.vkey }

// nodeBatch is the most nodes stored by one tick, 256 entries each.
const nodeBatch = 256

// Tick stores the nodes that new entries have completed and signs a checkpoint
// if there are any. It signs nothing that does not extend the last checkpoint.
func (l *Log) Tick(ctx context.Context, now time.Time) (done int, more bool, err error) {
	size, err := Head(ctx, l.db.Read())
	if err != nil {
		return 0, false, err
	}
	stored, err := extend(ctx, l.db, size, nodeBatch)
	if err != nil || stored == nodeBatch {
		return stored, stored == nodeBatch, err
	}
	last, err := Latest(ctx, l.db.Read())
	if err != nil || last.Size >= size {
		return 0, false, err
	}
	return 1, false, l.sign(ctx, last, size, now)
}

// sign stores the checkpoint of size entries behind last.
func (l *Log) sign(ctx context.Context, last Checkpoint, size int64, now time.Time) error {
	t := newTree(ctx, l.db.Read())
	if problem, err := t.compare(last); err != nil || problem != "" {
		return errors.Join(err, text(problem))
	}
	root, err := tlog.TreeHash(size, t)
	if err != nil {
		return err
	}
	body := fmt.Sprintf("%s\n%d\n%s\n", l.signer.name, size, root)
	signed, err := note.Sign(&note.Note{Text: body}, l.signer)
	if err != nil {
		return fmt.Errorf("sign checkpoint: %w", err)
	}
	return l.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertSigner, nil, l.vkey, now)
		tx.Queue(qInsertCheckpoint, nil, size, string(signed), now)
		return nil
	})
}

func text(problem string) error {
	if problem == "" {
		return nil
	}
	return fmt.Errorf("refuse to sign: %s", problem)
}

// compare says what is wrong with a checkpoint against the tree, "" for nothing.
func (t *tree) compare(c Checkpoint) (problem string, err error) {
	if c.Size == 0 {
		return "", nil
	}
	_, size, want, err := parseCheckpoint(c.Note)
	if err != nil || size != c.Size {
		return fmt.Sprintf("the checkpoint of %d entries is not readable", c.Size), nil
	}
	got, err := tlog.TreeHash(c.Size, t)
	if errors.Is(err, errTree) {
		return err.Error(), nil
	}
	if err == nil && got != want {
		return fmt.Sprintf("the first %d entries do not match the checkpoint that was signed for them", c.Size), nil
	}
	return "", err
}

// parseCheckpoint reads the text of a checkpoint. The signature is not checked.
func parseCheckpoint(msg string) (origin string, size int64, root tlog.Hash, err error) {
	lines := strings.SplitN(msg, "\n", 5)
	if len(lines) != 5 || lines[3] != "" {
		return "", 0, root, errors.New("not a checkpoint")
	}
	if _, err := fmt.Sscanf(lines[1], "%d", &size); err != nil || size <= 0 || fmt.Sprint(size) != lines[1] {
		return "", 0, root, errors.New("the size of the checkpoint is not a number")
	}
	root, err = tlog.ParseHash(lines[2])
	return lines[0], size, root, err
}

// Latest returns the newest checkpoint, or one of size 0 when there is none.
func Latest(ctx context.Context, q db.Q) (Checkpoint, error) {
	c, err := db.Get(ctx, q, qLastCheckpoint, scanCheckpoint)
	if errors.Is(err, db.ErrNotFound) {
		return Checkpoint{}, nil
	}
	return c, err
}

// Checkpoints returns up to limit checkpoints smaller than before, the largest
// first.
func Checkpoints(ctx context.Context, q db.Q, before int64, limit int) ([]Checkpoint, error) {
	return db.List(ctx, q, qListCheckpoints, scanCheckpoint, before, limit)
}

// Signers returns the verifier keys that have signed checkpoints, oldest first.
// Who checks the journal of somebody else must have them from elsewhere.
func Signers(ctx context.Context, q db.Q) ([]string, error) {
	return db.List(ctx, q, qListSigners, (*db.Row).Text)
}

// openNote checks the signature of a checkpoint by one of some verifier keys.
func openNote(msg string, vkeys []string) error {
	var known []note.Verifier
	for _, k := range vkeys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return fault.Wrap(err, fault.Invalid, "the verifier key %.200q is not one of a signed note", k)
		}
		known = append(known, v)
	}
	origin, _, _, err := parseCheckpoint(msg)
	if err != nil {
		return err
	}
	n, err := note.Open([]byte(msg), note.VerifierList(known...))
	if err != nil {
		return err
	}
	for _, s := range n.Sigs {
		if s.Name == origin {
			return nil
		}
	}
	return errors.New("the checkpoint is not signed by the key of its origin")
}

// Proof shows that an entry is in the journal that a checkpoint speaks of.
type Proof struct {
	Index      int64       // of the leaf, from 0: seq - 1
	Leaf       []byte      // the entry: see Record.Leaf
	Path       []tlog.Hash // audit path, RFC 6962 section 2.1.1
	Checkpoint string
}

// Prove returns the proof of a placed entry under the latest checkpoint. The
// error is a fault: notFound, or unavailable while no checkpoint covers it.
func Prove(ctx context.Context, q db.Q, seq int64) (Proof, error) {
	recs, err := Follow(ctx, q, seq-1, 1)
	if err != nil {
		return Proof{}, err
	}
	if seq <= 0 || len(recs) != 1 || recs[0].Seq != seq {
		return Proof{}, fault.New(fault.NotFound, "the journal has no entry %d", seq)
	}
	c, err := Latest(ctx, q)
	if err != nil {
		return Proof{}, err
	}
	if c.Size < seq {
		return Proof{}, fault.New(fault.Unavailable, "entry %d is newer than the last checkpoint, of %d entries; the next one covers it", seq, c.Size).Retry(time.Minute)
	}
	leaf, err := recs[0].Leaf()
	if err != nil {
		return Proof{}, err
	}
	path, err := tlog.ProveRecord(c.Size, seq-1, newTree(ctx, q))
	return Proof{Index: seq - 1, Leaf: leaf, Path: path, Checkpoint: c.Note}, err
}

// Consistency returns the proof that the journal of the first size entries is a
// beginning of that of the latest checkpoint (RFC 6962 section 2.1.2).
func Consistency(ctx context.Context, q db.Q, size int64) (path []tlog.Hash, latest Checkpoint, err error) {
	if latest, err = Latest(ctx, q); err != nil {
		return nil, latest, err
	}
	if size <= 0 || size > latest.Size {
		return nil, latest, fault.New(fault.Invalid, "a consistency proof begins at 1 to %d entries, the size of the last checkpoint", latest.Size)
	}
	path, err = tlog.ProveTree(latest.Size, size, newTree(ctx, q))
	return path, latest, err
}

// proofHeader opens a proof in text (C2SP tlog-proof).
const proofHeader = "c2sp.org/tlog-proof@v1"

// MarshalText encodes a proof as text that stands alone: header, the entry in
// base64, its index, the path, an empty line, the checkpoint.
func (p Proof) MarshalText() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nextra %s\nindex %d\n", proofHeader, encode64(p.Leaf), p.Index)
	for _, h := range p.Path {
		fmt.Fprintf(&b, "%s\n", h)
	}
	fmt.Fprintf(&b, "\n%s", p.Checkpoint)
	return b.Bytes(), nil
}

// maxProof bounds a proof that is read.
const maxProof = 1 << 20

// UnmarshalText reads what MarshalText wrote.
func (p *Proof) UnmarshalText(b []byte) error {
	bad := func(what string) error {
		return fault.New(fault.Invalid, "this is not a proof of a journal entry: %s", what)
	}
	head, checkpoint, ok := strings.Cut(string(b), "\n\n")
	lines := strings.Split(head, "\n")
	if len(b) > maxProof || !ok || len(lines) < 3 || lines[0] != proofHeader {
		return bad("the first line is not " + proofHeader)
	}
	extra, ok := strings.CutPrefix(lines[1], "extra ")
	leaf, err := decode64(extra)
	if !ok || err != nil {
		return bad("the second line does not hold the entry")
	}
	var index int64
	if _, err := fmt.Sscanf(lines[2], "index %d", &index); err != nil || index < 0 || fmt.Sprint("index ", index) != lines[2] {
		return bad("the third line does not hold the index")
	}
	if len(lines)-3 > 63 {
		return bad("the path is too long")
	}
	var path []tlog.Hash
	for _, l := range lines[3:] {
		h, err := tlog.ParseHash(l)
		if err != nil {
			return bad("a line of the path is not a hash")
		}
		path = append(path, h)
	}
	*p = Proof{Index: index, Leaf: leaf, Path: path, Checkpoint: checkpoint}
	return nil
}

// Check verifies a proof without any database: the signature of its checkpoint
// by one of the verifier keys, and the path from the entry to its root. What is
// wrong is a fault.
func (p *Proof) Check(vkeys []string) error {
	if err := openNote(p.Checkpoint, vkeys); err != nil {
		return fault.Wrap(err, fault.Invalid, "the checkpoint of the proof is not signed by the key given")
	}
	_, size, root, err := parseCheckpoint(p.Checkpoint)
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "the checkpoint of the proof is not readable")
	}
	if err := tlog.CheckRecord(p.Path, size, root, p.Index, tlog.RecordHash(p.Leaf)); err != nil {
		return fault.Wrap(err, fault.Invalid, "the entry is not in the journal that the checkpoint speaks of")
	}
	return nil
}
