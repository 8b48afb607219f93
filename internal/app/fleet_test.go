package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/fleet/agent"
	"chancery/internal/loop"
)

// enrolled makes a token and enrols an agent with a target of files.
func enrolled(t testing.TB, in *instance, dir, name string) *agent.Agent {
	t.Helper()
	made, err := client.Post[api.NewAgentToken](context.Background(), in.api, "/agent-tokens", map[string]any{"name_pattern": name})
	check(t, err)
	target := config.DefaultTarget()
	target.Name, target.Kind, target.Probe = "web", "files", []string{"none"}
	place, err := app.OpenTarget(withDir(t, dir, target), dir, slog.New(slog.DiscardHandler), false)
	check(t, err)
	check(t, app.MakeState(dir, "web"))
	a, err := agent.Open(context.Background(), agent.Config{Server: strings.TrimSuffix(in.API, api.Prefix), State: dir, Token: made.Secret, Name: name, Version: "test",
		Targets: map[string]agent.Target{"web": {Target: place.Target, Options: place.Options}}, Backoff: loop.Backoff{Base: 100 * time.Millisecond, Max: time.Second}})
	check(t, err)
	return a
}

// withDir gives a target of files its directory, as a configuration would.
func withDir(t testing.TB, dir string, target config.Target) config.Target {
	t.Helper()
	path := filepath.Join(dir, "agent.toml")
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(path, []byte(fmt.Sprintf("[[target]]\nname = %q\nkind = %q\nprobe = [\"none\"]\ndir = %q\n", target.Name, target.Kind, filepath.Join(dir, "live"))), 0o600))
	c, err := config.Load(path, nil)
	check(t, err)
	return c.Target[0]
}

func agentsOf(t testing.TB, in *instance) []api.Agent {
	t.Helper()
	list, _, err := client.List[api.Agent](context.Background(), in.api, "/agents", nil, 0)
	check(t, err)
	return list
}

func parkedOf(t testing.TB, in *instance) (n int) {
	t.Helper()
	for _, a := range agentsOf(t, in) {
		if a.Parked {
			n++
		}
	}
	return n
}

func assigned(t testing.TB, in *instance, name string) api.Assignment {
	t.Helper()
	list, _, err := client.List[api.Assignment](context.Background(), in.api, "/agents/"+name+"/assignments", nil, 0)
	check(t, err)
	if len(list) != 1 {
		t.Fatalf("%s has %d assignments", name, len(list))
	}
	return list[0]
}

// TestRestartUnderAFleet restarts the server while 200 agents are parked and
// some of them have just been given work: all come back, none was taken for a
// copy, and nothing that was asked for is refused.
func TestRestartUnderAFleet(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		const agents, busy = 200, 20
		cfg := configure(t, url)
		cfg.Agents.AllowNames = []string{"*.test"}
		in := start(t, cfg)
		dir := t.TempDir()
		fleet := make([]*agent.Agent, agents)
		for i := range fleet {
			name := fmt.Sprintf("a%03d", i)
			fleet[i] = enrolled(t, in, filepath.Join(dir, name), name)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		for _, a := range fleet {
			running.Go(func() {
				defer a.Close()
				if err := a.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		defer running.Wait()
		defer cancel()
		eventually(t, "all wait", time.Minute, func() bool { return parkedOf(t, in) == agents })
		for i := range busy {
			name := fmt.Sprintf("a%03d", i)
			_, err := client.Post[api.Assignment](ctx, in.api, "/agents/"+name+"/assignments", map[string]any{"names": []string{name + ".test"}, "targets": []string{"web"}})
			check(t, err)
		}
		in.stop()
		in = start(t, cfg)
		began := time.Now()
		eventually(t, "all are back", time.Minute, func() bool { return parkedOf(t, in) == agents })
		t.Logf("%d agents were back %s after the restart", agents, time.Since(began).Round(time.Millisecond))
		for i := range busy {
			name := fmt.Sprintf("a%03d", i)
			// What was given to an agent that never heard of it is given again
			// two minutes later.
			eventually(t, name+" serves", 4*time.Minute, func() bool { return assigned(t, in, name).State == "live" })
			if a := assigned(t, in, name); a.Error != "" || a.Attempt != 0 {
				t.Errorf("%+v", a)
			}
		}
		for _, a := range agentsOf(t, in) {
			if a.State != "active" || a.Generation != 2 {
				t.Errorf("%+v", a)
			}
		}
	})
}

// TestAgentsSection: agents.ca, profile, allow_names, deny_names, max_parked.
func TestAgentsSection(t *testing.T) {
	cfg := configure(t, dbtest.SQLiteURL(t))
	other := config.DefaultCA()
	other.Profiles = []string{"default", "brief"}
	cfg.CA["other"] = other
	brief := config.DefaultProfile()
	brief.Period = 10 * 24 * time.Hour
	cfg.Profile["brief"] = brief
	cfg.Agents = config.Agents{CA: "other", Profile: "brief", AllowNames: []string{"*.good.test"}, DenyNames: []string{"bad.good.test"}, MaxParked: 1}
	if found := cfg.Check(); len(found) > 0 {
		t.Fatal(found)
	}
	in := start(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		a := enrolled(t, in, filepath.Join(dir, name), name)
		running.Go(func() {
			defer a.Close()
			if err := a.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "it has asked", 20*time.Second, func() bool {
			i := slices.IndexFunc(agentsOf(t, in), func(x api.Agent) bool { return x.Name == name })
			return i >= 0 && len(agentsOf(t, in)[i].Targets) == 1 && parkedOf(t, in) == 1
		})
	}
	assign := func(name string) error {
		_, err := client.Post[api.Assignment](ctx, in.api, "/agents/one/assignments", map[string]any{"names": []string{name}, "targets": []string{"web"}})
		return err
	}
	for _, name := range []string{"www.test", "bad.good.test", "good.test"} {
		if err := assign(name); !fault.Is(err, fault.RejectedIdentifier) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, assign("www.good.test"))
	eventually(t, "it serves", 20*time.Second, func() bool { return assigned(t, in, "one").State == "live" })
	list := known(t, in, "name:www.good.test")
	if len(list) != 1 || list[0].NotAfter.Sub(list[0].NotBefore) > brief.Period || !strings.Contains(fmt.Sprintf("%+v", list[0]), "other issuing CA") {
		t.Errorf("%+v", list)
	}
	cfg.Agents.CA = "missing"
	cfg.Agents.Profile = "missing"
	if found := cfg.Check(); len(found) != 2 {
		t.Errorf("%v", found)
	}
}
