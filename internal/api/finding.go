package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ca"
	"chancery/internal/db"
)

func (s *Server) findings() {
	tag := []string{"Certificates"}
	register(s, huma.Operation{OperationID: "list-findings", Method: http.MethodGet, Path: "/findings", Tags: tag,
		Summary:     "List what the background checker found wrong with issued certificates",
		Description: "A finding stays until a later look no longer has it. An empty list means something once the checker has been through: see get-checker."}, s.listFindings)
	register(s, huma.Operation{OperationID: "get-checker", Method: http.MethodGet, Path: "/checker", Tags: tag,
		Summary: "How far the background checker is"}, s.getChecker)
}

// CertificateFinding is something that is wrong with an issued certificate.
type CertificateFinding struct {
	Certificate string    `json:"certificate" doc:"Its id"`
	Finding     string    `json:"finding" doc:"signature, lint, profile, journal, key, or the invariant that is broken" example:"lint"`
	Problem     string    `json:"problem"`
	FoundAt     time.Time `json:"found_at"`
}

func viewFinding(f *ca.Found) CertificateFinding {
	return CertificateFinding{Certificate: f.CertificateID, Finding: f.Invariant, Problem: f.Problem, FoundAt: f.FoundAt}
}

// findingSep separates the parts of a finding's key in a cursor; no part but
// the last may hold it.
const findingSep = "\x1f"

func findingKey(f *ca.Found) string {
	return strings.Join([]string{f.CertificateID, f.Invariant, f.Problem}, findingSep)
}

func (s *Server) listFindings(ctx context.Context, in *ListInput) (*pageOf[CertificateFinding], error) {
	key, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	var after ca.Found
	if key != "" {
		parts := strings.SplitN(key, findingSep, 3)
		if len(parts) != 3 || !db.ValidID(parts[0]) {
			return nil, badCursor()
		}
		after.CertificateID, after.Invariant, after.Problem = parts[0], parts[1], parts[2]
	}
	rows, err := ca.Findings(ctx, s.cfg.DB.Read(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, findingKey, viewFinding), nil
}

// Checker is how far the background checker is.
type Checker struct {
	Walks []CheckerWalk `json:"walks" nullable:"false"`
}

// CheckerWalk is one of its ways over the certificates.
type CheckerWalk struct {
	Name       string     `json:"name" enum:"new,all" doc:"new: what was issued lately; all: everything, again and again"`
	Checked    int64      `json:"checked" doc:"Certificates, in the walk that is under way"`
	StartedAt  time.Time  `json:"started_at" doc:"Of that walk; one that has yet to begin waits until then"`
	FinishedAt *time.Time `json:"finished_at,omitempty" doc:"End of the last whole walk"`
}

func (s *Server) getChecker(ctx context.Context, _ *struct{}) (*bodyOf[Checker], error) {
	looks, err := ca.Looks(ctx, s.cfg.DB.Read())
	if err != nil {
		return nil, err
	}
	out := Checker{Walks: make([]CheckerWalk, len(looks))}
	for i, l := range looks {
		out.Walks[i] = CheckerWalk{Name: l.Name, Checked: l.Checked, StartedAt: l.StartedAt, FinishedAt: instant(l.FinishedAt)}
	}
	return &bodyOf[Checker]{out}, nil
}
