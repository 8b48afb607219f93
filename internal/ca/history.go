package ca

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
)

const (
	// historyMax is how many entries of its own a certificate's history shows.
	historyMax = 1000
	// batchPage is how many entries of an incident are read at a time to find
	// the one that revoked a certificate; each names up to revokeChunk.
	batchPage = 8
	// batchDelay is how much later than the revocation its entry may be written:
	// both are made in one transaction, which may wait for others.
	batchDelay = 10 * time.Minute
)

// History returns the entries of the journal about c, oldest first: its own,
// and those of the incident that it belongs to or that revoked it. Of the entry
// that revoked it together with others, Data only says how many those are.
func History(ctx context.Context, q db.Q, c *Certificate) ([]audit.Record, error) {
	own, err := audit.BySubject(ctx, q, "certificate:"+c.ID, "", historyMax)
	if err != nil || c.IncidentID == "" {
		return own, err
	}
	// The first entry of an incident is its creation; of one that was cancelled
	// the second is that.
	subject := "incident:" + c.IncidentID
	head, err := audit.BySubject(ctx, q, subject, "", 2)
	if err != nil {
		return nil, err
	}
	for _, r := range head {
		if r.Kind == "incident.create" || r.Kind == "incident.cancel" {
			own = append(own, r)
		}
	}
	alone := slices.ContainsFunc(own, func(r audit.Record) bool { return r.Kind == "certificate.revoke" })
	if !c.RevokedAt.IsZero() && !alone {
		batch, err := findBatch(ctx, q, subject, c)
		if err != nil {
			return nil, err
		}
		own = append(own, batch...)
	}
	slices.SortStableFunc(own, func(a, b audit.Record) int { return strings.Compare(a.ID, b.ID) })
	return own, nil
}

// findBatch returns the entry of an incident that revoked c, or none. Entries
// are ordered by time, so it is among the first ones after the revocation.
func findBatch(ctx context.Context, q db.Q, subject string, c *Certificate) ([]audit.Record, error) {
	for after := db.IDBefore(c.RevokedAt); ; {
		page, err := audit.BySubject(ctx, q, subject, after, batchPage)
		if err != nil {
			return nil, err
		}
		for i := range page {
			r := page[i]
			if r.At.After(c.RevokedAt.Add(batchDelay)) {
				return nil, nil
			}
			if r.Kind != RevokeBatch || !strings.Contains(r.Data, `"`+c.ID+`"`) {
				continue
			}
			ids, reason, err := BatchOf(&r)
			if err != nil {
				return nil, err
			}
			data, err := json.Marshal(map[string]any{"reason": reason, "revoked_together": len(ids)}, json.Deterministic(true))
			if err != nil {
				return nil, fmt.Errorf("encode journal entry %s: %w", r.ID, err)
			}
			r.Data = string(data)
			return []audit.Record{r}, nil
		}
		if len(page) < batchPage {
			return nil, nil
		}
		after = page[len(page)-1].ID
	}
}
