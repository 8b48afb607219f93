package app

import (
	"context"
	"errors"
	"time"

	"chancery/internal/ca/catest"
	"chancery/internal/config"
)

// Fill stores n certificates that nobody can use (see catest) in an
// installation that does not run, to measure it when it is large. When it runs,
// its inventory and its journal catch up with them; the checker leaves them be
// for a day.
func Fill(ctx context.Context, cfg *config.Config, opts Options, n int) (err error) {
	a, err := New(ctx, cfg, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	issuing, err := a.ca.Issuing(firstCA(cfg))
	if err != nil {
		return err
	}
	if _, _, err = catest.Fill(ctx, a.db, catest.Spec{Authority: issuing, URLs: a.ca.URLs(), N: n, Names: true, Journal: true}); err != nil {
		return err
	}
	return catest.Checked(ctx, a.db, time.Now())
}
