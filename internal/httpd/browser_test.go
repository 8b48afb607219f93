package httpd

import (
	"crypto/tls"
	"net/http"
	"testing"
)

// What goes to browsers says what it is, and that its host is asked for by HTTPS
// alone (RFC 6797): not for addresses, which RFC 6797 section 8.3 excludes, nor
// for localhost, which other programs of the machine share.
func TestBrowserHeaders(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).HandleStd("GET /std", http.NotFoundHandler(), 0)
	})
	res, err := f.mem.Client(nil).Get("http://ca.example/std")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.Header.Get("X-Content-Type-Options") != "nosniff" || res.Header.Get("Strict-Transport-Security") != "" {
		t.Error(res.Header)
	}
	for host, want := range map[string]bool{"ca.example": true, "ca.example:8443": true, "localhost": false, "localhost:8443": false, "x.localhost:1": false, "127.0.0.1:8443": false, "[::1]:8443": false, "::1": false} {
		h := http.Header{}
		guardBrowser(h, &http.Request{Host: host, TLS: &tls.ConnectionState{}})
		if got := h.Get("Strict-Transport-Security") != ""; got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}
