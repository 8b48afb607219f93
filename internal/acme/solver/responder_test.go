package solver_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"chancery/internal/acme/challenge"
	"chancery/internal/acme/solver"
	"chancery/internal/dns"
	"chancery/internal/pki"
)

const (
	aToken = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
	aThumb = "nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ"
	bToken = "DGyRejmCefe7v4NfDGDKfAAAAAAAAAAAAAAAAAAAAAA"
)

func get(t testing.TB, h http.Handler, path string) (int, string) {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
	return rec.Code, rec.Body.String()
}

func TestHTTPResponder(t *testing.T) {
	const prefix = "/.well-known/acme-challenge/"
	h := solver.NewHTTP("")
	if code, _ := get(t, h, prefix+aToken); code != 404 {
		t.Errorf("before: %d", code)
	}
	clean, err := h.Add(aToken, aToken+"."+aThumb)
	if err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, h, prefix+aToken); code != 200 || body != aToken+"."+aThumb {
		t.Errorf("%d %q", code, body)
	}
	clean()
	// Another replica may have presented what is not known here.
	if _, body := get(t, h, prefix+bToken); body != bToken+"."+aThumb {
		t.Errorf("with one account the answer follows from the token: %q", body)
	}
	if _, err := h.Add(bToken, bToken+".other-account"); err != nil {
		t.Fatal(err)
	}
	if code, _ := get(t, h, prefix+aToken); code != 404 {
		t.Error("with two accounts an unknown token cannot be answered")
	}
	for _, path := range []string{"/", prefix, prefix + "../../etc/passwd", prefix + "short", prefix + aToken + "/x", "/x" + prefix + bToken} {
		if code, _ := get(t, h, path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if _, err := h.Add("../../../etc/cron.d/evil-file", "../../../etc/cron.d/evil-file.x"); err == nil {
		t.Error("a token that is a path is taken")
	}
}

func TestWebroot(t *testing.T) {
	dir := t.TempDir()
	h := solver.NewHTTP(dir)
	web := httptest.NewServer(http.FileServer(http.Dir(dir))) // somebody else's web server
	defer web.Close()
	clean, err := h.Add(aToken, aToken+"."+aThumb)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, ".well-known", "acme-challenge", aToken)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o644 {
		t.Errorf("file: %v, %v", st, err)
	}
	p := &validators{t: t}
	if err := p.http(web.Listener.Addr(), aToken, aToken+"."+aThumb); err != nil {
		t.Error(err)
	}
	clean()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file stays: %v", err)
	}
}

// validators are those of our own server.
type validators struct{ t testing.TB }

func (v *validators) config(addr net.Addr) challenge.Config {
	v.t.Helper()
	port := netip.MustParseAddrPort(addr.String()).Port()
	local := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	r, err := dns.New(dns.Config{Hosts: map[string][]netip.Addr{"x.test": local}})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { r.Close() })
	policy, err := challenge.NewPolicy([]string{"127.0.0.0/8"})
	if err != nil {
		v.t.Fatal(err)
	}
	return challenge.Config{Resolver: r, Policy: policy, HTTP01Port: port, TLSALPN01Port: port}
}

func (v *validators) http(addr net.Addr, token, ka string) error {
	_, err := challenge.NewHTTP01(v.config(addr)).Validate(v.t.Context(), request("x.test", token, ka))
	return err
}

func request(name, token, ka string) challenge.Request {
	id := pki.Identifier{Type: pki.DNS, Value: name}
	if _, err := netip.ParseAddr(name); err == nil {
		id.Type = pki.IP
	}
	return challenge.Request{Identifier: id, Token: token, KeyAuthorization: ka, AccountURL: "https://ca.test/acct/1"}
}

func TestALPNResponder(t *testing.T) {
	a := solver.NewALPN()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, ln) }()
	v := challenge.NewTLSALPN01((&validators{t: t}).config(ln.Addr()))
	ka := aToken + "." + aThumb
	for _, name := range []string{"x.test", "127.0.0.1"} {
		req := request(name, aToken, ka)
		if _, err := v.Validate(t.Context(), req); err == nil {
			t.Errorf("%s: valid before it is presented", name)
		}
		clean, err := a.Add(req.Identifier, ka)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Validate(t.Context(), req); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		clean()
		if _, err := v.Validate(t.Context(), req); err == nil {
			t.Errorf("%s: valid after it is removed", name)
		}
	}
	if _, err := a.Add(pki.Identifier{Type: pki.DNS, Value: "*.x.test"}, ka); err == nil {
		t.Error("a wildcard is taken")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
