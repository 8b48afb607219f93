package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// startChaos runs a fresh installation with --chaos.
func startChaos(t *testing.T, spec string, names ...string) (*site, *process) {
	t.Helper()
	s := newSite(t)
	s.flags = append(s.flags, "--chaos", spec)
	s.resolve(names...)
	return s, s.start()
}

var chaosCounter = regexp.MustCompile(`(?m)^chancery_chaos_faults_total\{fault="(\w+)"\} (\d+)`)

// faults returns how often each fault was made.
func (p *process) faults() map[string]int {
	p.site.t.Helper()
	resp, err := p.site.web().Get(p.ready.Metrics)
	if err != nil {
		p.site.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.site.t.Fatal(err)
	}
	out := map[string]int{}
	for _, m := range chaosCounter.FindAllStringSubmatch(string(text), -1) {
		out[m[1]], _ = strconv.Atoi(m[2])
	}
	return out
}

// TestChaos: every fault appears, a patient client gets its certificates, and
// nobody who looks at the server can overlook that it misbehaves.
func TestChaos(t *testing.T) {
	t.Parallel()
	s, p := startChaos(t, "429=0.1,503=0.1,nonce=0.15,lost=0.15,slow=0.4,processing=0.6,delay=300ms,hold=500ms,seed=11")
	c := newClient(t, p)
	kinds := []string{"429", "503", "nonce", "lost", "slow", "processing"}
	missing := func() []string {
		var out []string
		for _, k := range kinds {
			if p.faults()[k] == 0 {
				out = append(out, k)
			}
		}
		return out
	}
	for i := 0; i < 4 || len(missing()) > 0; i++ {
		name := fmt.Sprintf("c%d.chaos.test", i)
		s.resolve(name)
		mustIssue(t, s, c, name)
		if i == 40 {
			t.Fatalf("after %d certificates these faults never came: %v", i, missing())
		}
	}
	if c.retries.Load() == 0 {
		t.Error("the client never had to repeat itself")
	}
	var r struct{ Chaos string }
	if err := json.Unmarshal([]byte(readFile(t, p.file)), &r); err != nil || !strings.Contains(r.Chaos, "seed=11") {
		t.Errorf("the ready file does not say so: %+v %v", r, err)
	}
	resp, err := s.web().Get(p.ready.UI)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Header.Get("Chancery-Chaos") == "" { // from which the pages make their banner
		t.Errorf("the page does not say so: %v", resp.Header)
	}
	if !strings.Contains(p.out.String(), "CHAOS IS ON") || !strings.Contains(p.log.String(), "CHAOS IS ON") {
		t.Errorf("the start does not say so:\n%s%s", &p.out, &p.log)
	}
	if out := run(t, tool{name: s.bin, args: []string{"doctor", "issuance", "--data", s.data}}); !strings.Contains(out, "misbehaves on purpose") || !strings.Contains(out, "all hold") {
		t.Errorf("the doctor does not say so:\n%s", out)
	}
	p.stop()
	s.doctor()
	if out := run(t, tool{name: s.bin, args: []string{"doctor", "issuance", "--data", s.data}}); strings.Contains(out, "misbehaves") {
		t.Errorf("the doctor says so after the end:\n%s", out)
	}
}

// TestChaosNeedsItsFlag: nothing else switches it on, and nonsense is refused.
func TestChaosNeedsItsFlag(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.start("CHANCERY_CHAOS=0.5")
	resp, err := s.web().Get(p.ready.Directory)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Header.Get("Chancery-Chaos") != "" || strings.Contains(readFile(t, p.file), "chaos") {
		t.Error("a variable switched chaos on")
	}
	p.stop()
	out, err := tool{name: s.bin, args: []string{"dev", "--data", s.data, "--chaos", "nonse=0.1"}}.call(t)
	if err == nil || !strings.Contains(out, "there are 429, 503, nonce") {
		t.Errorf("%v %s", err, out)
	}
	file := writeFile(t, t.TempDir()+"/c.toml", "[server]\nchaos = \"0.1\"\n", 0o600)
	if out, err = (tool{name: s.bin, args: []string{"config", "check", "--config", file}}).call(t); err == nil || !strings.Contains(out, "server.chaos: unknown key") {
		t.Errorf("%v %s", err, out)
	}
}

// TestChaosWithAcmez runs the library of Caddy through what it promises to
// survive: refused nonces, lost connections, single 503s, slow and asynchronous
// orders. It does not wait out a 429 by itself; its caller does.
func TestChaosWithAcmez(t *testing.T) {
	t.Parallel()
	s, p := startChaos(t, "429=0.03,503=0.05,nonce=0.2,lost=0.1,slow=0.5,processing=0.7,delay=300ms,hold=1s,seed=4", "acmez.test")
	c := acmez.Client{
		Client:           &acme.Client{Directory: p.ready.Directory, HTTPClient: s.web(), PollInterval: 50 * time.Millisecond},
		ChallengeSolvers: map[string]acmez.Solver{acme.ChallengeTypeHTTP01: webrootSolver{t, s.webroot()}},
	}
	var account acme.Account
	key := newKey(t)
	patiently(t, func() (err error) {
		account, err = c.NewAccount(t.Context(), acme.Account{TermsOfServiceAgreed: true, PrivateKey: key})
		return err
	})
	for range 3 {
		csr, err := acmez.NewCSR(newKey(t), []string{"acmez.test"})
		if err != nil {
			t.Fatal(err)
		}
		params, err := acmez.OrderParametersFromCSR(account, csr)
		if err != nil {
			t.Fatal(err)
		}
		patiently(t, func() error {
			chains, err := c.ObtainCertificate(t.Context(), params)
			if err == nil {
				s.judge(t, string(chains[0].ChainPEM), "acmez.test")
			}
			return err
		})
	}
	if f := p.faults(); f["nonce"] == 0 || f["lost"] == 0 || f["processing"] == 0 {
		t.Errorf("too little went wrong: %v", f)
	}
	p.stop()
	s.doctor()
}

// patiently begins anew what a fault ended, as whoever calls acmez does.
func patiently(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 8 {
		if err = f(); err == nil {
			return
		}
		t.Logf("begins anew: %v", err)
		if p, ok := errors.AsType[acme.Problem](err); ok && p.Status != 429 && p.Status != 503 && p.Type != acme.ProblemTypeBadNonce {
			break
		}
	}
	t.Fatal(err)
}

func TestChaosWithLego(t *testing.T) {
	t.Parallel()
	s, p := startChaos(t, "nonce=0.3,slow=0.5,processing=0.8,delay=1s,hold=2s,seed=2", "lego.test")
	newLego(t, p, "--http", "--http.port", "127.0.0.1:"+s.http01).lifecycle(t, "lego.test")
	if f := p.faults(); f["nonce"] == 0 || f["processing"]+f["slow"] == 0 {
		t.Errorf("too little went wrong: %v", f)
	}
	p.stop()
	s.doctor()
}
