package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// person is somebody who may not do everything: what the navigation offers
// them, and the views that they are told they may not see.
type person struct {
	name   string
	token  string   // body of create-token
	nav    []string // nil: all of it
	hidden []string // paths of views; "" is the overview
	only   []string // with it: the views that are shown, and all others are hidden
	acts   bool     // they may change something
}

var allNav = []string{"Overview", "Inventory", "Issuance", "Renewals", "Agents", "Incidents", "Scanners", "Authorities", "Alerts", "Approvals", "Audit"}

var persons = []person{
	{name: "viewer", token: `"role":"viewer"`, hidden: []string{"agents?show=tokens"}},
	{name: "auditor", token: `"role":"auditor"`},
	{name: "approver", token: `"role":"approver"`, hidden: []string{"agents?show=tokens"}},
	{name: "operator", token: `"role":"operator"`, hidden: []string{"agents?show=tokens"}, acts: true},
	{name: "operator of an owner", token: `"role":"operator","scope":{"owners":["pay"]}`, nav: []string{"Overview", "Inventory", "Renewals", "Authorities", "Approvals"},
		only: []string{"", "certs", "keys", "renewals", "renewals?show=managed", "authorities", "approvals"}},
	{name: "viewer of an authority", token: `"role":"viewer","scope":{"cas":["default"]}`, nav: []string{"Overview", "Issuance", "Renewals", "Authorities", "Approvals"},
		only: []string{"issuance", "issuance?show=issued", "renewals", "renewals?show=managed", "authorities", "approvals"}},
	{name: "auditor of an owner and a profile", token: `"role":"auditor","scope":{"owners":["pay"],"profiles":["default"]}`, nav: []string{"Overview", "Renewals", "Authorities", "Approvals"},
		only: []string{"renewals", "renewals?show=managed", "authorities", "approvals"}},
}

// looking are the buttons that change nothing.
var looking = []string{"Menu", "◐", "Sign out", "CLI", "curl", "CSV", "JSON", "Copy", "Search", "Clear", "Verify", "as it is", "100 days", "47 days", "open", "acknowledged", "dismissed", "ours", "Try…", "Download"}

// mayNot is what a view says instead of what it would show.
const mayNot = "This is not shown to you."

// TestUIForEveryRole goes through all screens as everybody who may not do
// everything: whatever they may not see is said in words, nothing is asked of the
// server that it refuses, and nothing is offered that it would.
func TestUIForEveryRole(t *testing.T) {
	s := newSite(t)
	s.flags = append(s.flags, "--estate", "300")
	p := s.start()
	for i, who := range persons {
		var made struct{ Secret string }
		s.callAPI(p, "POST", "/tokens", fmt.Sprintf(`{"name":"person %d",%s}`, i, who.token), &made)
		t.Run(who.name, func(t *testing.T) {
			b := newBrowser(t, p.ready.UI)
			b.run(chromedp.Navigate(b.base), chromedp.WaitVisible(chromedp.CSS("#token")), chromedp.SendKeys(chromedp.CSS("#token"), made.Secret+kb.Enter), chromedp.WaitVisible(`//h1[text()="Overview"]`))
			b.complaints()
			b.visit(t, who)
			b.signOut()
		})
	}
}

// visit goes through all views as somebody.
func (b *browser) visit(t *testing.T, who person) {
	nav := who.nav
	if nav == nil {
		nav = allNav
	}
	for _, v := range views {
		b.open(v.path, v.heading)
		b.until("!document.querySelector('.list-foot')?.innerText.includes('loading')")
		hidden := slices.Contains(who.hidden, v.path) || who.only != nil && !slices.Contains(who.only, v.path)
		if said := eval[bool](b, fmt.Sprintf("document.querySelector('main').innerText.includes(%q)", mayNot)); said != hidden {
			t.Errorf("%q: not shown: %v, want %v\n%s", v.path, said, hidden, eval[string](b, "document.querySelector('main').innerText.slice(0, 600)"))
		}
		if trouble := eval[string](b, "document.querySelector('.trouble')?.innerText ?? ''"); trouble != "" {
			t.Errorf("%q: %s", v.path, trouble)
		}
		// The browser itself says what the server refused.
		if refused := eval[string](b, "performance.getEntriesByType('resource').filter(e => e.responseStatus >= 400).map(e => e.responseStatus + ' ' + e.name).join(' ')"); refused != "" {
			t.Errorf("%q: the server refused %s", v.path, refused)
		}
		for _, c := range b.complaints() {
			t.Errorf("%q: the console says %s", v.path, c)
		}
		if v.path == "" && !hidden {
			b.until("document.querySelectorAll('.chart').length === 2")
		}
		if got := eval[[]string](b, "[...document.querySelectorAll('#nav a')].map(a => a.innerText)"); !slices.Equal(got, nav) {
			t.Errorf("%q: the navigation offers %q, want %q", v.path, got, nav)
		}
		if who.only != nil || who.name == "viewer" {
			b.accessible(v.path)
		}
		if who.acts {
			continue
		}
		for _, button := range eval[[]string](b, "[...document.querySelectorAll('button')].map(x => x.innerText)") {
			if !slices.Contains(looking, button) {
				t.Errorf("%q: %q is offered", v.path, button)
			}
		}
	}
}
