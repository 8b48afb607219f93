package app_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
)

// TestFleetInNumbers: one agent puts its certificate into service, one cannot,
// and one was never seen; the numbers and the lists of the whole fleet say so.
func TestFleetInNumbers(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, dbURL string) {
		cfg := configure(t, dbURL)
		cfg.Agents.AllowNames = []string{"*.test"}
		in := start(t, cfg)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		dir := t.TempDir()
		for _, name := range []string{"bad", "good"} {
			a := enrolled(t, in, filepath.Join(dir, name), name)
			if name == "bad" { // a file stands where its target wants a directory
				check(t, os.WriteFile(filepath.Join(dir, name, "live"), nil, 0o600))
			}
			running.Go(func() {
				defer a.Close()
				if err := a.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		enrolled(t, in, filepath.Join(dir, "quiet"), "quiet").Close()
		eventually(t, "both wait", 30*time.Second, func() bool { return parkedOf(t, in) == 2 })
		for _, name := range []string{"bad", "good"} {
			_, err := client.Post[api.Assignment](ctx, in.api, "/agents/"+name+"/assignments", map[string]any{"names": []string{name + ".test"}, "targets": []string{"web"}})
			check(t, err)
		}
		eventually(t, "one is live, one failed", 60*time.Second, func() bool {
			f, err := client.Get[api.Fleet](ctx, in.api, "/fleet", nil)
			check(t, err)
			return f.Assignments["live"] == 1 && f.Assignments["failed"] == 1 && f.Assignments["new"] == 0 && f.Assignments["issued"] == 0
		})
		f, err := client.Get[api.Fleet](ctx, in.api, "/fleet", nil)
		if err != nil || len(f.Versions) != 1 || f.Versions[0] != (api.FleetVersion{Version: "test", State: "active", Count: 3, Silent: 1}) {
			t.Errorf("%+v %v", f, err)
		}
		work := func(state string) []api.FleetAssignment {
			t.Helper()
			all, _, err := client.List[api.FleetAssignment](ctx, in.api, "/assignments", url.Values{"state": {state}}, 0)
			check(t, err)
			return all
		}
		failed := work("failed")
		if len(failed) != 1 || failed[0].Agent != "bad" || !strings.Contains(failed[0].Error, "live") || failed[0].Attempt == 0 {
			t.Errorf("%+v", failed)
		}
		if live := work("live"); len(live) != 1 || live[0].Agent != "good" || live[0].SHA256 == "" {
			t.Errorf("%+v", live)
		}
		all, _, err := client.List[api.FleetAssignment](ctx, in.api, "/assignments", nil, 0)
		if err != nil || len(all) != 2 || all[0].ID < all[1].ID {
			t.Errorf("%+v %v", all, err)
		}
		page, err := client.Get[api.Page[api.FleetAssignment]](ctx, in.api, "/assignments", url.Values{"limit": {"1"}})
		if err != nil || len(page.Items) != 1 || page.Next == "" {
			t.Errorf("%+v %v", page, err)
		}
		one, err := client.Get[api.Assignment](ctx, in.api, "/assignments/"+failed[0].ID, nil)
		if err != nil || one.Names[0] != "bad.test" {
			t.Errorf("%+v %v", one, err)
		}
		if _, err := client.Get[api.Assignment](ctx, in.api, "/assignments/nothing", nil); !fault.Is(err, fault.NotFound) {
			t.Errorf("no such assignment: %v", err)
		}
		for query, want := range map[string]string{"silent=true": "quiet", "state=revoked": "", "version=other": "", "version=test&state=active": "bad good quiet"} {
			q, err := url.ParseQuery(query)
			check(t, err)
			list, _, err := client.List[api.Agent](ctx, in.api, "/agents", q, 0)
			check(t, err)
			var names []string
			for _, a := range list {
				names = append(names, a.Name)
			}
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
	})
}
