package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// TestUIAtScale measures lists, overview and UI over an estate of so many
// certificates as $CHANCERY_ESTATE says, and prints what it measured. It holds
// the figures against nothing: they are those of the machine.
func TestUIAtScale(t *testing.T) {
	size := os.Getenv("CHANCERY_ESTATE")
	if size == "" {
		t.Skip("SKIPPED: measures for minutes; set CHANCERY_ESTATE=1000000 to have it")
	}
	s := newSite(t)
	s.flags = append(s.flags, "--no-limits", "--estate", size)
	p := s.launch()
	began := time.Now()
	if err := poll(30*time.Minute, p.ended, p.loadReady); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s certificates on SQLite, ready after %s", size, time.Since(began).Round(time.Second))
	m := &meter{t: t, s: s, p: p, client: s.web(), token: strings.TrimSpace(readFile(t, p.ready.Token))}
	m.lists()
	m.unchanged()
	b := newBrowser(t, p.ready.UI)
	b.signIn(p.ready.Token)
	for _, v := range []struct{ path, there string }{
		{"", `document.querySelectorAll(".stat-value").length === 6 && ![...document.querySelectorAll(".stat-value")].some(v => v.innerText === "…") && document.querySelector(".chart svg")`},
		{"certs", `document.querySelectorAll(".list-row").length > 5`}, {"certs?q=owner:pay+expires:%3C14d", `document.querySelectorAll(".list-row").length > 5`},
		{"keys", `document.querySelectorAll("main tr").length > 3`}, {"alerts", `document.querySelectorAll(".list-row").length > 5`},
	} {
		var took []time.Duration
		for range 15 {
			b.run(chromedp.Navigate(b.base + v.path))
			ms := eval[float64](b, fmt.Sprintf(`new Promise(done => { const look = () => (%s) ? done(performance.now()) : requestAnimationFrame(look); look(); })`, v.there))
			took = append(took, time.Duration(ms*float64(time.Millisecond)))
		}
		t.Logf("%-44s %s", "browser /"+v.path, quantiles(took))
	}
}

// meter times requests.
type meter struct {
	t      *testing.T
	s      *site
	p      *process
	client *http.Client
	token  string
}

// get returns the body, the entity tag and the time of one request.
func (m *meter) get(path string, query url.Values, tag string) ([]byte, *http.Response, time.Duration) {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.p.ready.API+path+"?"+query.Encode(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+m.token)
	if tag != "" {
		req.Header.Set("If-None-Match", tag)
	}
	began := time.Now()
	resp, err := m.client.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	took := time.Since(began)
	if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotModified {
		m.t.Fatalf("%s: %s %v\n%s", path, resp.Status, err, body)
	}
	return body, resp, took
}

// lists walks through every list, page by page, and asks the counts anew each
// time with another question, so that nothing comes from memory.
func (m *meter) lists() {
	const pages = 150
	for _, l := range []string{"/certs", "/certs?q=status:active", "/certs?q=owner:pay", "/certs?q=name:*.pay.example.com", "/certs?q=key:weak expires:<30d", "/certs?q=env:prod team:team-03", "/certs?q=shop", "/certs?sort=-added", "/certs?q=seen:>2d&sort=seen",
		"/endpoints", "/endpoints?failing=true", "/issued", "/journal", "/alerts", "/alerts?rule=unknown-certificate", "/alerts/deliveries", "/agents", "/assignments", "/managed", "/acme/orders", "/acme/accounts", "/policies", "/scan/passes", "/ct/findings", "/authorities"} {
		path, text, _ := strings.Cut(l, "?")
		query, err := url.ParseQuery(text)
		if err != nil {
			m.t.Fatal(err)
		}
		var took []time.Duration
		for len(took) < pages {
			query.Set("limit", fmt.Sprint(100-len(took)%50)) // a short list begins anew, and must not come from memory either
			body, _, d := m.get(path, query, "")
			took = append(took, d)
			var page struct{ Next string }
			if err := json.Unmarshal(body, &page); err != nil {
				m.t.Fatal(err)
			}
			query.Set("cursor", page.Next)
			if page.Next == "" {
				query.Del("cursor")
			}
		}
		m.t.Logf("%-44s %s", l, quantiles(took))
	}
	for _, path := range []string{"/inventory/facets", "/inventory/count", "/inventory/timeline", "/inventory/violations"} {
		var took []time.Duration
		for n := range pages {
			q := fmt.Sprintf("status:active expires:<%dd", n+2)
			if path == "/inventory/violations" {
				q += " key:weak"
			}
			_, _, d := m.get(path, url.Values{"q": {q}}, "")
			took = append(took, d)
		}
		m.t.Logf("%-44s %s", path, quantiles(took))
	}
}

// unchanged asks for a list that is known already.
func (m *meter) unchanged() {
	var took []time.Duration
	tag := ""
	for len(took) < 1000 {
		_, resp, d := m.get("/certs", url.Values{"limit": {"100"}}, tag)
		tag = resp.Header.Get("ETag")
		if resp.StatusCode == http.StatusNotModified {
			took = append(took, d)
		}
	}
	m.t.Logf("%-44s %s", "304", quantiles(took))
}

// quantiles sums up durations.
func quantiles(all []time.Duration) string {
	slices.SortFunc(all, cmp.Compare[time.Duration])
	at := func(q float64) time.Duration {
		return all[min(len(all)-1, int(q*float64(len(all))))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("n=%d p50=%s p95=%s p99=%s max=%s", len(all), at(0.5), at(0.95), at(0.99), all[len(all)-1].Round(10*time.Microsecond))
}
