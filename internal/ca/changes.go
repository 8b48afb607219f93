package ca

import (
	"context"
	"slices"
	"strings"

	"chancery/internal/audit"
	"chancery/internal/db"
)

// Changes are what a page of the journal says about certificates and authorities.
type Changes struct {
	Entries     int      // of the page
	Last        int64    // Seq of the last of them, or that after which the page begins
	IDs         []string // of certificates, in the order of the journal
	Authorities bool     // something changed about one of them
}

// ReadChanges reads up to limit entries of the journal after seq. kinds are those
// whose subjects, certificates, are wanted. RevokeBatch is always wanted.
func ReadChanges(ctx context.Context, q db.Q, seq int64, limit int, kinds ...audit.Kind) (c Changes, err error) {
	many := func(k audit.Kind) bool { return k == RevokeBatch }
	c.Entries, c.Last, err = audit.Skim(ctx, q, seq, limit, many, func(rec *audit.Record) error {
		switch {
		case slices.Contains(kinds, rec.Kind):
			c.IDs = append(c.IDs, strings.TrimPrefix(rec.Subject, "certificate:"))
		case rec.Kind == RevokeBatch:
			batch, _, err := BatchOf(rec)
			if err != nil {
				return err
			}
			c.IDs = append(c.IDs, batch...)
		case strings.HasPrefix(string(rec.Kind), "authority."):
			c.Authorities = true
		}
		return nil
	})
	return c, err
}
