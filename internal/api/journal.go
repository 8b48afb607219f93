package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/audit"
	"chancery/internal/fault"
)

func (s *Server) journal() {
	tag := []string{"Journal"}
	register(s, huma.Operation{OperationID: "list-journal", Method: http.MethodGet, Path: "/journal", Tags: tag,
		Summary: "List entries of the journal", Description: "The newest first; with subject, the oldest first, and those too that have no place in the chain yet."}, s.listJournal)
	register(s, huma.Operation{OperationID: "verify-journal", Method: http.MethodGet, Path: "/journal/verify", Tags: tag,
		Summary: "Recompute the chain of hashes over a part of the journal", Description: "A part has up to 65,536 entries; go on with after until it is done."}, s.verifyJournal)
	register(s, huma.Operation{OperationID: "export-journal", Method: http.MethodGet, Path: "/journal/export", Tags: tag,
		Summary: "Entries as the lines of text that checkpoints cover"}, s.exportJournal)
	register(s, huma.Operation{OperationID: "list-checkpoints", Method: http.MethodGet, Path: "/journal/checkpoints", Tags: tag,
		Summary: "List signed checkpoints, the newest first"}, s.listCheckpoints)
	register(s, huma.Operation{OperationID: "list-journal-keys", Method: http.MethodGet, Path: "/journal/keys", Tags: tag,
		Summary: "The keys that have signed checkpoints"}, s.journalKeys)
	register(s, huma.Operation{OperationID: "prove-entry", Method: http.MethodGet, Path: "/journal/{seq}/proof", Tags: tag,
		Summary: "Proof that an entry is in the journal", Description: "503 with Retry-After while no checkpoint covers the entry."}, s.proveEntry)
	register(s, huma.Operation{OperationID: "prove-consistency", Method: http.MethodGet, Path: "/journal/consistency", Tags: tag,
		Summary: "Proof that the journal has only grown since an older checkpoint"}, s.journalConsistency)
}

type listJournalInput struct {
	ListInput
	Subject string `query:"subject" maxLength:"256" doc:"Only entries about it" example:"certificate:06d1..."`
}

func (s *Server) listJournal(ctx context.Context, in *listJournalInput) (*pageOf[Event], error) {
	if in.Subject != "" {
		return s.listSubject(ctx, in)
	}
	before, err := decodeBefore(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := audit.Recent(ctx, s.cfg.DB.Read(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(r *audit.Record) string { return strconv.FormatInt(r.Seq, 10) }, viewEvent), nil
}

// decodeBefore returns the number in a cursor of a list that goes down.
func decodeBefore(cursor string) (int64, error) {
	key, err := decodeKey(cursor)
	if err != nil || key == "" {
		return 1 << 62, err
	}
	before, err := strconv.ParseInt(key, 10, 64)
	if err != nil {
		return 0, badCursor()
	}
	return before, nil
}

// listSubject lists what happened to one thing.
func (s *Server) listSubject(ctx context.Context, in *listJournalInput) (*pageOf[Event], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := audit.BySubject(ctx, s.cfg.DB.Read(), in.Subject, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(r *audit.Record) string { return r.ID }, viewEvent), nil
}

// Verification is the result of checking a part of the journal.
type Verification struct {
	Whole       bool   `json:"whole" doc:"No entry so far was changed, removed, added or reordered"`
	Done        bool   `json:"done" doc:"The end was reached, or a break found; otherwise go on with after = entries"`
	Entries     int64  `json:"entries" doc:"Entries from the first on that are verified now"`
	Total       int64  `json:"total" doc:"Entries of the journal that have a place"`
	Checkpoints int    `json:"checkpoints" doc:"Signed checkpoints that this part was compared with"`
	Waiting     int64  `json:"waiting" doc:"Entries that have no place yet"`
	Head        string `json:"head" doc:"Hash of the last verified entry"`
	Problem     string `json:"problem,omitempty" doc:"The first break"`
}

type verifyJournalInput struct {
	After int64 `query:"after" minimum:"0" doc:"Entries that an earlier part has verified: 0, or the entries of its answer"`
}

func (s *Server) verifyJournal(ctx context.Context, in *verifyJournalInput) (*bodyOf[Verification], error) {
	// It reads much: one at a time is enough for everybody.
	if !s.verifying.TryLock() {
		return nil, fault.New(fault.Unavailable, "the journal is being verified for somebody else; try again when that is done").Retry(defaultRetry)
	}
	defer s.verifying.Unlock()
	rep, err := audit.VerifyPart(ctx, s.cfg.DB, in.After)
	if err != nil {
		return nil, err
	}
	total, err := audit.Head(ctx, s.cfg.DB.Read())
	if err != nil {
		return nil, err
	}
	return &bodyOf[Verification]{Verification{Whole: rep.Problem == "", Done: rep.Done, Entries: rep.Entries, Total: total,
		Checkpoints: rep.Checkpoints, Waiting: rep.Waiting, Head: rep.Head, Problem: rep.Problem}}, nil
}

type exportJournalInput struct {
	After int64 `query:"after" minimum:"0" doc:"Only entries after this one"`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"1000" doc:"At most so many entries"`
}

// Export is a part of the journal as text.
type Export struct {
	Lines []string `json:"lines" nullable:"false" doc:"One JSON object per entry, oldest first: exactly the bytes that the Merkle tree of the checkpoints covers"`
	Last  int64    `json:"last" doc:"The last entry of this part; equal to after when there are no more"`
}

func (s *Server) exportJournal(ctx context.Context, in *exportJournalInput) (*bodyOf[Export], error) {
	recs, err := audit.Follow(ctx, s.cfg.DB.Read(), in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	out := Export{Lines: make([]string, len(recs)), Last: in.After}
	for i := range recs {
		line, err := recs[i].Leaf()
		if err != nil {
			return nil, err
		}
		out.Lines[i], out.Last = string(line), recs[i].Seq
	}
	return &bodyOf[Export]{out}, nil
}

// Checkpoint is a signed statement about a beginning of the journal.
type Checkpoint struct {
	Size int64     `json:"size" doc:"It speaks of so many entries"`
	Note string    `json:"note" doc:"Signed note: origin, size and the root of the Merkle tree (RFC 6962 section 2.1), then the signature"`
	At   time.Time `json:"at"`
}

func viewCheckpoint(c *audit.Checkpoint) Checkpoint { return Checkpoint(*c) }

func (s *Server) listCheckpoints(ctx context.Context, in *ListInput) (*pageOf[Checkpoint], error) {
	before, err := decodeBefore(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := audit.Checkpoints(ctx, s.cfg.DB.Read(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(c *audit.Checkpoint) string { return strconv.FormatInt(c.Size, 10) }, viewCheckpoint), nil
}

// JournalKeys are the keys of the journal.
type JournalKeys struct {
	Keys []string `json:"keys" nullable:"false" doc:"Verifier keys of signed notes, the oldest first"`
}

func (s *Server) journalKeys(ctx context.Context, _ *struct{}) (*bodyOf[JournalKeys], error) {
	keys, err := audit.Signers(ctx, s.cfg.DB.Read())
	return &bodyOf[JournalKeys]{JournalKeys{Keys: append([]string{}, keys...)}}, err
}

// JournalProof shows that an entry is in the journal.
type JournalProof struct {
	Proof string `json:"proof" doc:"Text that stands alone: the entry, its index, the path of hashes and the signed checkpoint (c2sp.org/tlog-proof)"`
}

type proveEntryInput struct {
	Seq int64 `path:"seq" minimum:"1" doc:"Place of the entry"`
}

func (s *Server) proveEntry(ctx context.Context, in *proveEntryInput) (*bodyOf[JournalProof], error) {
	p, err := audit.Prove(ctx, s.cfg.DB.Read(), in.Seq)
	if err != nil {
		return nil, err
	}
	text, err := p.MarshalText()
	return &bodyOf[JournalProof]{JournalProof{string(text)}}, err
}

// Consistency shows that the journal only grew.
type Consistency struct {
	Size       int64      `json:"size" doc:"Entries of the older state"`
	Path       []string   `json:"path" nullable:"false" doc:"Hashes in base64 (RFC 6962 section 2.1.2)"`
	Checkpoint Checkpoint `json:"checkpoint" doc:"The newer state"`
}

type consistencyInput struct {
	Size int64 `query:"size" minimum:"1" required:"true" doc:"Size of an older checkpoint"`
}

func (s *Server) journalConsistency(ctx context.Context, in *consistencyInput) (*bodyOf[Consistency], error) {
	path, latest, err := audit.Consistency(ctx, s.cfg.DB.Read(), in.Size)
	if err != nil {
		return nil, err
	}
	out := Consistency{Size: in.Size, Path: make([]string, len(path)), Checkpoint: Checkpoint(latest)}
	for i, h := range path {
		out.Path[i] = h.String()
	}
	return &bodyOf[Consistency]{out}, nil
}
