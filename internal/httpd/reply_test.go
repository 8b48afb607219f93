package httpd

import (
	"net/http"
	"testing"
	"time"

	"chancery/internal/fault"
)

// Date must be what net/http's own format makes, at every edge of it.
func TestDate(t *testing.T) {
	for _, text := range []string{"2026-11-22T05:09:07Z", "2027-01-01T00:00:00+02:00", "1999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2028-02-29T12:30:01.999Z"} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := Date(at), at.UTC().Format(http.TimeFormat); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	far := time.Date(12345, 1, 2, 3, 4, 5, 0, time.UTC)
	if got, want := Date(far), far.Format(http.TimeFormat); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A quiet success is no event at the level of info; a quiet failure is one.
func TestQuietRequests(t *testing.T) {
	f := serve(t, Config{}, func(m *Mux) {
		m.Group(OwnTypes, nil).Handle("GET /{what}", func(r *Request) (*Reply, error) {
			r.Quiet()
			if r.PathValue("what") == "bad" {
				return nil, fault.New(fault.NotFound, "there is no such thing")
			}
			return Bytes("text/plain", []byte("well")), nil
		})
	})
	f.do(t, "GET", "http://x/good", "")
	f.do(t, "GET", "http://x/bad", "")
	if e := f.event(t, 0); e["path"] != "/bad" || e["level"] != "INFO" {
		t.Errorf("the first event of a server that logs from info on is %v", e)
	}
}
