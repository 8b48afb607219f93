package e2e

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"chancery/internal/ctwatch"
	"chancery/internal/ctwatch/ctwatchtest"
)

// filled is an installation in which every screen has something to show: an
// estate, managed certificates, an agent that serves one certificate and fails
// with another, a stranger's certificate in a log, and a channel for alerts.
type filled struct {
	*site
	p    *process
	told atomic.Int64 // messages that the channel took
}

// filledEstate is how many invented certificates there are.
const filledEstate = 20000

func newFilled(t *testing.T) *filled {
	f := &filled{site: newSite(t)}
	f.flags = append(f.flags, "--estate", fmt.Sprint(filledEstate))
	f.start().stop() // makes the estate, which `serve` does not
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { f.told.Add(1) }))
	t.Cleanup(hook.Close)
	log, stranger := ctwatchtest.New(t, ctwatch.Static), ctwatchtest.NewIssuer(t, "Somebody's CA")
	l := log.Log("", false)
	secret := writeFile(t, filepath.Join(t.TempDir(), "hook.secret"), "0123456789abcdef\n", 0o600)
	f.write(fmt.Sprintf(`[ca.default]
[profile.default]
[agents]
allow_names = ["*.test"]
[issuer.own]
kind = "local"
allow_names = ["*.test"]
[target.web]
kind = "files"
dir = %q
probe = ["none"]
collect = "1s"
[target.broken]
kind = "files"
dir = %q
probe = ["none"]
collect = "1s"
[ct]
domains = ["shop.test"]
interval = "1s"
grace = "1s"
[ct_log.willow]
url = %q
key = %q
kind = "static-ct"
watch = true
begin = "start"
[alert]
group_wait = "0s"
[alert_channel.hook]
kind = "webhook"
url = %q
secret_file = %q
`, filepath.Join(f.data, "web"), filepath.Join(secret, "below-a-file"), l.URL, base64.StdEncoding.EncodeToString(l.Key), hook.URL, secret))
	f.p = f.start()
	log.Put(t, stranger.Issue(t, "pay.shop.test"), true)
	for i := range 24 {
		f.callAPI(f.p, "POST", "/managed", fmt.Sprintf(`{"names":["app%d.test"],"owner":"apps","targets":[{"name":"web"}]}`, i), &json.RawMessage{})
	}
	f.callAPI(f.p, "POST", "/managed", `{"names":["broken.test"],"targets":[{"name":"web"},{"name":"broken"}]}`, &json.RawMessage{})
	f.agent(t)
	eventually(t, 3*time.Minute, func() error { // its rule looks once a minute
		var told struct{ Items []struct{ Summary string } }
		f.callAPI(f.p, "GET", "/alerts?limit=1000&rule=unknown-certificate", "", &told)
		for _, a := range told.Items {
			if strings.Contains(a.Summary, "pay.shop.test") {
				return nil
			}
		}
		return fmt.Errorf("no alert of the stranger's certificate among %d", len(told.Items))
	})
	return f
}

// agent starts one, and gives it a certificate that it can put into service and
// one that its web server refuses.
func (f *filled) agent(t *testing.T) {
	t.Helper()
	var token struct{ Secret string }
	f.callAPI(f.p, "POST", "/agent-tokens", `{"name_pattern":"web1","owner":"shop"}`, &token)
	dir := t.TempDir()
	conf := writeFile(t, filepath.Join(dir, "agent.toml"), fmt.Sprintf("[target.files]\nkind = \"files\"\ndir = %q\nprobe = [\"none\"]\n[target.proxy]\nkind = \"nginx\"\ndir = %q\nprobe = [\"none\"]\ntest = [\"sh\", \"-c\", \"echo 'nginx: [emerg] host not found in upstream shop' >&2; exit 1\"]\n",
		filepath.Join(dir, "live"), filepath.Join(dir, "proxy")), 0o600)
	cmd := exec.Command(f.bin, "agent", "--server", strings.TrimSuffix(f.p.ready.API, "/api/v1"), "--token", token.Secret, "--name", "web1", "--state", filepath.Join(dir, "state"), "--config", conf)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := spawn(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the agent says:\n%s", out.last())
		}
	})
	eventually(t, time.Minute, func() error {
		var a struct{ Items []struct{ Targets []string } }
		if f.callAPI(f.p, "GET", "/agents", "", &a); len(a.Items) != 1 || len(a.Items[0].Targets) != 2 {
			return fmt.Errorf("no agent with its targets: %+v\n%s", a, out.last())
		}
		return nil
	})
	for names, target := range map[string]string{"www.shop.test": "files", "api.shop.test": "proxy"} {
		f.callAPI(f.p, "POST", "/agents/web1/assignments", fmt.Sprintf(`{"names":[%q],"targets":[%q]}`, names, target), &json.RawMessage{})
	}
	eventually(t, 90*time.Second, func() error {
		var fleet struct{ Assignments map[string]int }
		if f.callAPI(f.p, "GET", "/fleet", "", &fleet); fleet.Assignments["live"] != 1 || fleet.Assignments["failed"] != 1 {
			return fmt.Errorf("%+v\n%s", fleet, out.last())
		}
		return nil
	})
}

// press clicks the first visible button with a text.
func (b *browser) press(text string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`(() => { const x = [...(document.querySelector("dialog") ?? document).querySelectorAll("button")].find(x => x.innerText.trim() === %q && !x.disabled); x?.click(); return !!x; })()`, text))
}

// fill writes into the field of the open dialog whose label begins with text.
func (b *browser) fill(label, value string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`(() => {
		const l = [...document.querySelectorAll("dialog label")].find(x => x.innerText.trim().startsWith(%q)), x = l?.querySelector("input, select, textarea");
		if (!x) return false;
		x.value = %q;
		x.dispatchEvent(new Event("input", {bubbles: true}));
		x.dispatchEvent(new Event("change", {bubbles: true}));
		return true;
	})()`, label, value))
}

// shows waits until the page has a text.
func (b *browser) shows(text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("document.body.innerText.includes(%q)", text))
}

// closed waits until no dialog is open.
func (b *browser) closed() {
	b.t.Helper()
	b.until(`document.querySelector("dialog") === null`)
}

// TestUIWithRows works with every screen of the control plane as a person
// would, over rows that the program made itself.
func TestUIWithRows(t *testing.T) {
	f := newFilled(t)
	b := newBrowser(t, f.p.ready.UI)
	b.signIn(f.p.ready.Token)
	b.complaints()
	for _, part := range []struct {
		name string
		do   func(*testing.T, *filled)
	}{{"agents", b.agents}, {"deployments", b.deployments}, {"transparency", b.transparency}, {"rules", b.rules}, {"silences", b.silences}, {"channels", b.channels}, {"many", b.many}, {"policies", b.policies}, {"keys", b.keysInUse}, {"screens", b.screens}} {
		t.Run(part.name, func(t *testing.T) {
			b.in(t)
			part.do(t, f)
			for _, c := range b.complaints() {
				t.Errorf("the console says %s", c)
			}
		})
	}
	b.in(t)
	if dir := os.Getenv("CHANCERY_SCREENSHOTS"); dir != "" {
		b.pictures(dir)
	}
}

func (b *browser) agents(*testing.T, *filled) {
	b.open("agents", "Agents")
	b.shows("web1")
	b.accessible("agents")
	b.press("Enrol an agent…")
	b.fill("Name of the agent", "db1")
	b.accessible("enrolment")
	b.press("Make the token")
	b.until(`/^chancery agent --server https:\/\/localhost:\d+ --token \S+\.\S+\.\S+ --state \S+ --config agent.toml --name db1$/.test(document.querySelector("dialog .command code")?.innerText ?? "")`)
	b.press("Done")
	b.closed()
	b.open("agents?show=tokens", "Agents")
	b.shows("db1")
	b.accessible("tokens")
	b.press("End…")
	b.press("End it")
	b.closed()
	b.open("agents?show=failed", "Agents")
	b.shows("api.shop.test")
	b.accessible("failures")
	b.run(chromedp.Focus(chromedp.CSS(".list-body")), chromedp.KeyEvent(kb.Enter)) // by keyboard alone
	b.until(`location.pathname.endsWith("/agents/web1")`)
	b.until(`document.querySelector(".cards pre")?.innerText.includes("[emerg] host not found")`) // what the program said
	b.accessible("an agent")
	b.press("Assign…")
	b.fill("Names", "new.shop.test")
	b.press("Show the plan")
	b.shows("puts it into service at files")
	b.accessible("the plan of an assignment")
	b.press("Do it")
	b.closed()
	b.until(`[...document.querySelectorAll("section.card")].some(s => s.innerText.includes("new.shop.test") && s.querySelector(".badge.good")?.innerText === "live")`)
	b.press("Renew…")
	b.press("Renew")
	b.closed()
	b.until(`[...document.querySelectorAll("section.card")].every(s => !s.innerText.includes("www.shop.test") || s.querySelector(".badge.good"))`)
	b.press("Unassign…")
	b.accessible("a confirmation")
	b.press("Leave it")
	b.closed()
}

// deployments looks at what is where, and at a reload, by keyboard alone.
func (b *browser) deployments(t *testing.T, f *filled) {
	eventually(t, time.Minute, func() error {
		var live struct{ Items []struct{ Live, Items int } }
		if f.callAPI(f.p, "GET", "/deployments/batches?target=web", "", &live); len(live.Items) == 0 {
			return errors.New("nothing was deployed to web")
		}
		return nil
	})
	for want, args := range map[string][]string{"broken.test\tbroken=failing,web=live": {"deployments", "--failing"}, "app0.test\tweb=live": {"deployments", "--target", "web"}, "\tbroken\tfailed\t0\t1\t": {"batches", "--target", "broken"}} {
		eventually(t, time.Minute, func() error {
			out, err := exec.Command(f.bin, append([]string{"renew", "--data", f.data, "-o", "tsv"}, args...)...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				return fmt.Errorf("%v: %v, no %q in\n%s", args, err, want, out)
			}
			return nil
		})
	}
	b.open("agents?show=targets", "Agents")
	b.run(chromedp.Click(`//td/a[text()="web"]`))
	b.until(`location.search.includes("target=web")`)
	b.until(`[...document.querySelectorAll(".list-row")].some(r => r.innerText.includes("app") && r.querySelector(".badge.good")?.innerText === "live")`)
	b.accessible("what is where")
	b.open("agents?show=matrix&failing=yes", "Agents")
	b.shows("broken.test")
	b.shows("not a directory")
	b.open("agents?show=reloads&target=broken", "Agents")
	b.until(`document.querySelector(".list-row .badge.bad")?.innerText === "failed"`)
	b.accessible("reloads")
	b.run(chromedp.Focus(chromedp.CSS(".list-body")))
	b.until(`document.activeElement === document.querySelector(".list-body")`)
	b.run(chromedp.KeyEvent(kb.Enter))
	b.until(`document.querySelector("dialog")?.innerText.includes("the target serves what it did before")`)
	// Not on the button that closes it, which a second Enter would press.
	b.until(`document.activeElement === document.querySelector("dialog")`)
	b.accessible("a reload")
}

// many tags, renews and revokes several certificates of the inventory.
func (b *browser) many(t *testing.T, f *filled) {
	pick := func(q string) {
		b.open("certs?q="+url.QueryEscape(q), "Inventory")
		b.until(`document.querySelectorAll(".list-row").length >= 2`)
		b.run(chromedp.Focus(chromedp.CSS(".list-body")), chromedp.KeyEvent(" "), chromedp.KeyEvent(kb.ArrowDown), chromedp.KeyEvent(" "))
		b.shows("2 selected")
	}
	pick("owner:apps status:active")
	b.press("Assign…")
	b.fill("Set tags", "tier=1 app=shop")
	b.press("Show the plan")
	b.shows("certificates will change")
	b.press("Do it")
	b.closed()
	pick("tag:tier=1 tag:app=shop status:active")
	b.press("Renew…")
	b.accessible("a renewal of many")
	b.press("Renew 2 certificates")
	b.closed()
	b.shows("2 renewed now.")
	pick("tag:tier=1 status:any")
	b.press("Revoke…")
	b.accessible("a revocation of many")
	b.press("Revoke 2 certificates")
	b.closed()
	b.shows("2 revoked.")
	eventually(t, time.Minute, func() error {
		var all struct{ Items []struct{ Status string } }
		if f.callAPI(f.p, "GET", "/certs?q="+url.QueryEscape("tag:tier=1 status:revoked"), "", &all); len(all.Items) != 2 {
			return fmt.Errorf("%d are revoked", len(all.Items))
		}
		return nil
	})
}

func (b *browser) transparency(*testing.T, *filled) {
	b.open("alerts?view=logs", "Alerts")
	b.shows("willow")
	b.accessible("logs")
	b.open("alerts?view=ct", "Alerts")
	b.shows("pay.shop.test")
	b.accessible("findings")
	b.open("alerts?rule=unknown-certificate&severity=critical", "Alerts")
	b.shows("and nobody here asked for it")
	b.until(`[...document.querySelectorAll(".list-row")].every(r => r.innerText.includes("unknown-certificate"))`)
	b.accessible("alerts")
	b.open("alerts?view=ct", "Alerts")
	b.shows("pay.shop.test")
	b.run(chromedp.Focus(chromedp.CSS(".list-body")), chromedp.KeyEvent(kb.Enter))
	b.fill("Why it is all right", "a partner's")
	b.accessible("a finding")
	b.press("Dismiss")
	b.closed()
	b.shows("No unknown certificate")
	b.open("alerts?view=ct&state=acknowledged", "Alerts")
	b.shows("pay.shop.test")
	b.run(chromedp.Focus(chromedp.CSS(".list-body")), chromedp.KeyEvent(kb.Enter)) // it is ours after all
	b.fill("Owner", "pay")
	b.fill("Environment", "prod")
	b.press("Adopt")
	b.closed()
	b.open("alerts?view=ct&state=ours", "Alerts")
	b.shows("pay.shop.test")
	b.open("certs?q=owner%3Apay%20env%3Aprod%20name%3Apay.shop.test", "Inventory")
	b.until(`document.querySelectorAll(".list-row").length > 0`)
}

func (b *browser) rules(*testing.T, *filled) {
	row := `[...document.querySelectorAll("tr")].find(r => r.innerText.startsWith("certificate-ending"))`
	edit := func(button string) {
		b.until(`(() => { const x = [...(` + row + `?.querySelectorAll("button") ?? [])].find(x => x.innerText === "` + button + `"); x?.click(); return !!x; })()`)
	}
	b.open("alerts?view=rules", "Alerts")
	b.shows("certificate-ending")
	b.accessible("rules")
	edit("Edit…")
	b.fill("At most this share", "0.9")
	b.press("Preview")
	b.shows("It would find 50 and more.")
	b.accessible("the editor of rules")
	b.fill("At most this share", "0.21")
	b.press("Store")
	b.closed()
	b.until(row + `.innerText.includes("21 % of life left")`)
	edit("Reset…")
	b.press("Reset")
	b.closed()
	b.until(row + `.innerText.includes("20 % of life left")`)
	b.press("New rule…")
	b.fill("Name", "new-admin")
	b.fill("Looks for", "journal-entry")
	b.fill("Kinds of journal entries", "token.create")
	b.fill("Without one of those", "1d")
	b.press("Store")
	b.closed()
	b.shows("new-admin")
}

func (b *browser) silences(*testing.T, *filled) {
	b.open("alerts?view=silences", "Alerts")
	b.press("New silence…")
	b.fill("Alerts that fit", "team=web rule=certificate-*")
	b.fill("Why", "migration")
	b.accessible("a new silence")
	b.press("Silence")
	b.closed()
	b.shows("team=web rule=certificate-*")
	b.accessible("silences")
	b.press("End")
	b.shows("ended")
}

func (b *browser) channels(t *testing.T, f *filled) {
	b.open("alerts?view=deliveries", "Alerts")
	before := f.told.Load()
	b.press("Test hook")
	b.until(`[...document.querySelectorAll(".list-row")].some(r => r.innerText.includes("test") && r.innerText.includes("sent"))`)
	b.accessible("deliveries")
	if f.told.Load() <= before {
		t.Error("the page says that it was sent, and the channel got nothing")
	}
}

func (b *browser) policies(*testing.T, *filled) {
	b.open("policies", "Inventory")
	b.press("New policy…")
	b.fill("Name", "no-weak-keys")
	b.fill("What violates it", "key:weak")
	b.fill("Severity", "critical")
	b.press("Try it on the whole inventory")
	b.shows("active certificates violate it")
	b.accessible("the dry run of a policy")
	b.press("Store it")
	b.closed()
	b.until(`document.querySelector("main table a b")?.innerText.length > 0`)
	b.accessible("policies")
	b.run(chromedp.Click(chromedp.CSS("main table a")))
	b.until(`document.querySelectorAll(".list-row").length > 5`)
	b.until(`[...document.querySelectorAll(".list-row")].every(r => r.innerText.includes("rsa1024"))`)
}

func (b *browser) keysInUse(t *testing.T, _ *filled) {
	b.open("keys", "Inventory")
	b.shows("weak today")
	b.accessible("keys")
	size := eval[int](b, `fetch(document.querySelector("a[download]").href).then(r => r.json()).then(d => d.specVersion === "1.6" ? d.components.length : 0)`)
	if size < filledEstate {
		t.Errorf("the bill of materials lists %d components", size)
	}
}

// rowViews are the screens once more, with rows.
var rowViews = append([]view{
	{"agents", "Agents", "web1"}, {"agents?show=assignments", "Agents", "www.shop.test"}, {"agents?show=failed", "Agents", "api.shop.test"}, {"agents?show=targets", "Agents", "web"}, {"agents?show=matrix", "Agents", "app0.test"}, {"agents?show=reloads", "Agents", "of"}, {"agents?show=tokens", "Agents", "db1"}, {"agents/web1", "web1", "It said"},
	{"alerts", "Alerts", "Silence…"}, {"alerts?view=rules", "Alerts", "new-admin"}, {"alerts?view=silences", "Alerts", "migration"}, {"alerts?view=deliveries", "Alerts", "Test hook"}, {"alerts?view=ct&state=ours", "Alerts", "pay.shop.test"}, {"alerts?view=logs", "Alerts", "willow"},
	{"policies", "Inventory", "no-weak-keys"}, {"keys", "Inventory", "Post-quantum share"}, {"renewals?show=managed", "Renewals", "app0.test"},
}, []view{{"", "Overview", "Active certificates"}, {"certs", "Inventory", "certificates"}}...)

// screens looks at all of them on a phone and in the dark.
func (b *browser) screens(t *testing.T, _ *filled) {
	b.run(chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	for _, v := range rowViews {
		b.open(v.path, v.heading)
		b.shows(v.text)
		if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > 360 {
			t.Errorf("%q is %d pixels wide", v.path, wide)
		}
	}
	b.run(chromedp.ResetViewport())
	b.palette("dark")
	defer b.palette("")
	for _, v := range rowViews {
		b.open(v.path, v.heading)
		b.shows(v.text)
		b.accessible("dark " + v.path)
	}
}

// pictures writes the screenshots of the README.
func (b *browser) pictures(dir string) {
	b.t.Helper()
	shot := func(name, path, heading, text string) {
		b.open(path, heading)
		b.shows(text)
		b.until(`document.querySelector(".sayings")?.childElementCount === 0`)
		png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	b.run(chromedp.EmulateViewport(1280, 800))
	defer b.run(chromedp.ResetViewport())
	for _, p := range []struct{ name, path, heading, text string }{
		{"overview", "", "Overview", "Active certificates"}, {"inventory", "certs?q=" + "expires%3A%3C14d%20status%3Aactive", "Inventory", "rsa"}, {"keys", "keys", "Inventory", "weak today"},
		{"renewals", "renewals?show=managed", "Renewals", "app0.test"}, {"agents", "agents/web1", "web1", "It said"}, {"alerts", "alerts?severity=critical", "Alerts", "Silence…"},
	} {
		shot(p.name, p.path, p.heading, p.text)
	}
	b.palette("dark")
	defer b.palette("")
	shot("overview-dark", "", "Overview", "Active certificates")
}
