package app

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"chancery/internal/acme/solver"
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
	"chancery/internal/issuer"
	issueracme "chancery/internal/issuer/acme"
	"chancery/internal/issuer/digicert"
	"chancery/internal/issuer/entrust"
	issuerexec "chancery/internal/issuer/exec"
	"chancery/internal/issuer/globalsign"
	"chancery/internal/issuer/local"
	"chancery/internal/issuer/sectigo"
	"chancery/internal/issuer/stepca"
	"chancery/internal/issuer/vault"
	"chancery/internal/scan/cloud"
	cloudacm "chancery/internal/scan/cloud/acm"
	"chancery/internal/scan/cloud/certmanager"
	"chancery/internal/scan/cloud/keyvault"
	cloudkubernetes "chancery/internal/scan/cloud/kubernetes"
	"chancery/internal/scan/cloud/vaultpki"
)

// CloudKinds lists the kinds of sources of certificates: the only place that
// does.
func CloudKinds() []cloud.Kind {
	return []cloud.Kind{cloudacm.Kind, certmanager.Kind, keyvault.Kind, cloudkubernetes.Kind, vaultpki.Kind}
}

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

// OpenTarget opens the [target.NAME] section of a configuration. Its journal is
// below data; with offline its server does not run yet. The error is one or
// several *config.Problem.
func OpenTarget(c *config.Config, name, data string, log *slog.Logger, offline bool) (*Place, error) {
	t, section := c.Target[name], "target."+name
	kind, settings, err := bindTarget(name, &t)
	if err != nil {
		return nil, c.Locate(section, err)
	}
	p := &Place{Name: name, Kind: kind, Options: deploy.Options{Log: log}}
	if err := p.options(t, offline); err != nil {
		return nil, c.Locate(section, err)
	}
	env := deploy.Env{Name: name, State: filepath.Join(data, "targets", name), Log: log, Offline: offline}
	if p.Target, err = kind.Open(env, settings); err != nil {
		return nil, c.Locate(section, err)
	}
	return p, nil
}

// bindTarget finds the kind of a section and reads its settings.
func bindTarget(name string, t *config.Target) (deploy.Kind, any, error) {
	var known []string
	for _, k := range DeployKinds() {
		if k.Name == t.Kind {
			settings := k.Config()
			return k, settings, t.Bind(name, settings)
		}
		known = append(known, k.Name)
	}
	return deploy.Kind{}, nil, fmt.Errorf("kind: there is no kind %q of target; there are %v", t.Kind, known)
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
	for _, name := range slices.Sorted(maps.Keys(c.Issuer)) {
		i := c.Issuer[name]
		_, _, err := bindIssuer(issuerKinds(local.Authorities{}), name, &i)
		add(c.Locate("issuer."+name, err))
	}
	for _, name := range slices.Sorted(maps.Keys(c.DNS)) {
		_, err := openDNS(c, name, solver.Env{Name: name, Log: slog.New(slog.DiscardHandler)})
		add(err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Target)) {
		_, err := OpenTarget(c, name, c.Server.Data, slog.New(slog.DiscardHandler), true)
		add(err)
	}
	for _, name := range slices.Sorted(maps.Keys(c.AlertChannel)) {
		_, err := openChannel(c, name, slog.New(slog.DiscardHandler))
		add(err)
	}
	return found
}

// issuerKinds lists the kinds of issuers. What our own CA needs is given when
// they are to be opened, and may be zero when only their settings matter.
func issuerKinds(own local.Authorities) []issuer.Kind {
	return append([]issuer.Kind{local.Kind(own)}, foreignKinds()...)
}

// foreignKinds lists the kinds of issuers that need no CA in this process: with
// issuerKinds the only place that does.
func foreignKinds() []issuer.Kind {
	return []issuer.Kind{
		issueracme.Kind, stepca.Kind, vault.Kind,
		digicert.Kind, sectigo.Kind, entrust.Kind, globalsign.Kind,
		issuerexec.Kind,
	}
}
