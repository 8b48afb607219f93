package web

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http/httptest"
	"os"
	"testing"

	"chancery/web/bundle"
)

func get(t *testing.T, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	h, err := Handler()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// The files that are embedded are made from the sources that are there.
func TestDistIsFresh(t *testing.T) {
	files, err := bundle.Build(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile("dist/" + name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("dist/%s is not what its sources give; run go generate ./web (%v)", name, err)
		}
	}
	entries, err := os.ReadDir("dist")
	if err != nil || len(entries) != len(files) {
		t.Errorf("dist holds %d files, the sources give %d (%v)", len(entries), len(files), err)
	}
}

// Scripts are small enough for a slow line.
func TestSize(t *testing.T) {
	w := get(t, "/ui/app.js", "Accept-Encoding", "gzip")
	if n := w.Body.Len(); n > 60<<10 {
		t.Errorf("the scripts are %d bytes compressed, at most 60 KB are allowed", n)
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(text, get(t, "/ui/app.js").Body.Bytes()) {
		t.Error("compressed and plain differ", err)
	}
}

// Every view can be linked to; files that do not exist are not views.
func TestServing(t *testing.T) {
	for _, view := range []string{"/ui/", "/ui/certs", "/ui/certs/www.example.com", "/ui/a/b/c"} {
		w := get(t, view, "Accept", "text/html,*/*")
		if w.Code != 200 || !bytes.Contains(w.Body.Bytes(), []byte(`src="/ui/app.js"`)) {
			t.Errorf("%s: %d", view, w.Code)
		}
		for _, h := range []string{"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cross-Origin-Opener-Policy"} {
			if w.Header().Get(h) == "" {
				t.Errorf("%s has no %s", view, h)
			}
		}
	}
	if w := get(t, "/ui/nothing.js", "Accept", "*/*"); w.Code != 404 {
		t.Error("a script that does not exist:", w.Code)
	}
	etag := get(t, "/ui/app.js").Header().Get("ETag")
	if w := get(t, "/ui/app.js", "If-None-Match", etag); w.Code != 304 || w.Body.Len() != 0 {
		t.Error("unchanged:", w.Code)
	}
}
