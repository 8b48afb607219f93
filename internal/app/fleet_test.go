package app_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
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
	messages "chancery/internal/fleet"
	"chancery/internal/fleet/agent"
	"chancery/internal/loop"
)

// enrolled makes a token and enrols an agent with a target of files.
func enrolled(t testing.TB, in *instance, dir, name string) *agent.Agent {
	t.Helper()
	a, err := agent.Open(context.Background(), agentConfig(t, in, dir, name))
	check(t, err)
	return a
}

// agentConfig makes a token, and what an agent is told.
func agentConfig(t testing.TB, in *instance, dir, name string) agent.Config {
	t.Helper()
	made, err := client.Post[api.NewAgentToken](context.Background(), in.api, "/agent-tokens", map[string]any{"name_pattern": name})
	check(t, err)
	place, err := app.OpenTarget(withFiles(t, dir, "web"), "web", dir, slog.New(slog.DiscardHandler), false)
	check(t, err)
	check(t, app.MakeState(dir, "web"))
	return agent.Config{Server: strings.TrimSuffix(in.API, api.Prefix), State: dir, Token: made.Secret, Name: name, Version: "test",
		Targets: map[string]agent.Target{"web": {Target: place.Target, Options: place.Options}}, Backoff: loop.Backoff{Base: 100 * time.Millisecond, Max: time.Second}}
}

// withFiles returns a configuration with a target of files.
func withFiles(t testing.TB, dir, name string) *config.Config {
	t.Helper()
	path := filepath.Join(dir, "agent.toml")
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(path, []byte(fmt.Sprintf("[target.%s]\nkind = \"files\"\nprobe = [\"none\"]\ndir = %q\n", name, filepath.Join(dir, "live"))), 0o600))
	c, err := config.Load(path, nil)
	check(t, err)
	return c
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

// once opens an agent on its state, lets it work once, and closes it.
func once(t testing.TB, cfg agent.Config) (live, failed int) {
	t.Helper()
	a, err := agent.Open(context.Background(), cfg)
	check(t, err)
	defer a.Close()
	live, failed, err = a.Once(context.Background())
	check(t, err)
	return live, failed
}

// TestIdentityIsRenewed: after half of its life an agent has a new key and
// certificate; when the answer was lost it goes on from either.
func TestIdentityIsRenewed(t *testing.T) {
	dbtest.EachURL(t, func(t *testing.T, url string) {
		in := start(t, configure(t, url))
		dir := t.TempDir()
		cfg := agentConfig(t, in, dir, "one")
		once(t, cfg)
		file := func(name string) []byte {
			text, err := os.ReadFile(filepath.Join(dir, name))
			check(t, err)
			return text
		}
		oldID, oldKey := file("identity.json"), file("identity.key")
		late := cfg
		late.Now = func() time.Time { return time.Now().Add(4 * 24 * time.Hour) }
		once(t, late)
		if string(file("identity.key")) == string(oldKey) {
			t.Fatal("the identity was not renewed")
		}
		once(t, cfg)
		a := agentsOf(t, in)[0]
		if a.State != "active" || a.Generation != 5 { // enrolled, three starts, one renewal
			t.Errorf("%+v", a)
		}
		// The start before the renewal is lost with everything after it: that is
		// a backup that was restored.
		check(t, os.WriteFile(filepath.Join(dir, "identity.json"), oldID, 0o600))
		check(t, os.WriteFile(filepath.Join(dir, "identity.key"), oldKey, 0o600))
		old, err := agent.Open(context.Background(), cfg)
		check(t, err)
		defer old.Close()
		if _, _, err := old.Once(context.Background()); !agent.Refused(err) {
			t.Errorf("a restored backup works: %v", err)
		}
	})
}

// TestLostAnswers: the answer to a start, or to a renewal, that never arrived
// makes no copy of an agent.
func TestLostAnswers(t *testing.T) {
	in := start(t, configure(t, dbtest.SQLiteURL(t)))
	dir := t.TempDir()
	cfg := agentConfig(t, in, dir, "one")
	once(t, cfg)
	read := func() (m map[string]any) {
		text, err := os.ReadFile(filepath.Join(dir, "identity.json"))
		check(t, err)
		check(t, json.Unmarshal(text, &m))
		return m
	}
	write := func(m map[string]any) {
		text, err := json.Marshal(m)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, "identity.json"), text, 0o600))
	}
	// A start: what the directory held when the question was sent.
	before := read()
	once(t, cfg)
	before["pending"] = read()["instance"]
	write(before)
	once(t, cfg)

	// A renewal: the new key waits beside the old one.
	before = read()
	key, err := os.ReadFile(filepath.Join(dir, "identity.key"))
	check(t, err)
	late, err := agent.Open(context.Background(), func() agent.Config {
		c := cfg
		c.Now = func() time.Time { return time.Now().Add(4 * 24 * time.Hour) }
		return c
	}())
	check(t, err)
	_, _, err = late.Once(context.Background())
	check(t, err)
	late.Close()
	after := read()
	before["generation"], before["pending"] = after["generation"].(float64)-1, after["instance"]
	// The instance of the start in between is not on the disk any more, and
	// need not be: the pair that was asked for is what counts.
	check(t, os.Rename(filepath.Join(dir, "identity.key"), filepath.Join(dir, "identity.key.next")))
	check(t, os.WriteFile(filepath.Join(dir, "identity.key"), key, 0o600))
	write(before)
	once(t, cfg)
	if a := agentsOf(t, in)[0]; a.State != "active" {
		t.Errorf("%+v", a)
	}
}

// TestAgentSpeaksForItselfOnly: what one agent says about another's work
// changes nothing.
func TestAgentSpeaksForItselfOnly(t *testing.T) {
	cfg := configure(t, dbtest.SQLiteURL(t))
	cfg.Agents.AllowNames = []string{"*.test"}
	in := start(t, cfg)
	dirA, dirB := t.TempDir(), t.TempDir()
	cfgA, cfgB := agentConfig(t, in, dirA, "liar"), agentConfig(t, in, dirB, "victim")
	once(t, cfgA)
	once(t, cfgB)
	made, err := client.Post[api.Assignment](context.Background(), in.api, "/agents/victim/assignments", map[string]any{"names": []string{"v.test"}, "targets": []string{"web"}})
	check(t, err)
	var id struct {
		Chain      [][]byte
		Generation int64
		Instance   string
	}
	text, err := os.ReadFile(filepath.Join(dirA, "identity.json"))
	check(t, err)
	check(t, json.Unmarshal(text, &id))
	text, err = os.ReadFile(filepath.Join(dirA, "identity.key"))
	check(t, err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	check(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"v.test"}}, key)
	check(t, err)
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{messages.ALPN, "http/1.1"}, Certificates: []tls.Certificate{{Certificate: id.Chain, PrivateKey: key}}}
	post := func(conf *tls.Config, path string, m any) int {
		body, err := json.Marshal(m)
		check(t, err)
		tr := &http.Transport{TLSClientConfig: conf}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Post(cfgA.Server+messages.Prefix+path, "application/json", bytes.NewReader(body))
		check(t, err)
		defer resp.Body.Close()
		return resp.StatusCode
	}
	me := messages.Session{Generation: id.Generation, Instance: id.Instance}
	if code := post(conf, "report", messages.Report{Session: me, Results: []messages.Result{{ID: made.ID, CSR: csr}}}); code != 200 {
		t.Fatal(code)
	}
	for name, m := range map[string]any{
		"too many results":     messages.Report{Session: me, Results: make([]messages.Result, messages.MaxBatch+1)},
		"an id that is a path": messages.Report{Session: me, Results: []messages.Result{{ID: "../../etc/passwd", CSR: csr}}},
		"a broken request":     messages.Report{Session: me, Results: []messages.Result{{ID: made.ID, CSR: []byte("x")}}},
		"unknown members":      map[string]any{"generation": id.Generation, "instance": id.Instance, "sudo": true},
		"a huge instance":      messages.Report{Session: messages.Session{Generation: 2, Instance: strings.Repeat("x", 65)}},
	} {
		if code := post(conf, "report", m); code != 400 {
			t.Errorf("%s: %d", name, code)
		}
	}
	if live, failed := once(t, cfgB); live != 1 || failed != 0 {
		t.Errorf("%d live, %d failed", live, failed)
	}
	if a := assigned(t, in, "victim"); a.State != "live" || a.Attempt != 0 || a.Error != "" {
		t.Errorf("%+v", a)
	}
	// The identity's certificate counts only when it is offered as an agent's:
	// other connections are not asked for one.
	other := conf.Clone()
	other.NextProtos = nil
	if code := post(other, "report", messages.Report{Session: me}); code != 401 {
		t.Errorf("without the protocol's name: %d", code)
	}
}
