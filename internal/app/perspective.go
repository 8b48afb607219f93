package app

import (
	"cmp"
	"maps"
	"slices"

	"chancery/internal/acme/perspective"
)

// openPerspectives prepares the remote perspectives of the configuration, if
// there are any.
func (a *App) openPerspectives() error {
	if len(a.cfg.Perspective) == 0 {
		return nil
	}
	v := a.cfg.Validation
	key, err := perspective.OpenKey(cmp.Or(v.PerspectiveKeyFile, a.paths.perspectiveKey()))
	if err != nil {
		return err
	}
	a.log.Info("remote perspectives must know this key", "pin", string(key.Pin()), "perspectives", len(a.cfg.Perspective))
	var remotes []perspective.Remote
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Perspective)) {
		p := a.cfg.Perspective[name]
		pin, err := perspective.ParsePin(p.Pin)
		if err != nil {
			return err
		}
		remotes = append(remotes, perspective.Remote{Name: name, Region: p.Region, URL: p.URL, Pin: pin})
	}
	a.perspectives, err = perspective.New(perspective.Config{Remotes: remotes, Key: key, Timeout: v.PerspectiveTimeout,
		Metrics: a.metrics.Registry, LoopMetrics: a.loops, Log: a.log})
	return err
}
