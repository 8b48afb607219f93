package status

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/ca/catest"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/pki"
)

// TestSignatureVersion4 is the GET example of Amazon's documentation ("Examples
// of the complete Version 4 signing process").
func TestSignatureVersion4(t *testing.T) {
	b := Bucket{Region: "us-east-1", AccessKey: "AKIAIOSFODNN7EXAMPLE", SecretKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	req, err := http.NewRequest("GET", "https://examplebucket.s3.amazonaws.com/test.txt", nil)
	must(t, err)
	req.Header.Set("Range", "bytes=0-9")
	b.sign(req, nil, time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC))
	want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=host;range;x-amz-content-sha256;x-amz-date," +
		"Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
	if got := req.Header.Get("Authorization"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// store is a server that keeps objects as S3 does, with conditions.
type store struct {
	mu      sync.Mutex
	objects map[string]object
	down    bool
	before  func() // called before a PUT is looked at
	puts    int
}

type object struct {
	body   []byte
	header http.Header
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method == http.MethodPut && s.before != nil {
		before := s.before
		s.before = nil
		before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, there := s.objects[r.URL.Path]
	tag := func(o object) string { sum := sha256.Sum256(o.body); return `"` + hex.EncodeToString(sum[:]) + `"` }
	switch match, none := r.Header.Get("If-Match"), r.Header.Get("If-None-Match"); {
	case s.down:
		http.Error(w, "SlowDown", http.StatusServiceUnavailable)
	case !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=key/"):
		http.Error(w, "AccessDenied", http.StatusForbidden)
	case r.Method == http.MethodHead && !there:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodHead:
		w.Header().Set("Etag", tag(old))
		w.Header().Set(numberHeader, old.header.Get(numberHeader))
	case match == "" && none == "", match != "" && (!there || match != tag(old)), none == "*" && there:
		http.Error(w, "PreconditionFailed", http.StatusPreconditionFailed)
	default:
		s.objects[r.URL.Path] = object{body, r.Header}
		s.puts++
	}
}

// outbox lists what waits.
func (w *world) outbox() (targets []string) {
	w.t.Helper()
	targets, err := db.List(w.t.Context(), w.db.Read(), qOutboxForTest, (*db.Row).Text)
	must(w.t, err)
	return targets
}

var qOutboxForTest = db.SQL("status_test.list_outbox", `SELECT target FROM status_outbox ORDER BY target`, db.Scan("test"))

// later moves the clock on, past any backoff.
func (w *world) later(d time.Duration) {
	if w.clock.IsZero() {
		w.clock = time.Now()
	}
	w.clock = w.clock.Add(d)
}

func TestCRLsGoToABucket(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		objects := &store{objects: map[string]object{}}
		server := httptest.NewServer(objects)
		defer server.Close()
		with := func(c *Config, _ *ca.Spec) {
			c.Bucket = &Bucket{URL: server.URL + "/bucket/pki/", Region: "eu", AccessKey: "key", SecretKey: "secret"}
		}
		w := newWorld(t, d, with).load()
		tick := w.deliver(sinkBucket)
		deliver := func(done, failed int) {
			t.Helper()
			n, err := tick(t.Context())
			must(t, err)
			if n.Done != done || n.Failed != failed {
				t.Fatalf("%+v, want %d and %d", n, done, failed)
			}
		}
		path := "/bucket/pki/crl/" + w.issuing.ID + "/0.crl"
		same := func() {
			t.Helper()
			if got := objects.objects[path]; !bytes.Equal(got.body, w.book(w.issuing.ID).crls[0].published.Load().der) || got.header.Get("Content-Type") != typeCRL {
				t.Errorf("the object is not the list: %v", got.header)
			}
		}
		deliver(2, 0) // the issuing authority's and the root's
		same()

		objects.down = true
		revoke := func() {
			c, _ := w.issue(true)
			w.revoke(c, pki.Superseded, true)
			w.tickCRLs()
		}
		revoke()
		revoke()
		deliver(0, 1) // one letter for both
		deliver(0, 0) // not so soon
		if age := w.metrics.undelivered[sinkBucket].Load(); age == 0 {
			t.Error("nothing says that a list waits")
		}
		objects.down = false
		w.later(time.Minute)
		w.asOf.Store(w.clock.Unix())
		deliver(1, 0)
		same()
		if w.metrics.undelivered[sinkBucket].Load() != 0 && len(w.outbox()) == 0 {
			deliver(0, 0)
		}

		// Another process puts a newer list between our look and our put.
		revoke()
		objects.before = func() {
			objects.mu.Lock()
			defer objects.mu.Unlock()
			objects.objects[path] = object{[]byte("newer"), http.Header{numberHeader: {strconv.FormatUint(1<<60, 10)}}}
		}
		deliver(0, 1)
		w.later(time.Minute)
		deliver(1, 0)
		if got := objects.objects[path]; string(got.body) != "newer" {
			t.Error("an older list replaced a newer one")
		}
		if left := w.outbox(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

// TestOutboxChangeDuringDelivery: what changes while it is delivered is
// delivered again.
func TestOutboxChangeDuringDelivery(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		delivered := 0
		enter := func() {
			must(t, w.db.Write(t.Context(), func(tx *db.Tx) error { w.put(tx, "crl/x/0", w.now(), sinkPurge); return nil }))
		}
		w.outside[sinkPurge] = func(_ context.Context, due []letter) []error {
			if delivered++; delivered == 1 {
				enter()
			}
			return make([]error, len(due))
		}
		enter()
		for i, left := range []int{1, 0, 0} {
			_, err := w.deliver(sinkPurge)(t.Context())
			must(t, err)
			if got := len(w.outbox()); got != left {
				t.Errorf("tick %d: %d left, want %d", i, got, left)
			}
		}
		if delivered != 2 {
			t.Errorf("delivered %d times", delivered)
		}
	})
}

// hook is a purge hook that remembers.
type hook struct {
	mu   sync.Mutex
	got  purgeRequest
	fail int
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail > 0 || r.Header.Get("Authorization") != "Bearer secret" || r.Method != http.MethodPost {
		h.fail--
		http.Error(w, "not now", http.StatusBadGateway)
		return
	}
	var req purgeRequest
	if err := json.UnmarshalRead(r.Body, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.got.URLs, h.got.Prefixes = append(h.got.URLs, req.URLs...), append(h.got.Prefixes, req.Prefixes...)
}

// TestRevocationPurgesCaches: the URLs of the answer and of the list, whatever
// process was alive when the certificate was revoked; all answers at once when
// many were.
func TestRevocationPurgesCaches(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := &hook{}
		server := httptest.NewServer(h)
		defer server.Close()
		w := newWorld(t, d, func(c *Config, _ *ca.Spec) { c.Purge = &Purge{URL: server.URL + "/purge", Token: "secret"} }).load()
		plan := func() {
			t.Helper()
			w.catchUp()
			for more := true; more; {
				n, err := w.planPurges(t.Context())
				must(t, err)
				more = n.More
			}
		}
		deliver := func() {
			t.Helper()
			_, err := w.deliver(sinkPurge)(t.Context())
			must(t, err)
		}
		plan()
		deliver()
		c, leaf := w.issue(true)
		w.revoke(c, pki.KeyCompromise, false)
		plan()
		w.tickCRLs()
		h.fail = 2
		for range 3 {
			deliver()
			w.later(time.Hour)
			w.asOf.Store(w.clock.Unix())
		}
		for _, want := range []string{w.base + w.getTarget(leaf), leaf.CRLDistributionPoints[0]} {
			if !slices.Contains(h.got.URLs, want) {
				t.Errorf("not purged: %s\nonly %v", want, h.got.URLs)
			}
		}
		if len(h.got.Prefixes) != 0 {
			t.Errorf("%v", h.got.Prefixes)
		}
		ids, _ := w.fill(catest.Spec{N: 150, Journal: true})
		_, err := w.ca.RevokeMany(t.Context(), ids, ca.Revocation{Actor: "test"})
		must(t, err)
		plan()
		deliver()
		if want := leaf.OCSPServer[0] + "/"; !slices.Contains(h.got.Prefixes, want) || len(h.got.URLs) > 20 {
			t.Errorf("%v, %d URLs", h.got.Prefixes, len(h.got.URLs))
		}
		if left := w.outbox(); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
}

func TestDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "crls")
	w := newWorld(t, sqlite(t), withShards(2), func(c *Config, _ *ca.Spec) { c.Directory = dir }).load()
	write := func(done int) {
		t.Helper()
		n, err := w.writeFiles(t.Context())
		must(t, err)
		if n.Done != done {
			t.Errorf("%+v, want %d", n, done)
		}
	}
	path := func(shard int) string { return filepath.Join(dir, w.issuing.ID, fmt.Sprintf("%d.crl", shard)) }
	write(3)
	write(0)
	c, _ := w.issue(true)
	w.revoke(c, pki.Superseded, true)
	w.tickCRLs()
	write(1)
	p := w.book(w.issuing.ID).crls[c.Shard].published.Load()
	got, err := os.ReadFile(path(c.Shard))
	must(t, err)
	info, err := os.Stat(path(c.Shard))
	must(t, err)
	if !bytes.Equal(got, p.der) || !info.ModTime().Equal(p.thisUpdate) || info.Mode().Perm() != 0o644 {
		t.Errorf("%d bytes, %s, %s", len(got), info.ModTime(), info.Mode())
	}
	// A process that is behind leaves a newer list alone.
	must(t, os.WriteFile(path(c.Shard), []byte("newer"), 0o644))
	must(t, os.Chtimes(path(c.Shard), time.Now().Add(time.Minute), time.Now().Add(time.Minute)))
	must(t, p.write(filepath.Dir(path(0)), filepath.Base(path(c.Shard))))
	if got, err = os.ReadFile(path(c.Shard)); string(got) != "newer" {
		t.Errorf("%.20q %v", got, err)
	}
	// A directory that cannot be written is tried again.
	must(t, os.RemoveAll(dir))
	must(t, os.WriteFile(dir, nil, 0o644))
	w.book(w.issuing.ID).crls[0].written = 0
	if n, err := w.writeFiles(t.Context()); err == nil || n.Failed != 1 {
		t.Errorf("%+v %v", n, err)
	}
	must(t, os.Remove(dir))
	write(1)
	left, err := filepath.Glob(filepath.Join(dir, "*", ".*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEndedRespondersRetire(t *testing.T) {
	w := newWorld(t, sqlite(t)).load()
	renew := func() {
		t.Helper()
		_, err := w.renewResponders(t.Context())
		must(t, err)
	}
	renew()
	old, ok := w.ca.Responder(w.issuing)
	if !ok {
		t.Fatal("no responder")
	}
	w.later(ca.OCSPPeriod + time.Hour)
	w.catchUp()
	renew()
	if got := w.ca.Authority(old.ID); got.State != ca.Retired {
		t.Errorf("a responder that ended is %s", got.State)
	}
}
