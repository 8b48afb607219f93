package app

import (
	"context"
	"errors"

	"chancery/internal/ca/catest"
	"chancery/internal/config"
)

// Fill stores n certificates that nobody can use (see catest) in an
// installation that does not run, to measure it when it is large.
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
	_, _, err = catest.Fill(ctx, a.db, catest.Spec{Authority: issuing, URLs: a.ca.URLs(), N: n, Names: true})
	return err
}
