package app

import (
	"context"
	"maps"
	"slices"

	"chancery/internal/config"
	"chancery/internal/ctwatch"
	"chancery/internal/loop"
	"chancery/internal/scan/cloud"
)

// openCT prepares the logs that are followed.
func (a *App) openCT(ctx context.Context) error {
	c := a.cfg.CT
	cfg := ctwatch.Config{DB: a.db, Inventory: a.inventory, Domains: c.Domains, FromInventory: c.InventoryDomains, Interval: c.Interval, Grace: c.Grace,
		Gates: a.sources.Gates(), Log: a.log, Registry: a.metrics.Registry, Loops: a.loops}
	for _, name := range slices.Sorted(maps.Keys(a.cfg.CTLog)) {
		l := a.cfg.CTLog[name]
		if !l.Watch {
			continue
		}
		log := ctwatch.Log{Name: name, Kind: ctwatch.Kind(l.Kind), URL: l.URL, Read: l.MonitorURL, Key: l.DER(), Begin: l.Begin == "start"}
		if l.Rate.Count > 0 {
			log.Rate = cloud.Rate{PerSecond: float64(l.Rate.Count) / l.Rate.Per.Seconds(), Burst: float64(max(l.Rate.Burst, 1))}
		}
		cfg.Logs = append(cfg.Logs, log)
	}
	a.ct = ctwatch.New(cfg)
	return a.ct.Ensure(ctx)
}

// ctLoops follow the logs.
func (a *App) ctLoops() []loop.Every {
	if !a.has(config.RoleScan) {
		return nil
	}
	return a.ct.Loops()
}
