package app

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/issuer/local"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// openRenew prepares the renewal engine with every configured issuer and
// target.
func (a *App) openRenew(registered map[string]*ca.Profile) error {
	if err := a.openSolver(); err != nil {
		return err
	}
	issuers, err := a.openIssuers(registered)
	if err != nil {
		return err
	}
	targets, err := a.openTargets()
	if err != nil {
		return err
	}
	a.renew = renew.New(renew.Config{DB: a.db, Inventory: a.inventory, Secrets: a.keys.Sealer(), Issuers: issuers, Targets: targets,
		Lease: a.cfg.Renew.Lease, CheckWorkers: a.cfg.Renew.CheckWorkers, Remote: a.agentKeys(), Metrics: a.metrics, Log: a.log})
	return nil
}

// agentKeys are the keys of certificates that agents serve. The server of agents
// is opened after the engine, and before anything runs.
func (a *App) agentKeys() renew.Remote {
	return renew.Remote{
		Permit:  func(names []pki.Identifier) error { return a.agents.owns(names) },
		Request: func(ctx context.Context, id string) ([]byte, error) { return a.fleet.Request(ctx, id) },
		Issued: func(ctx context.Context, id string) {
			if err := a.fleet.Ready(ctx, id); err != nil {
				a.log.WarnContext(ctx, "agent is told later of its certificate", "assignment", id, "error", err)
			}
		},
	}
}

// openIssuers opens the [issuer.NAME] sections.
func (a *App) openIssuers(registered map[string]*ca.Profile) (map[string]*renew.Issuer, error) {
	kinds := issuerKinds(local.Authorities{Service: a.ca,
		Describe: func(name string) (ca.OperatorConfig, error) { return describeCA(a.cfg, registered, name) },
		OnIssue:  func(_ context.Context, c *ca.Certificate) { a.status.Issued(c) }})
	secrets := renew.Secrets{DB: a.db, Sealer: a.keys.Sealer()}
	out := map[string]*renew.Issuer{}
	for name, c := range a.cfg.Issuer {
		kind, settings, err := bindIssuer(kinds, name, &c)
		if err != nil {
			return nil, err
		}
		env := issuer.Env{Name: name, Log: a.log.With("issuer", name),
			Keep: func(ctx context.Context, item string, value []byte) error {
				return secrets.Keep(ctx, name, item, value)
			},
			Kept: func(ctx context.Context, item string) ([]byte, error) { return secrets.Kept(ctx, name, item) }}
		if a.responders.solver != nil {
			env.Solver = a.responders.solver
		}
		opened, err := kind.Open(env, settings)
		if err != nil {
			return nil, err
		}
		budgets, err := budgets(&c)
		if err != nil {
			return nil, err
		}
		out[name] = &renew.Issuer{Issuer: opened, Own: kind.Name == "local", Workers: c.Workers, Budgets: budgets, Fallbacks: c.Fallbacks,
			FallbackAfter: c.FallbackAfter, Staging: c.Staging, Timeout: c.Timeout}
	}
	return out, nil
}

// bindIssuer finds the kind of a section and reads its settings.
func bindIssuer(kinds []issuer.Kind, name string, c *config.Issuer) (issuer.Kind, any, error) {
	var known []string
	for _, k := range kinds {
		if k.Name == c.Kind {
			settings := k.Config()
			return k, settings, c.Bind(name, settings)
		}
		known = append(known, k.Name)
	}
	return issuer.Kind{}, nil, fmt.Errorf("kind: there is no kind %q of issuer; there are %v", c.Kind, known)
}

// budgets are the published limits of an issuer, with the operator's own.
func budgets(c *config.Issuer) ([]renew.Budget, error) {
	out, err := renew.Preset(string(c.Limits))
	if err != nil || c.Orders.Count == 0 {
		return out, err
	}
	out = slices.DeleteFunc(out, func(b renew.Budget) bool { return b.Scope == limit.PerAccount })
	return append(out, renew.Budget{Name: "orders", Scope: limit.PerAccount,
		Rate: limit.Rate{Count: c.Orders.Count, Per: c.Orders.Per, Burst: c.Orders.Burst}}), nil
}

// describeCA is what holds for certificates that the operator answers for:
// everything that holds for those of ACME clients, but the validation.
func describeCA(cfg *config.Config, registered map[string]*ca.Profile, name string) (out ca.OperatorConfig, err error) {
	c, ok := cfg.CA[name]
	if !ok {
		return out, fault.New(fault.Invalid, "there is no [ca.%s]; there are %s", name, strings.Join(slices.Sorted(maps.Keys(cfg.CA)), ", "))
	}
	out = ca.OperatorConfig{Profiles: map[string]*ca.Profile{}, Default: c.DefaultProfile, ProfileAlso: map[string]ca.NameRule{}}
	if out.Default == "" {
		out.Default = c.Profiles[0]
	}
	policy, err := namePolicy(c.AllowNames, c.DenyNames, c.NamesShadow)
	if err != nil {
		return out, err
	}
	out.Also = append(out.Also, rule("CA "+name, policy))
	for _, p := range c.Profiles {
		section := cfg.Profile[p]
		policy, err := namePolicy(section.AllowNames, section.DenyNames, section.NamesShadow)
		if err != nil {
			return out, err
		}
		out.Profiles[p], out.ProfileAlso[p] = registered[p], rule("profile "+p, policy)
	}
	return out, nil
}

// rule is a policy that holds; one that is only tried refuses nothing.
func rule(of string, p server.NamePolicy) ca.NameRule {
	if p.Shadow {
		return ca.NameRule{Of: of}
	}
	return ca.NameRule{Of: of, Allow: p.Allow, Deny: p.Deny}
}

// openTargets opens the [target.NAME] sections.
func (a *App) openTargets() (map[string]*renew.Place, error) {
	out := map[string]*renew.Place{}
	for name, c := range a.cfg.Target {
		p, err := OpenTarget(a.cfg, name, a.paths.dir, a.log.With("target", name), false)
		if err != nil {
			return nil, err
		}
		if err := MakeState(a.paths.dir, name); err != nil {
			return nil, err
		}
		// The engine itself waits for the windows: only it knows what is urgent.
		windows, opts := p.Options.Windows, p.Options
		opts.Windows = nil
		out[name] = &renew.Place{Collect: c.Collect, MaxBatch: c.Batch, Timeout: c.Timeout,
			NextOpen: func(now time.Time) time.Time { return deploy.NextOpen(windows, now) },
			Run: func(ctx context.Context, items []deploy.Item) []deploy.Outcome {
				return deploy.Run(ctx, p.Target, items, opts)
			}}
	}
	return out, nil
}

// Setting is one key of a kind.
type Setting struct{ Key, Type, Default, Doc string }

// KindDoc describes one plug-in.
type KindDoc struct {
	Section  string // "issuer" or "target"
	Name     string
	Doc      string
	Settings []Setting
}

// Kinds describes every plug-in and its keys.
func Kinds() []KindDoc {
	var out []KindDoc
	for _, k := range issuerKinds(local.Authorities{}) {
		out = append(out, KindDoc{"issuer", k.Name, k.Doc, settingsOf(k.Config())})
	}
	for _, k := range DeployKinds() {
		out = append(out, KindDoc{"target", k.Name, k.Doc, settingsOf(k.Config())})
	}
	return out
}

// settingsOf reads the tags of a kind's configuration.
func settingsOf(config any) []Setting {
	var out []Setting
	v := reflect.ValueOf(config).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		if key := f.Tag.Get("toml"); key != "" && !f.Anonymous {
			out = append(out, Setting{key, f.Type.String(), fmt.Sprint(v.FieldByIndex(f.Index).Interface()), f.Tag.Get("doc")})
		}
	}
	return out
}

// renews reports whether this process runs the renewal engine.
func (a *App) renews() bool { return slices.Contains(a.cfg.Server.Roles, config.RoleRenew) }

// renewLoops are the small chores beside the engine.
func (a *App) renewLoops() []loop.Every {
	if !a.renews() {
		return nil
	}
	every := func(name string, interval time.Duration, tick loop.Tick) loop.Every {
		return loop.Every{Name: name, Interval: interval, Tick: tick, Log: a.log, Metrics: a.loops}
	}
	gauge := a.metrics.Queue("renew")
	return []loop.Every{
		every("renew.measure", 15*time.Second, func(ctx context.Context) (loop.Count, error) {
			lanes, err := a.renew.Lanes(ctx)
			waiting := 0
			for _, l := range lanes {
				waiting += int(l.Waiting)
			}
			gauge.Set(float64(waiting))
			return loop.Count{Backlog: waiting}, err
		}),
		every("renew.incidents", 5*time.Second, a.followIncidents()),
		every("renew.drill", 5*time.Second, a.renew.FinishDrills),
		every("renew.tidy", time.Hour, a.renew.Tidy),
	}
}

// incidentReach is how far back a start looks for incidents: nobody asks for a
// window less often.
const incidentReach = 24 * time.Hour

// followIncidents returns a tick that has every window of our own CAs asked for
// soon after an incident moved some of them: between two questions of a client
// six hours may pass, and an incident may revoke before.
func (a *App) followIncidents() loop.Tick {
	seen := ""
	return func(ctx context.Context) (n loop.Count, err error) {
		latest, err := ca.ListIncidents(ctx, a.db.Read(), "", 1)
		if err != nil || len(latest) == 0 || latest[0].ID == seen {
			return n, err
		}
		i := latest[0]
		now := time.Now()
		if i.State == ca.IncidentCancelled || now.Sub(i.CreatedAt) > incidentReach {
			seen = i.ID
			return n, nil
		}
		if i.State == ca.IncidentMarking {
			return n, nil // its certificates are still being found
		}
		within := min(max(i.RevokeAt.Sub(now)/4, 5*time.Second), 10*time.Minute)
		for name, c := range a.cfg.Issuer {
			if c.Kind != "local" {
				continue
			}
			moved, err := a.renew.AskSoon(ctx, name, within)
			n.Done += moved
			if err != nil {
				return n, err
			}
		}
		seen = i.ID
		return n, nil
	}
}
