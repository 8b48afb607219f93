package app

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"chancery/internal/acme/perspective"
	"chancery/internal/ca"
)

// dueSoon is how long before a dated rule the log begins to say so.
const dueSoon = 60 * 24 * time.Hour

// warnOfPerspectives says which authorities cannot issue, or soon cannot, for
// want of remote perspectives.
func (a *App) warnOfPerspectives(now time.Time) {
	have := len(a.cfg.Perspective)
	for _, name := range slices.Sorted(maps.Keys(a.cfg.CA)) {
		c := a.cfg.CA[name]
		trust := ca.Trust(c.Trust)
		if need := max(c.MinPerspectives, trust.At(now).MinRemotes); need > have {
			a.log.Warn("authority cannot issue without more remote perspectives", "ca", name, "perspectives", have, "needed", need)
		} else if need = trust.At(now.Add(dueSoon)).MinRemotes; need > have {
			a.log.Warn("authority will soon need more remote perspectives", "ca", name, "perspectives", have, "needed", need)
		}
	}
}

// openPerspectives prepares the remote perspectives of the configuration, if
// there are any.
func (a *App) openPerspectives() error {
	a.warnOfPerspectives(time.Now())
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
