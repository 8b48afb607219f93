package api_test

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/audit"
	"chancery/internal/fault"
)

// follow opens the stream of changes and returns a function that waits for the
// next event and gives its id and data.
func (w *world) follow(t *testing.T, after string) (next func() (int64, string), stop func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", "http://chancery.test/api/v1/events", nil)
	check(t, err)
	r.Header.Set("Authorization", "Bearer "+w.adminText())
	if after != "" {
		r.Header.Set("Last-Event-ID", after)
	}
	resp, err := w.http.Do(r)
	check(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatal(resp.Status, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), ": ") {
		t.Fatal("the stream does not begin", lines.Text(), lines.Err())
	}
	return func() (int64, string) {
		t.Helper()
		id := int64(0)
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id, err = strconv.ParseInt(text, 10, 64)
				check(t, err)
			}
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return id, text
			}
		}
		return 0, ""
	}, cancel
}

// Who follows sees each entry once and in order, and who comes back sees what
// was missed.
func TestStreamOfChanges(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		sequence := func() {
			t.Helper()
			_, err := audit.Sequence(context.Background(), w.db, 1000)
			check(t, err)
		}
		sequence()
		next, stop := w.follow(t, "0")
		first, text := next()
		if first != 1 || !strings.Contains(text, `"kind":"`) {
			t.Fatal(first, text)
		}
		last := first
		for head, err := audit.Head(context.Background(), w.db.Read()); last < head; {
			check(t, err)
			id, _ := next()
			if id != last+1 {
				t.Fatalf("after %d comes %d", last, id)
			}
			last = id
		}
		cert := w.issue(t, "live.test")
		sequence()
		seen := ""
		for range 2 {
			id, text := next()
			if id != last+1 {
				t.Fatalf("after %d comes %d", last, id)
			}
			last, seen = id, seen+text
		}
		if !strings.Contains(seen, "certificate:"+cert.ID) {
			t.Error(seen)
		}
		stop()
		w.issue(t, "missed.test")
		sequence()
		next, _ = w.follow(t, strconv.FormatInt(last, 10))
		if id, _ := next(); id != last+1 {
			t.Errorf("who comes back after %d sees %d", last, id)
		}
		w.api.Drain() // the server ends: so does the stream
		for id, _ := next(); id != 0; id, _ = next() {
		}
	})
}

func TestStreamNeedsSignIn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if resp, body := w.raw(t, "GET", "/api/v1/events", ""); resp.StatusCode != 401 {
			t.Error(resp.Status, body)
		}
		resp, body := w.raw(t, "GET", "/api/v1/events?after=x", "", "Authorization", "Bearer "+w.adminText())
		if resp.StatusCode != 400 || !strings.Contains(body, "seq") {
			t.Error(resp.Status, body)
		}
		var p api.Problem
		if err := w.viewer.Do(context.Background(), "GET", "/events?after=-1", nil, nil, &p); !fault.Is(err, fault.Invalid) {
			t.Error(err)
		}
	})
}
