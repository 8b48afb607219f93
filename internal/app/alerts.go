package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"time"

	"chancery/internal/alert"
	"chancery/internal/config"
	"chancery/internal/loop"
)

// openChannel opens the [alert_channel.NAME] section of a configuration. The
// error is one or several *config.Problem.
func openChannel(cfg *config.Config, name string, log *slog.Logger) (alert.Channel, error) {
	c, section := cfg.AlertChannel[name], "alert_channel."+name
	out := alert.Channel{Name: name, Kind: c.Kind, Severity: alert.Severity(c.Severity)}
	var names []string
	for _, k := range AlertKinds() {
		if k.Name != c.Kind {
			names = append(names, k.Name)
			continue
		}
		settings := k.Config()
		if err := c.Bind(name, settings); err != nil {
			return out, err
		}
		var err error
		if out.Send, err = k.Open(alert.Env{Name: name, Log: log}, settings); err != nil {
			return out, cfg.Locate(section, err)
		}
		return out, nil
	}
	return out, cfg.Locate(section, fmt.Errorf("kind: there is no kind %q of alert channel; there are %v", c.Kind, names))
}

// openAlerts opens the channels and the service that tells them.
func (a *App) openAlerts(context.Context) error {
	u, err := url.Parse(a.cfg.Server.URL)
	if err != nil {
		return fmt.Errorf("server.url: %w", err)
	}
	c := alert.Config{DB: a.db, URL: a.cfg.Server.URL, Instance: u.Host, GroupWait: a.cfg.Alert.GroupWait, GiveUp: a.cfg.Alert.GiveUp, Keep: a.cfg.Alert.Keep,
		Log: a.log, Registry: a.metrics.Registry, Loops: a.loops}
	if c.GroupWait == 0 {
		c.GroupWait = -time.Nanosecond // the configuration's 0 means not at all
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(a.cfg.AlertChannel)) {
		opened, err := openChannel(a.cfg, name, a.log)
		errs = append(errs, err)
		c.Channels = append(c.Channels, opened)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	a.alerts = alert.New(c)
	return nil
}

// alertLoops evaluate rules and tell channels, in processes with the role
// writer.
func (a *App) alertLoops() []loop.Every {
	if !a.has(config.RoleWriter) {
		return nil
	}
	return a.alerts.Loops()
}
