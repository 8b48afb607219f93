package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"chancery/internal/testenv"
)

// view is a screen of the UI, and the text that shows that it is there.
type view struct{ path, heading, text string }

// views are the screens of the UI, empty.
var views = []view{
	{"", "Overview", "Active certificates"},
	{"certs", "Inventory", "certificates"},
	{"issuance", "Issuance", "As it happens"},
	{"issuance?show=issued", "Issuance", "Serial"},
	{"issuance?show=orders", "Issuance", "No order was made"},
	{"issuance?show=accounts", "Issuance", "No account was made"},
	{"renewals", "Renewals", "In flight"},
	{"renewals?show=managed", "Renewals", "No certificate is managed"},
	{"renewals?show=forecast", "Renewals", "Orders in the next 60 days"},
	{"renewals?show=drift", "Renewals", "serves what it should"},
	{"renewals?show=drills", "Renewals", "No replacement was rehearsed"},
	{"keys", "Inventory", "Keys in use"},
	{"policies", "Inventory", "There is no policy yet"},
	{"agents", "Agents", "No agent is enrolled"},
	{"agents?show=assignments", "Agents", "No agent keeps"},
	{"agents?show=failed", "Agents", "No deployment failed"},
	{"agents?show=targets", "Agents", "no target of its own"},
	{"agents?show=matrix", "Agents", "No managed certificate has a target"},
	{"agents?show=reloads", "Agents", "Nothing was deployed"},
	{"agents?show=tokens", "Agents", "No enrolment token"},
	{"alerts", "Alerts", "Firing"},
	{"alerts?view=pending", "Alerts", ""},
	{"alerts?view=resolved", "Alerts", ""},
	{"alerts?view=ct", "Alerts", "No unknown certificate"},
	{"alerts?view=logs", "Alerts", "No log is followed"},
	{"alerts?view=rules", "Alerts", "certificate-ending"},
	{"alerts?view=silences", "Alerts", "There are no silences"},
	{"alerts?view=deliveries", "Alerts", "Nobody is told"},
	{"incidents", "Incidents", "There was none"},
	{"scanners", "Scanners", ""},
	{"scanners?show=endpoints", "Scanners", ""},
	{"authorities", "Authorities", "issuing"},
	{"approvals", "Approvals", "Nothing waits"},
	{"audit", "Audit", "entries"},
}

// browser is a real one, signed in to nothing yet.
type browser struct {
	t    *testing.T
	ctx  context.Context
	base string
	axe  string // source of axe-core

	mu       sync.Mutex
	problems []string // what the console said
}

// newBrowser starts Chromium. Nothing leaves this machine.
func newBrowser(t *testing.T, base string) *browser {
	t.Helper()
	bin := testenv.NeedBinary(t, "chromium")
	axe, err := os.ReadFile(filepath.Join(testenv.NodeModules(t, "axe-core"), "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.Flag("ignore-certificate-errors", true), chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-background-networking", true), chromedp.WindowSize(1280, 900))
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b := &browser{t: t, base: base, axe: string(axe)}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // the browser lives as long as this context
		t.Fatal(err)
	}
	b.ctx, cancel = context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(cancel)
	listening := make(chan struct{})
	go func() {
		close(listening)
		for m, err := range chromedp.Console(ctx) {
			if err == nil {
				b.hear(m)
			}
		}
	}()
	<-listening
	return b
}

// hear collects what the page complains about.
func (b *browser) hear(m chromedp.ConsoleMessage) {
	switch m.Type {
	case "error", "warning", "assert", chromedp.ConsoleException:
		b.mu.Lock()
		b.problems = append(b.problems, m.Text+" "+m.URL)
		b.mu.Unlock()
	}
}

func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.t.Fatalf("%v; the page said %q", err, b.problems)
	}
}

// open goes to a view and waits until its heading is there and nothing loads.
func (b *browser) open(path, heading string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.base+path), chromedp.WaitVisible(fmt.Sprintf(`//h1[text()=%q]`, heading)))
	b.until("document.querySelector('.loading') === null")
}

// until waits for a condition in the page.
func (b *browser) until(condition string) {
	b.t.Helper()
	err := chromedp.Do(b.ctx, chromedp.Poll[chromedp.Void](condition, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(30*time.Second)))
	if err != nil {
		b.t.Fatalf("%s: %v; the console says %q; the page shows\n%s", condition, err, b.complaints(), eval[string](b, "location.href + '\\n' + document.body.innerText.slice(0, 3000)"))
	}
}

// eval runs an expression in the page.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// complaints returns and forgets what the console said.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.problems
	b.problems = nil
	return all
}

// accessible holds the page against WCAG 2.1 AA with axe-core.
func (b *browser) accessible(what string) {
	b.t.Helper()
	b.run(chromedp.Evaluate[chromedp.Void](b.axe))
	found := eval[string](b, `axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], resultTypes: ["violations"]})
		.then(r => JSON.stringify(r.violations.map(v => ({id: v.id, help: v.help, nodes: v.nodes.slice(0, 4).map(n => n.html.slice(0, 200) + " " + n.failureSummary)}))))`)
	if found != "[]" {
		var list []map[string]any
		if json.Unmarshal([]byte(found), &list) == nil {
			for _, v := range list {
				b.t.Errorf("%s: %v: %v\n%v", what, v["id"], v["help"], v["nodes"])
			}
		}
	}
}

// signIn signs in with the administrator's token, as a person would.
func (b *browser) signIn(tokenFile string) {
	b.t.Helper()
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		b.t.Fatal(err)
	}
	b.run(chromedp.Navigate(b.base), chromedp.WaitVisible(chromedp.CSS("#token")))
	b.accessible("sign-in")
	b.run(chromedp.SendKeys(chromedp.CSS("#token"), strings.TrimSpace(string(token))+kb.Enter),
		chromedp.WaitVisible(`//h1[text()="Overview"]`))
	if cookies := eval[string](b, "document.cookie"); cookies != "" {
		b.t.Errorf("scripts can read the cookie: %q", cookies)
	}
}

// TestUI visits every screen with a real browser.
func TestUI(t *testing.T) {
	s := newSite(t)
	s.flags = append(s.flags, "--estate", "12000")
	p := s.start()
	b := newBrowser(t, p.ready.UI)
	b.signIn(p.ready.Token)
	b.complaints() // before signing in, the session was asked for
	for _, v := range views {
		b.open(v.path, v.heading)
		if v.text != "" {
			b.until(fmt.Sprintf("document.body.innerText.includes(%q)", v.text))
		}
		for _, c := range b.complaints() {
			t.Errorf("%s: the console says %s", v.path, c)
		}
		b.accessible(v.path)
	}
	t.Run("virtual list", func(t *testing.T) { b.in(t).longList(t) })
	t.Run("timeline", func(t *testing.T) { b.in(t).timeline(t) })
	t.Run("keyboard", func(t *testing.T) { b.in(t).keyboard(t) })
	t.Run("certificate", func(t *testing.T) { b.in(t).certificate(t) })
	t.Run("phone", func(t *testing.T) { b.in(t).phone(t) })
	t.Run("dark", func(t *testing.T) { b.in(t).dark(t) })
	t.Run("live", func(t *testing.T) { b.in(t).live(t, s, p) })
	b.in(t).signOut()
}

// in has failures count for t.
func (b *browser) in(t *testing.T) *browser {
	b.t = t
	return b
}

// longList scrolls through ten thousand rows: only those in sight exist.
func (b *browser) longList(t *testing.T) {
	b.open("certs?q=status:any", "Inventory")
	b.until("document.querySelectorAll('.list-row').length > 5")
	rows := eval[int](b, `(async () => {
		const box = document.querySelector('.list-body');
		let most = 0;
		for (let i = 0; i < 600; i++) {
			box.scrollTop = box.scrollHeight;
			await new Promise(r => requestAnimationFrame(() => setTimeout(r, 15)));
			most = Math.max(most, document.querySelectorAll('.list-row').length);
			if (box.scrollHeight > 10000 * 38) return most;
		}
		return -box.scrollHeight / 38;
	})()`)
	if rows < 0 {
		t.Errorf("scrolling stopped after %d rows", -rows)
	}
	if rows >= 100 {
		t.Errorf("%d rows exist at the same time", rows)
	}
	if off := eval[int](b, `Math.max(...[...document.querySelectorAll('.list-head > span')].map((h, i) => Math.round(Math.abs(h.getBoundingClientRect().left - document.querySelectorAll('.list-row')[0].children[i].getBoundingClientRect().left))))`); off > 1 {
		t.Errorf("a heading is %d pixels away from its column", off)
	}
}

// timeline moves the list by its timeline, and the timeline by the list.
func (b *browser) timeline(t *testing.T) {
	const (
		week  = `Number(document.querySelector('.scroller').getAttribute('aria-valuenow'))`
		ends  = `document.querySelector('.list-row [title^="20"]').title.slice(0, 10)`
		quiet = `!document.querySelector('.list-foot').innerText.includes('loading')`
	)
	b.open("certs?q=status:active", "Inventory")
	b.until("document.querySelector('.scroller') && document.querySelectorAll('.list-row').length > 5")
	b.run(chromedp.Focus(chromedp.CSS(".scroller")), chromedp.KeyEvent(kb.PageUp))
	b.until("location.search.includes('from=')")
	b.until(quiet + " && " + ends + " >= new URLSearchParams(location.search).get('from') && " + week + " >= 4")
	b.accessible("inventory from a week on")
	before := eval[int](b, week)
	// Far down in the list is later: the mark follows.
	b.until(fmt.Sprintf("(document.querySelector('.list-body').scrollTop = document.querySelector('.list-body').scrollHeight, %s > %d)", week, before))
	b.run(chromedp.Focus(chromedp.CSS(".scroller")), chromedp.KeyEvent(kb.Home))
	b.until("!location.search.includes('from=') && " + week + " === 0")
	for _, c := range b.complaints() {
		t.Errorf("the console says %s", c)
	}
}

// keyboard searches, moves in the list and opens a row without a mouse.
func (b *browser) keyboard(t *testing.T) {
	b.open("certs", "Inventory")
	b.until("document.querySelectorAll('.list-row').length > 5")
	b.run(chromedp.SendKeys(chromedp.CSS("#q"), "status:active"+kb.Enter))
	b.until("location.search.includes('status')")
	b.until("!document.querySelector('.list-foot').innerText.includes('loading')")
	b.until("document.querySelectorAll('.list-row').length > 5")
	b.run(chromedp.Focus(chromedp.CSS(".list-body")), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(kb.ArrowDown))
	b.until("document.querySelector('.list-body').getAttribute('aria-activedescendant') === 'certificates-2'")
	b.run(chromedp.KeyEvent(kb.Enter))
	b.until("/\\/ui\\/certs\\/[0-9a-z]+$/.test(location.pathname)")
	b.until("document.body.innerText.includes('SHA-256')")
}

// certificate shows one in full.
func (b *browser) certificate(t *testing.T) {
	b.until("document.body.innerText.includes('Where it is served')")
	b.accessible("certificate")
	for _, c := range b.complaints() {
		t.Errorf("the console says %s", c)
	}
}

// phone makes the window 360 pixels wide: nothing may need sideways scrolling
// of the page itself.
func (b *browser) phone(t *testing.T) {
	b.run(chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	defer b.run(chromedp.ResetViewport())
	for _, v := range views {
		b.open(v.path, v.heading)
		if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 360 {
			t.Errorf("%q is %d pixels wide", v.path, wide)
		}
	}
	b.run(chromedp.Click(chromedp.CSS(".menu")), chromedp.WaitVisible(`//nav[@id="nav"]//a[text()="Audit"]`),
		chromedp.Click(`//nav[@id="nav"]//a[text()="Audit"]`), chromedp.WaitVisible(`//h1[text()="Audit"]`))
}

// dark holds the other palette against the same rules.
func (b *browser) dark(t *testing.T) {
	b.palette("dark")
	defer b.palette("")
	for _, path := range []string{"", "certs", "audit"} {
		b.run(chromedp.Navigate(b.base+path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.until("document.querySelector('.loading') === null")
		b.accessible("dark " + path)
	}
}

// palette has the browser prefer a colour scheme.
func (b *browser) palette(scheme string) {
	b.t.Helper()
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		b.t.Fatal(err)
	}
}

// live issues a certificate and sees it appear.
func (b *browser) live(t *testing.T, s *site, p *process) {
	b.open("issuance", "Issuance")
	b.until("document.querySelector('.dot.good') !== null")
	s.resolve("seen-live.test")
	c := acmez.Client{Client: &acme.Client{Directory: p.ready.Directory, HTTPClient: s.web(), PollInterval: 50 * time.Millisecond},
		ChallengeSolvers: map[string]acmez.Solver{acme.ChallengeTypeHTTP01: webrootSolver{t, s.webroot()}}}
	account, err := c.NewAccount(t.Context(), acme.Account{TermsOfServiceAgreed: true, PrivateKey: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	obtainByAcmez(t, s, &c, account, nil, "seen-live.test")
	b.until("document.body.innerText.includes('seen-live.test')")
}

// signOut ends the session in the browser and on the server.
func (b *browser) signOut() {
	b.open("", "Overview")
	b.run(chromedp.Click(`//button[text()="Sign out"]`), chromedp.WaitVisible(chromedp.CSS("#token")))
	if eval[bool](b, `fetch("/api/v1/session").then(r => r.json()).then(s => s.signed_in)`) {
		b.t.Error("the session goes on")
	}
}
