package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chancery/internal/config"
	"chancery/internal/loop"
	"chancery/internal/scan/cloud"
	"chancery/internal/scan/source"
)

// cloudKind finds the kind of a source.
func cloudKind(name string, s config.CloudSource) (cloud.Kind, error) {
	var names []string
	for _, k := range CloudKinds() {
		if k.Name == s.Kind {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return cloud.Kind{}, fmt.Errorf("source.%s.kind: there is no kind %q; kinds are %s", name, s.Kind, strings.Join(names, ", "))
}

// CheckSources returns what is wrong with the keys that belong to the kinds of
// sources. It opens nothing.
func CheckSources(c *config.Config) (found []error) {
	for _, name := range slices.Sorted(maps.Keys(c.CloudSource)) {
		s := c.CloudSource[name]
		kind, err := cloudKind(name, s)
		if err == nil {
			err = s.Bind(name, kind.Config())
		}
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			found = append(found, many.Unwrap()...)
		} else if err != nil {
			found = append(found, err)
		}
	}
	return found
}

// openSources prepares the sources of the configuration.
func (a *App) openSources(ctx context.Context) error {
	if found := CheckSources(a.cfg); len(found) > 0 {
		return errors.Join(found...)
	}
	sources := map[string]source.Settings{}
	for name, s := range a.cfg.CloudSource {
		kind, err := cloudKind(name, s)
		if err != nil {
			return err
		}
		open := func(env cloud.Env) (cloud.Source, error) {
			into := kind.Config()
			if err := s.Bind(name, into); err != nil {
				return nil, err
			}
			return kind.Open(env, into)
		}
		v := source.Settings{Kind: kind, Open: open, Enabled: s.Enabled, Interval: s.Interval, Timeout: s.Timeout, Account: s.Account,
			OwnerTag: s.OwnerTag, TeamTag: s.TeamTag, EnvironmentTag: s.EnvironmentTag}
		if s.Rate.Count > 0 {
			v.Rate = cloud.Rate{PerSecond: float64(s.Rate.Count) / s.Rate.Per.Seconds(), Burst: float64(max(s.Rate.Burst, 1))}
		}
		sources[name] = v
	}
	a.sources = source.New(source.Config{DB: a.db, Inventory: a.inventory, Sources: sources, Log: a.log, Registry: a.metrics.Registry, Loops: a.loops})
	return a.sources.Ensure(ctx)
}

// sourceLoops list the sources.
func (a *App) sourceLoops() []loop.Every {
	if !a.has(config.RoleScan) {
		return nil
	}
	return a.sources.Loops()
}
