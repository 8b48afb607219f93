package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/audit"
	"chancery/internal/fault"
)

func (s *Server) journal() {
	tag := []string{"Journal"}
	register(s, huma.Operation{OperationID: "list-journal", Method: http.MethodGet, Path: "/journal", Tags: tag,
		Summary: "List entries of the journal", Description: "The newest first; with subject, the oldest first, and those too that have no place in the chain yet."}, s.listJournal)
	register(s, huma.Operation{OperationID: "verify-journal", Method: http.MethodGet, Path: "/journal/verify", Tags: tag,
		Summary: "Recompute the chain of hashes over the whole journal"}, s.verifyJournal)
}

type listJournalInput struct {
	ListInput
	Subject string `query:"subject" maxLength:"256" doc:"Only entries about it" example:"certificate:06d1..."`
}

func (s *Server) listJournal(ctx context.Context, in *listJournalInput) (*pageOf[Event], error) {
	if in.Subject != "" {
		return s.listSubject(ctx, in)
	}
	before := int64(1) << 62
	key, err := decodeKey(in.Cursor)
	if err == nil && key != "" {
		if before, err = strconv.ParseInt(key, 10, 64); err != nil {
			err = badCursor()
		}
	}
	if err != nil {
		return nil, err
	}
	rows, err := audit.Recent(ctx, s.cfg.DB.Read(), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(r *audit.Record) string { return strconv.FormatInt(r.Seq, 10) }, viewEvent), nil
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

// Verification is the result of checking the journal.
type Verification struct {
	Whole   bool   `json:"whole" doc:"No entry was changed, removed, added or reordered"`
	Entries int64  `json:"entries" doc:"Entries that were checked"`
	Waiting int64  `json:"waiting" doc:"Entries that have no place yet"`
	Head    string `json:"head" doc:"Hash of the last entry; keep it elsewhere to prove later that nothing was rewritten"`
	Problem string `json:"problem,omitempty" doc:"The first break"`
}

func (s *Server) verifyJournal(ctx context.Context, _ *struct{}) (*bodyOf[Verification], error) {
	// It reads the whole journal: one at a time is enough for everybody.
	if !s.verifying.TryLock() {
		return nil, fault.New(fault.Unavailable, "the journal is being verified for somebody else; try again when that is done").Retry(defaultRetry)
	}
	defer s.verifying.Unlock()
	rep, err := audit.Verify(ctx, s.cfg.DB)
	if err != nil {
		return nil, err
	}
	return &bodyOf[Verification]{Verification{Whole: rep.Problem == "", Entries: rep.Entries, Waiting: rep.Waiting, Head: rep.Head, Problem: rep.Problem}}, nil
}
