package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/obs"
)

// Health is whether this process can do its work.
type Health struct {
	Status string `json:"status" enum:"ok" doc:"ok; anything else is a problem document with status 503"`
}

// Summary is the state of the installation in a few numbers, each of which
// costs a bounded look-up, whatever the size of the database.
type Summary struct {
	Authorities    map[string]int `json:"authorities" doc:"Authorities by state"`
	Expiring       []Expiring     `json:"expiring" doc:"Issued, unrevoked or revoked certificates by time left"`
	OpenIntents    int64          `json:"open_intents" doc:"Serials whose signature is under way or was interrupted"`
	JournalSeq     int64          `json:"journal_seq" doc:"Number of the newest entry of the journal"`
	JournalWaiting int64          `json:"journal_waiting" doc:"Entries that have no number yet"`
	ServerTime     time.Time      `json:"server_time"`
}

// Expiring counts certificates that end within some days.
type Expiring struct {
	Days    int   `json:"days" doc:"End within that many days from now"`
	Count   int64 `json:"count"`
	AtLeast bool  `json:"at_least,omitempty" doc:"There are more than count: it stops at 10000"`
}

// bodyOf is an answer that is a body and nothing else.
type bodyOf[T any] struct{ Body T }

func (s *Server) about() {
	register(s, huma.Operation{OperationID: "get-health", Method: http.MethodGet, Path: "/health", Tags: []string{"About"},
		Summary: "Whether the database answers"}, s.getHealth)
	register(s, huma.Operation{OperationID: "get-version", Method: http.MethodGet, Path: "/version", Tags: []string{"About"},
		Summary: "Which build this is"}, s.getVersion)
	register(s, huma.Operation{OperationID: "get-summary", Method: http.MethodGet, Path: "/summary", Tags: []string{"About"},
		Summary: "The installation in a few numbers"}, s.getSummary)
	register(s, huma.Operation{OperationID: "get-openapi", Method: http.MethodGet, Path: "/openapi.yaml", Tags: []string{"About"},
		Summary: "This document"}, s.getOpenAPI)
}

// healthTime is how long the database may take to say that it is well.
const healthTime = 2 * time.Second

func (s *Server) getHealth(ctx context.Context, _ *struct{}) (*bodyOf[Health], error) {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	// A read, not db.Ping: that writes on a broken SQLite, and a GET must not.
	if _, err := s.cfg.DB.Version(ctx); err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "the database does not answer").Retry(5 * time.Second)
	}
	return &bodyOf[Health]{Health{"ok"}}, nil
}

func (s *Server) getVersion(context.Context, *struct{}) (*bodyOf[obs.Build], error) {
	return &bodyOf[obs.Build]{s.cfg.Build}, nil
}

func (s *Server) getSummary(ctx context.Context, _ *struct{}) (*bodyOf[Summary], error) {
	sum := Summary{Authorities: map[string]int{}, ServerTime: now().Truncate(time.Second)}
	for _, a := range s.cfg.CA.Authorities() {
		sum.Authorities[string(a.State)]++
	}
	q := s.cfg.DB.Read()
	for _, days := range []int{1, 7, 30} {
		n, more, err := ca.CountExpiring(ctx, q, now(), time.Duration(days)*24*time.Hour, 10000)
		if err != nil {
			return nil, err
		}
		sum.Expiring = append(sum.Expiring, Expiring{Days: days, Count: n, AtLeast: more})
	}
	var err error
	if sum.OpenIntents, err = ca.CountIntents(ctx, q); err != nil {
		return nil, err
	}
	if sum.JournalWaiting, err = audit.Backlog(ctx, q); err != nil {
		return nil, err
	}
	newest, err := audit.Recent(ctx, q, 1<<62, 1)
	if err != nil {
		return nil, err
	}
	if len(newest) > 0 {
		sum.JournalSeq = newest[0].Seq
	}
	return &bodyOf[Summary]{sum}, nil
}

type rawOutput struct {
	ContentType        string `header:"Content-Type"`
	ContentDisposition string `header:"Content-Disposition"`
	Body               []byte
}

func (s *Server) getOpenAPI(context.Context, *struct{}) (*rawOutput, error) {
	text, err := s.OpenAPI()
	if err != nil {
		return nil, err
	}
	return &rawOutput{ContentType: "application/yaml", Body: text}, nil
}

// OpenAPI returns the description of every operation, as docs/openapi.yaml.
func (s *Server) OpenAPI() ([]byte, error) { return s.spec() }

func (s *Server) encodeSpec() ([]byte, error) {
	doc := s.huma.OpenAPI()
	// The library's own error type is never sent; see transform.
	delete(doc.Components.Schemas.Map(), "ErrorModel")
	delete(doc.Components.Schemas.Map(), "ErrorDetail")
	text, err := doc.YAML()
	if err != nil {
		return nil, fmt.Errorf("encode openapi document: %w", err)
	}
	return text, nil
}
