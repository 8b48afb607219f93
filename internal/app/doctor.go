package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"chancery/internal/acme/server"
	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/status"
)

// IssuanceReport is the result of CheckIssuance.
type IssuanceReport struct {
	Serials    int          `json:"serials"`
	Signatures int          `json:"signatures"` // in the signer's log
	Journal    int64        `json:"journal_entries"`
	Findings   []ca.Finding `json:"findings"`
	Summary    string       `json:"summary"`
}

// maxFindings bounds the report; a broken database may break every row.
const maxFindings = 1000

// CheckIssuance checks invariants I1 to I6 over the database, the journal and
// the signer's log, without taking the data directory's lock: a server may be
// running, and its work under way is no finding. It changes nothing.
func CheckIssuance(ctx context.Context, cfg *config.Config) (*IssuanceReport, error) {
	dir, err := filepath.Abs(cfg.Server.Data)
	if err != nil {
		return nil, err
	}
	p := paths{dir}
	dc := dbConfig(cfg, p)
	if !db.IsPostgresURL(dc.URL) {
		if _, err := os.Stat(dc.URL); err != nil {
			return nil, fault.Wrap(err, fault.NotFound, "there is no database at %s; name the data directory with --data", dc.URL)
		}
	}
	d, err := db.Open(ctx, dc)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	store, err := openKeys(cfg, p)
	if err != nil {
		return nil, err
	}
	log, err := os.Open(p.signerLog())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open signer log: %w", err)
	}
	// The log is opened, and its length fixed, before the state of the
	// database: every line read is then of an intent that is committed.
	var lines io.Reader
	if err == nil {
		defer log.Close()
		size, err := log.Seek(0, io.SeekEnd)
		if err != nil {
			return nil, err
		}
		lines = io.NewSectionReader(log, 0, size)
	}
	return checkIssuance(ctx, d, store.Sealer(), lines, time.Now())
}

func checkIssuance(ctx context.Context, d *db.DB, secrets *keys.Sealer, signerLog io.Reader, now time.Time) (*IssuanceReport, error) {
	rep := &IssuanceReport{Findings: []ca.Finding{}}
	more := 0
	report := func(f ca.Finding) {
		if len(rep.Findings) < maxFindings {
			rep.Findings = append(rep.Findings, f)
		} else {
			more++
		}
	}
	err := d.Snapshot(ctx, func(q db.Q) (err error) {
		if rep.Serials, rep.Signatures, err = ca.Check(ctx, q, signerLog, report); err != nil {
			return err
		}
		if err = status.Check(ctx, q, now, report); err != nil {
			return err
		}
		return server.Check(ctx, q, secrets, now, report)
	})
	if err != nil {
		return nil, err
	}
	journal, err := audit.Verify(ctx, d)
	if err != nil {
		return nil, err
	}
	rep.Journal = journal.Entries
	if journal.Problem != "" {
		report(ca.Finding{Invariant: "journal", Subject: "journal", Problem: journal.Problem})
	}
	verdict := "all hold"
	if n := len(rep.Findings) + more; n > 0 {
		verdict = fmt.Sprintf("%d broken", n)
	}
	rep.Summary = fmt.Sprintf("issuance: %d serials, %d signatures, %d journal entries: I1-I6 %s", rep.Serials, rep.Signatures, rep.Journal, verdict)
	return rep, nil
}
