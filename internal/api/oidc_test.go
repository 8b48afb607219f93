package api_test

import (
	"bufio"
	"context"
	"encoding/json/v2"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"chancery/internal/api"
	"chancery/internal/audit"
	"chancery/internal/db/dbtest"
	"chancery/internal/testenv"
	"chancery/internal/token"
)

// startProvider runs a certified OpenID provider that none of us wrote and
// returns its issuer.
func startProvider(t *testing.T, redirect string) string {
	t.Helper()
	dir := testenv.NodeModules(t, "oidc-provider")
	cmd := exec.Command("node", "testdata/provider/provider.mjs", dir, redirect)
	cmd.Stderr = io.Discard // it warns that it is for development
	stop, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		stop.Close()
		if err := cmd.Wait(); err != nil {
			t.Error("the provider ended badly:", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	check(t, err)
	return strings.TrimSpace(line)
}

// browser follows links, keeps cookies and fills in forms, as a person would.
type browser struct {
	t      *testing.T
	client *http.Client
	jar    http.CookieJar
}

// front puts the world behind TLS, where a real browser would see it: its
// cookies are for secure hosts only.
func front(t *testing.T, w func() *world) (*httptest.Server, *browser) {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		out, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+r.Host+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header.Clone()
		resp, err := w().http.Transport.RoundTrip(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			rw.Header()[k] = v
		}
		rw.WriteHeader(resp.StatusCode)
		if _, err := io.Copy(rw, resp.Body); err != nil {
			t.Log(err)
		}
	}))
	t.Cleanup(s.Close)
	jar, err := cookiejar.New(nil)
	check(t, err)
	c := s.Client()
	c.Jar = jar
	return s, &browser{t, c, jar}
}

func (b *browser) read(resp *http.Response, err error) (*http.Response, string) {
	b.t.Helper()
	check(b.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	check(b.t, err)
	return resp, string(text)
}

var (
	reForm  = regexp.MustCompile(`<form[^>]*action="([^"]+)"`)
	reInput = regexp.MustCompile(`<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"`)
)

// signIn goes through the provider's pages as somebody and returns where it
// ends.
func (b *browser) signIn(start, login string) (*http.Response, string) {
	b.t.Helper()
	resp, page := b.read(b.client.Get(start))
	for range 3 {
		form := reForm.FindStringSubmatch(page)
		if form == nil {
			break
		}
		to, err := resp.Request.URL.Parse(form[1])
		check(b.t, err)
		values := url.Values{}
		for _, in := range reInput.FindAllStringSubmatch(page, -1) {
			values.Set(in[1], in[2])
		}
		if strings.Contains(page, `name="login"`) {
			values.Set("login", login)
			values.Set("password", "any")
		}
		resp, page = b.read(b.client.PostForm(to.String(), values))
	}
	return resp, page
}

func TestSignInThroughAProvider(t *testing.T) {
	var w *world
	server, b := front(t, func() *world { return w })
	issuer := startProvider(t, api.CallbackURL(server.URL, "corp"))
	file := t.TempDir() + "/secret"
	check(t, os.WriteFile(file, []byte("kept in a file"), 0o600))
	w = newWorld(t, dbtest.SQLiteURL(t), func(c *api.Config) {
		c.Providers = map[string]*api.Provider{"corp": api.NewProvider(api.ProviderConfig{Name: "corp", Title: "Corp", Issuer: issuer, ClientID: "chancery",
			Secret: func() (string, error) { text, err := os.ReadFile(file); return string(text), err },
			Scopes: []string{"profile", "email", "groups"}, Claim: "groups",
			Grants:   []api.Grant{{Value: "pki-*", Role: token.Admin}, {Value: "team-pay", Role: token.Operator, Scope: token.Scope{Owners: []string{"pay"}}}},
			Redirect: api.CallbackURL(server.URL, "corp")})}
	})
	var in api.Page[api.SignIn]
	_, body := b.read(b.client.Get(server.URL + "/api/v1/session/providers"))
	check(t, json.Unmarshal([]byte(body), &in))
	if len(in.Items) != 1 || in.Items[0].Title != "Corp" {
		t.Fatal(body)
	}
	whoami := func(b *browser) (s api.Session) {
		_, body := b.read(b.client.Get(server.URL + "/api/v1/session"))
		check(t, json.Unmarshal([]byte(body), &s))
		return s
	}
	resp, page := b.signIn(server.URL+in.Items[0].URL+"?return=/api/v1/summary%3Fx", "ada")
	if got := resp.Request.URL.RequestURI(); !strings.HasPrefix(got, "/api/v1/summary") || !strings.HasPrefix(resp.Request.URL.String(), server.URL) {
		t.Fatal("it ended at", got, page)
	}
	if s := whoami(b); s.Role != token.Admin || s.Actor != "user:corp/ada" || s.Name != "ada@corp.test" && s.Name != "ada" {
		t.Errorf("%+v", s)
	}
	fresh := func() *browser {
		jar, err := cookiejar.New(nil)
		check(t, err)
		c := *b.client
		c.Jar = jar
		return &browser{t, &c, jar}
	}
	olga := fresh()
	// A link that would lead to another site after signing in leads home.
	resp, _ = olga.signIn(server.URL+in.Items[0].URL+"?return=//evil.test/", "olga")
	if resp.Request.URL.Host != strings.TrimPrefix(server.URL, "https://") {
		t.Error("signing in led to", resp.Request.URL)
	}
	if s := whoami(olga); s.Role != token.Operator || s.Scope == nil || s.Scope.Owners[0] != "pay" {
		t.Errorf("%+v", s)
	}
	mallory := fresh()
	resp, page = mallory.signIn(server.URL+in.Items[0].URL, "mallory")
	if resp.StatusCode != 403 || !strings.Contains(page, "nothing is granted") || whoami(mallory).SignedIn {
		t.Error(resp.Status, page)
	}
	denied, err := audit.BySubject(context.Background(), w.db.Read(), "provider:corp", "", 10)
	if err != nil || len(denied) != 1 || denied[0].Actor != "user:corp/mallory" {
		t.Error(denied, err)
	}
	forged(t, server.URL, fresh)
}

// forged tries callbacks that no sign-in of this browser led to.
func forged(t *testing.T, base string, fresh func() *browser) {
	t.Helper()
	b := fresh()
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, _ := b.read(b.client.Get(base + "/auth/login/corp"))
	to, err := resp.Location()
	check(t, err)
	q := to.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || q.Get("state") == "" || q.Get("redirect_uri") != base+"/auth/callback/corp" {
		t.Error("the request to the provider lacks its defences:", to)
	}
	for name, call := range map[string]struct {
		who   *browser
		query string
	}{
		"another browser": {fresh(), "code=x&state=" + q.Get("state")},
		"no state":        {b, "code=x"},
		"wrong state":     {b, "code=x&state=y"},
		"wrong code":      {b, "code=x&state=" + q.Get("state")},
		"error":           {b, "error=%3Cscript%3E&state=" + q.Get("state")},
	} {
		if name != "another browser" { // each needs the cookie of a new attempt
			call.who = fresh()
			call.who.client.CheckRedirect = b.client.CheckRedirect
			resp, _ := call.who.read(call.who.client.Get(base + "/auth/login/corp"))
			to, err := resp.Location()
			check(t, err)
			call.query = strings.Replace(call.query, q.Get("state"), to.Query().Get("state"), 1)
		}
		resp, page := call.who.read(call.who.client.Get(base + "/auth/callback/corp?" + call.query))
		if resp.StatusCode != 403 || strings.Contains(page, "<script>") {
			t.Errorf("%s: %s %s", name, resp.Status, page)
		}
		for _, c := range resp.Cookies() {
			if c.Name == "__Host-chancery" {
				t.Errorf("%s signed somebody in", name)
			}
		}
	}
	if resp, _ := b.read(b.client.Get(base + "/auth/login/other")); resp.StatusCode != 404 {
		t.Error("an unknown provider:", resp.Status)
	}
}
