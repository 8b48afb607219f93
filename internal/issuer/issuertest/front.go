package issuertest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// Front is an HTTP server before an API, that refuses requests on demand.
type Front struct {
	*httptest.Server
	mu      sync.Mutex
	times   int
	status  int
	after   string
	lose    int
	changes int
}

// NewFront serves api through a Front until the test ends.
func NewFront(t testing.TB, api http.Handler) *Front {
	f := &Front{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, after, lose := f.next(r.Method)
		switch {
		case status == http.StatusTeapot: // the connection breaks before anything is done
			panic(http.ErrAbortHandler)
		case lose:
			api.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		case status == 0:
			api.ServeHTTP(w, r)
			return
		}
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, `{"message": "refused on demand", "error": "refused on demand"}`)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *Front) next(method string) (status int, after string, lose bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.times != 0 {
		f.times--
		return f.status, f.after, false
	}
	if method == http.MethodGet || method == http.MethodHead {
		return 0, "", false
	}
	f.changes++
	if f.lose > 0 {
		f.lose--
		return 0, "", f.lose == 0
	}
	return 0, "", false
}

// Broken as the status of Fail breaks the connection.
const Broken = http.StatusTeapot

// Fail refuses the next requests; times -1 is all, and 0 none.
func (f *Front) Fail(times, status int, retryAfter string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.times, f.status, f.after = times, status, retryAfter
}

// Lose does the n-th request from now that is no read, and breaks the
// connection instead of answering.
func (f *Front) Lose(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = n
}

// Changes counts the requests that were let through and are no reads.
func (f *Front) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}
