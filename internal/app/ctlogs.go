package app

import (
	"context"
	"maps"
	"slices"

	"chancery/internal/ca"
	"chancery/internal/ct"
	"chancery/internal/pki"
)

// ctLogs returns what submits precertificates to the [ct_log.NAME] logs, or nil
// when there are none.
func (a *App) ctLogs() (func(context.Context, ca.Submission) ([]pki.SCT, error), error) {
	if len(a.cfg.CTLog) == 0 {
		return nil, nil
	}
	cfg := ct.Config{UserAgent: "chancery/" + a.opts.Build.Version, Log: a.log}
	if a.metrics != nil {
		cfg.Registry, cfg.Loops = a.metrics.Registry, a.loops
	}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.CTLog)) {
		l := a.cfg.CTLog[name]
		cfg.Logs = append(cfg.Logs, ct.Log{Name: name, URL: l.URL, Key: l.DER(), Kind: ct.Kind(l.Kind), Operator: l.Operator})
	}
	s, err := ct.New(cfg)
	if err != nil {
		return nil, err
	}
	return s.Submit, nil
}
