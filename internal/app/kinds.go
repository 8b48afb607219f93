package app

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"chancery/internal/alert"
	"chancery/internal/alert/email"
	"chancery/internal/alert/pagerduty"
	"chancery/internal/alert/slack"
	"chancery/internal/alert/teams"
	alerthook "chancery/internal/alert/webhook"
	"chancery/internal/config"
	"chancery/internal/deploy"
	"chancery/internal/deploy/acm"
	"chancery/internal/deploy/apache"
	"chancery/internal/deploy/caddy"
	"chancery/internal/deploy/dovecot"
	"chancery/internal/deploy/exec"
	"chancery/internal/deploy/f5"
	"chancery/internal/deploy/files"
	"chancery/internal/deploy/haproxy"
	"chancery/internal/deploy/keystore"
	"chancery/internal/deploy/kubernetes"
	"chancery/internal/deploy/nginx"
	"chancery/internal/deploy/postfix"
	"chancery/internal/deploy/postgresql"
	"chancery/internal/deploy/ssh"
	"chancery/internal/deploy/webhook"
)

// DeployKinds lists the kinds of deploy targets: the only place that does.
func DeployKinds() []deploy.Kind {
	return []deploy.Kind{
		nginx.Kind, apache.Kind, haproxy.Kind, caddy.Kind,
		postfix.Kind, dovecot.Kind, postgresql.Kind,
		files.Kind, keystore.Kind, exec.Kind, webhook.Kind, ssh.Kind,
		kubernetes.Kind, acm.Kind, f5.Kind,
	}
}

// AlertKinds lists the kinds of alert channels: the only place that does.
func AlertKinds() []alert.Kind {
	return []alert.Kind{email.Kind, slack.Kind, teams.Kind, pagerduty.Kind, alerthook.Kind}
}

// Place is a configured target, ready to be deployed to.
type Place struct {
	Name    string
	Kind    deploy.Kind
	Target  deploy.Target
	Options deploy.Options // what the configuration says about every run
}

// NoProbe is what "probe" says when a server shall not be asked.
const NoProbe = "none"

// kindOf finds the kind of a target.
func kindOf(t config.Target) (deploy.Kind, error) {
	var names []string
	for _, k := range DeployKinds() {
		if k.Name == t.Kind {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return deploy.Kind{}, fmt.Errorf("kind: there is no kind %q of target; there are %v", t.Kind, names)
}

// OpenTarget opens one target. Its journal is below data; with offline its
// server does not run yet. The error is a list of *config.Problem.
func OpenTarget(t config.Target, data string, log *slog.Logger, offline bool) (*Place, error) {
	kind, err := kindOf(t)
	if err != nil {
		return nil, t.Settings().Problem(err)
	}
	settings := kind.Config()
	if err := t.Settings().Decode(settings); err != nil {
		return nil, err
	}
	p := &Place{Name: t.Name, Kind: kind, Options: deploy.Options{Log: log}}
	if err := p.options(t, offline); err != nil {
		return nil, t.Settings().Problem(err)
	}
	env := deploy.Env{Name: t.Name, State: filepath.Join(data, "targets", t.Name), Log: log, Offline: offline}
	if p.Target, err = kind.Open(env, settings); err != nil {
		return nil, t.Settings().Problem(err)
	}
	return p, nil
}

// options reads the keys that all targets have.
func (p *Place) options(t config.Target, offline bool) error {
	for _, s := range t.Windows {
		w, err := deploy.ParseWindow(s)
		if err != nil {
			return fmt.Errorf("windows: %w", err)
		}
		p.Options.Windows = append(p.Options.Windows, w)
	}
	if len(t.Probe) == 0 && p.Kind.Serves != "" {
		return fmt.Errorf("probe: must say where the server is asked for its certificates, such as [\"127.0.0.1:%d\"], or [%q]", p.Kind.Serves.DefaultPort(), NoProbe)
	}
	if slices.Equal(t.Probe, []string{NoProbe}) {
		return nil
	}
	p.Options.Probe.Settle = t.Settle
	for _, s := range t.Probe {
		a, err := deploy.ParseAddress(s, p.Kind.Serves)
		if err != nil {
			return fmt.Errorf("probe: %w", err)
		}
		if !offline {
			p.Options.Probe.Addresses = append(p.Options.Probe.Addresses, a)
		}
	}
	return nil
}

// MakeState makes the directory of a target's journal below data.
func MakeState(data, name string) error {
	if err := os.MkdirAll(filepath.Join(data, "targets", name), 0o700); err != nil {
		return fmt.Errorf("make directory of target %s: %w", name, err)
	}
	return nil
}

// CheckKinds returns what is wrong with the parts of a configuration that
// belong to plug-ins, each a *config.Problem in one line. It opens nothing
// over the network.
func CheckKinds(c *config.Config) []error {
	var found []error
	add := func(err error) {
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			found = append(found, many.Unwrap()...)
		} else if err != nil {
			found = append(found, err)
		}
	}
	for _, t := range c.Target {
		_, err := OpenTarget(t, c.Server.Data, slog.New(slog.DiscardHandler), true)
		add(err)
	}
	for _, ch := range c.AlertChannel {
		_, err := openChannel(ch, slog.New(slog.DiscardHandler))
		add(err)
	}
	return found
}
