package app_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
)

// waitingAgent starts a server whose agents may have *.test, with the issuer
// "internal" for *.corp.test, and the agent "one" that waits at it until the
// test ends.
func waitingAgent(t *testing.T, url string) (context.Context, *config.Config, *instance) {
	t.Helper()
	cfg := configure(t, url)
	cfg.Agents.AllowNames = []string{"*.test"}
	local := config.DefaultIssuer()
	local.Kind = "local"
	cfg.Issuer["internal"] = local.With("allow_names", []string{"*.corp.test"})
	in := start(t, cfg)
	a := enrolled(t, in, filepath.Join(t.TempDir(), "one"), "one")
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		defer a.Close()
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); running.Wait() })
	eventually(t, "it waits", time.Minute, func() bool { return parkedOf(t, in) == 1 })
	return ctx, cfg, in
}

// TestAssignmentFromAnIssuer: what an agent keeps in service may come from any
// issuer of the configuration. Its key is the agent's, and the renewal engine
// obtains it: it is among the managed certificates, is renewed from there as
// well as from the agents' side, and ends with the assignment.
func TestAssignmentFromAnIssuer(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		ctx, _, in := waitingAgent(t, url)

		assign := func(name, issuer string) (api.Assignment, error) {
			return client.Post[api.Assignment](ctx, in.api, "/agents/one/assignments", map[string]any{"names": []string{name}, "targets": []string{"web"}, "issuer": issuer})
		}
		if _, err := assign("www.corp.test", "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("an issuer that does not exist: %v", err)
		}
		if _, err := assign("www.example", "internal"); err == nil || !strings.Contains(err.Error(), "agents.allow_names") {
			t.Errorf("a name that may not be assigned: %v", err)
		}
		made, err := assign("www.corp.test", "internal")
		check(t, err)
		eventually(t, "it serves", time.Minute, func() bool { return assigned(t, in, "one").State == "live" })
		first := assigned(t, in, "one")
		managed := func() (m api.Managed) {
			list, _, err := client.List[api.Managed](ctx, in.api, "/managed", nil, 0)
			check(t, err)
			for i := range list {
				if list[i].Name == "assignment."+made.ID {
					m = list[i]
				}
			}
			return m
		}
		if m := managed(); m.Issuer != "internal" || m.State != "idle" || m.RenewAt == nil {
			t.Errorf("the engine has %+v", m)
		}

		// From either side: the agents', and the engine's.
		_, err = client.Post[api.Assignment](ctx, in.api, "/assignments/"+made.ID+"/renew", nil)
		check(t, err)
		eventually(t, "it serves the next one", time.Minute, func() bool { n := assigned(t, in, "one"); return n.State == "live" && n.SHA256 != first.SHA256 })
		second := assigned(t, in, "one")
		_, err = client.Post[api.Managed](ctx, in.api, "/managed/"+managed().ID+"/renew", nil)
		check(t, err)
		eventually(t, "it serves what the engine renewed", time.Minute, func() bool { n := assigned(t, in, "one"); return n.State == "live" && n.SHA256 != second.SHA256 })
		if n := assigned(t, in, "one"); n.Attempt != 0 || n.Error != "" {
			t.Errorf("%+v", n)
		}

		check(t, in.api.Do(ctx, "DELETE", "/assignments/"+made.ID, nil, nil, nil))
		if m := managed(); m.ID != "" {
			t.Errorf("its certificate is managed for nobody: %+v", m)
		}
		if _, err := client.Post[api.Managed](ctx, in.api, "/managed", map[string]any{"name": "assignment.x", "names": []string{"x.corp.test"}, "issuer": "internal"}); err == nil || !strings.Contains(err.Error(), "agents") {
			t.Errorf("a name of agents was given away: %v", err)
		}
	})
}

// TestAssignedNamesAreCheckedAtRenewal: a name that agents may not have any more
// is not renewed for them by any issuer. It stops with the reason, what is in
// service stays, and goes on when it is allowed again.
func TestAssignedNamesAreCheckedAtRenewal(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		ctx, cfg, in := waitingAgent(t, url)
		made, err := client.Post[api.Assignment](ctx, in.api, "/agents/one/assignments", map[string]any{"names": []string{"www.corp.test"}, "targets": []string{"web"}, "issuer": "internal"})
		check(t, err)
		eventually(t, "it serves", time.Minute, func() bool { return assigned(t, in, "one").State == "live" })
		first, ref := assigned(t, in, "one"), "/managed/assignment."+made.ID

		in.stop()
		cfg.Agents.AllowNames, cfg.Agents.DenyNames = []string{"*.test"}, []string{"www.corp.test"}
		in = start(t, cfg)
		_, err = client.Post[api.Managed](ctx, in.api, ref+"/renew", nil)
		check(t, err)
		var why api.Explanation
		eventually(t, "it stops", time.Minute, func() bool {
			why, err = client.Get[api.Explanation](ctx, in.api, ref+"/explain", nil)
			check(t, err)
			return why.Managed.State == "stopped"
		})
		if text := fmt.Sprint(why); why.Managed.ErrorClass != "permanent" || !strings.Contains(text, "agents.allow_names of the server's configuration denies www.corp.test") {
			t.Errorf("%+v", why)
		}
		if n := assigned(t, in, "one"); n.SHA256 != first.SHA256 || n.State != "live" {
			t.Errorf("what is in service: %+v", n)
		}

		in.stop()
		cfg.Agents.DenyNames = nil
		in = start(t, cfg)
		_, err = client.Post[api.Managed](ctx, in.api, ref+"/renew", nil)
		check(t, err)
		eventually(t, "it serves the next one", time.Minute, func() bool { n := assigned(t, in, "one"); return n.State == "live" && n.SHA256 != first.SHA256 })
	})
}
