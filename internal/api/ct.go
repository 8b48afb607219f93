package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ctwatch"
)

func (s *Server) ctOperations() {
	tag := []string{"Certificate Transparency"}
	op := func(id, method, path, summary string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: "/ct" + path, Tags: tag, Summary: summary}
	}
	register(s, op("list-ct-logs", http.MethodGet, "/logs", "List the logs that are followed"), s.listCTLogs)
	register(s, op("get-ct-log", http.MethodGet, "/logs/{id}", "One log that is followed, by name"), s.getCTLog)
	reset := op("reset-ct-log", http.MethodPost, "/logs/{id}/reset", "Forget what is known of a log, and follow it anew")
	reset.Description = "For a log that is forked, or that was replaced by another. Findings stay."
	register(s, reset, s.resetCTLog)
	register(s, op("list-ct-findings", http.MethodGet, "/findings", "List certificates for our names that our issuance does not know, the newest first"), s.listCTFindings)
	register(s, op("get-ct-finding", http.MethodGet, "/findings/{id}", "One certificate for our names that our issuance does not know"), s.getCTFinding)
	register(s, op("acknowledge-ct-finding", http.MethodPost, "/findings/{id}/acknowledge", "Dismiss a finding: it is known and needs nothing more"), s.acknowledgeCTFinding)
	adopt := op("adopt-ct-finding", http.MethodPost, "/findings/{id}/adopt", "Say that the certificate of a finding is ours, and whose")
	adopt.Description = "As if it had been imported: it is in the inventory with an owner, and no alert is made of it any more. What the inventory has as its owner, team or environment already stays."
	register(s, adopt, s.adoptCTFinding)
}

// CTLog is a log that is followed.
type CTLog struct {
	Name       string     `json:"name"`
	URL        string     `json:"url"`
	Kind       string     `json:"kind" enum:"static-ct,rfc6962"`
	State      string     `json:"state" enum:"waiting,following,failing,forked" doc:"forked: what the log signed contradicts itself; it is not followed any more"`
	Error      string     `json:"error,omitempty"`
	Failures   int        `json:"failures" doc:"In a row"`
	Size       int64      `json:"size" doc:"Every entry before this one was looked at and verified"`
	HeadSize   int64      `json:"head_size" doc:"Entries that the log has"`
	Lag        int64      `json:"lag" doc:"Entries not looked at yet"`
	Entries    int64      `json:"entries" doc:"Looked at since the log is followed"`
	Matches    int64      `json:"matches" doc:"Of them, for our names"`
	Unreadable int64      `json:"unreadable" doc:"Of them, that cannot be read as a certificate"`
	HeadAt     *time.Time `json:"head_at,omitempty" doc:"When the log signed its newest head"`
	EntryAt    *time.Time `json:"entry_at,omitempty" doc:"When the last entry that was looked at was logged"`
	CheckedAt  *time.Time `json:"checked_at,omitempty"`
	Proof      string     `json:"proof,omitempty" doc:"Of a fork: both signed statements"`
}

func viewCTLog(v *ctwatch.Status) CTLog {
	return CTLog{Name: v.Name, URL: v.URL, Kind: string(v.Kind), State: string(v.State), Error: v.Error, Failures: v.Failures, Size: v.Size, HeadSize: v.HeadSize, Lag: v.Lag(),
		Entries: v.Entries, Matches: v.Matches, Unreadable: v.Unreadable, HeadAt: epochless(v.HeadAt), EntryAt: epochless(v.EntryAt), CheckedAt: instant(v.CheckedAt), Proof: v.Proof}
}

// epochless is instant for columns whose "never" is 0.
func epochless(t time.Time) *time.Time {
	if t.UnixMilli() <= 0 {
		return nil
	}
	return instant(t)
}

func (s *Server) listCTLogs(ctx context.Context, in *ListInput) (*pageOf[CTLog], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.CT.Logs(ctx, after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(v *ctwatch.Status) string { return v.Name }, viewCTLog), nil
}

func (s *Server) getCTLog(ctx context.Context, in *IDInput) (*bodyOf[CTLog], error) {
	v, err := s.cfg.CT.Get(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &bodyOf[CTLog]{viewCTLog(&v)}, nil
}

func (s *Server) resetCTLog(ctx context.Context, in *IDInput) (*bodyOf[CTLog], error) {
	if err := s.cfg.CT.Reset(ctx, in.ID, actorOf(ctx), now()); err != nil {
		return nil, err
	}
	return s.getCTLog(ctx, in)
}

// CTFinding is a certificate for our names that our issuance does not know.
type CTFinding struct {
	ID             string     `json:"id"`
	State          string     `json:"state" enum:"open,acknowledged,ours" doc:"ours: our issuance knows it by now, or somebody adopted it (decided_by)"`
	Matched        string     `json:"matched" doc:"The name that is ours"`
	Names          []string   `json:"names" nullable:"false"`
	Issuer         string     `json:"issuer"`
	Serial         string     `json:"serial"`
	Precertificate bool       `json:"precertificate" doc:"The certificate itself was not logged, so far"`
	Certificate    string     `json:"certificate,omitempty" doc:"Fingerprint in the inventory"`
	Log            string     `json:"log" doc:"Where it was seen first"`
	Index          int64      `json:"index"`
	LoggedAt       time.Time  `json:"logged_at"`
	NotBefore      *time.Time `json:"not_before,omitempty"`
	NotAfter       *time.Time `json:"not_after,omitempty"`
	FoundAt        time.Time  `json:"found_at"`
	AlertedAt      *time.Time `json:"alerted_at,omitempty" doc:"None: within its grace"`
	DecidedBy      string     `json:"decided_by,omitempty"`
	DecidedAt      *time.Time `json:"decided_at,omitempty"`
	Comment        string     `json:"comment,omitempty"`
	DER            []byte     `json:"der,omitempty" doc:"What the log has; in get-ct-finding only"`
}

func viewCTFinding(v *ctwatch.Finding) CTFinding {
	return CTFinding{ID: v.ID, State: string(v.State), Matched: v.Matched, Names: append([]string{}, v.Names...), Issuer: v.Issuer, Serial: v.Serial, Precertificate: v.Precert,
		Certificate: v.Fingerprint, Log: v.Log, Index: v.Index, LoggedAt: v.LoggedAt, NotBefore: epochless(v.NotBefore), NotAfter: epochless(v.NotAfter), FoundAt: v.FoundAt,
		AlertedAt: instant(v.AlertedAt), DecidedBy: v.DecidedBy, DecidedAt: instant(v.DecidedAt), Comment: v.Comment}
}

type listCTFindingsInput struct {
	ListInput
	State string `query:"state" enum:"open,acknowledged,ours" doc:"Only of this state"`
}

func (s *Server) listCTFindings(ctx context.Context, in *listCTFindingsInput) (*pageOf[CTFinding], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := s.cfg.CT.Findings(ctx, ctwatch.FindingState(in.State), before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(v *ctwatch.Finding) string { return v.ID }, viewCTFinding), nil
}

func (s *Server) getCTFinding(ctx context.Context, in *IDInput) (*bodyOf[CTFinding], error) {
	v, der, err := s.cfg.CT.Finding(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	out := viewCTFinding(&v)
	out.DER = der
	return &bodyOf[CTFinding]{out}, nil
}

type acknowledgeInput struct {
	IDInput
	Body struct {
		Comment string `json:"comment,omitempty" maxLength:"1000" doc:"Why it is all right"`
	}
}

func (s *Server) acknowledgeCTFinding(ctx context.Context, in *acknowledgeInput) (*bodyOf[CTFinding], error) {
	if err := s.cfg.CT.Acknowledge(ctx, in.ID, actorOf(ctx), in.Body.Comment, now()); err != nil {
		return nil, err
	}
	return s.getCTFinding(ctx, &in.IDInput)
}

type adoptFindingInput struct {
	IDInput
	Body struct {
		Owner       string `json:"owner" minLength:"1" maxLength:"255"`
		Team        string `json:"team,omitempty" maxLength:"255"`
		Environment string `json:"environment,omitempty" maxLength:"255"`
		Comment     string `json:"comment,omitempty" maxLength:"1000" doc:"How it came to be"`
	}
}

func (s *Server) adoptCTFinding(ctx context.Context, in *adoptFindingInput) (*bodyOf[CTFinding], error) {
	b := &in.Body
	if err := s.cfg.CT.Adopt(ctx, in.ID, ctwatch.Holder{Owner: b.Owner, Team: b.Team, Environment: b.Environment}, actorOf(ctx), b.Comment, now()); err != nil {
		return nil, err
	}
	return s.getCTFinding(ctx, &in.IDInput)
}
