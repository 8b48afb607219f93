// Package cloudtest has providers of certificates on loopback, which page,
// throttle, fail and lie, and the suite that every kind of source passes.
package cloudtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
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

	"chancery/internal/config"
	"chancery/internal/obs"
	"chancery/internal/scan/cloud"
)

// Item is a certificate that a server keeps.
type Item struct {
	Name    string // within the provider
	DER     []byte // nil: broken there
	Version int
	Revoked bool
	Tags    map[string]string
}

// Fault is how a request goes wrong.
type Fault struct {
	Status  int         // 0: 200
	Header  http.Header // beside the status
	Body    string
	Endless bool // the body never ends
}

// Server is a provider on loopback. Its fields are changed under Do.
type Server struct {
	*httptest.Server
	mu       sync.Mutex
	Items    map[string]Item
	PageSize int                                             // most items of a page, 0 = what is asked for
	Loop     bool                                            // every page names the same next one
	NextHost string                                          // where next pages are said to be, "" = here (Azure)
	Lost     []string                                        // locations that do not answer (Google)
	Fault    func(operation string, n int) *Fault            // n counts requests of the operation, from 1
	Rate     cloud.Rate                                      // of sources that Open opens; zero: the kind's
	Delay    time.Duration                                   // of every answer
	count    map[string]int                                  // requests by operation, throttled ones included
	settings map[string]any                                  // of a source that reads it
	name     func(*http.Request) string                      // operation
	serve    func(w http.ResponseWriter, r *http.Request)    // under mu
	refuse   func(w http.ResponseWriter, throttle bool) bool // in the provider's words; false: with plain statuses
	changed  chan struct{}                                   // closed when Items change
	version  int
}

// Do changes the server.
func (s *Server) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Put stores certificates under names.
func (s *Server) Put(items ...Item) {
	s.Do(func() {
		for _, it := range items {
			s.version++
			it.Version = s.version
			s.Items[it.Name] = it
		}
	})
}

// Delete removes a certificate.
func (s *Server) Delete(name string) {
	s.Do(func() { s.version++; delete(s.Items, name) })
}

// Requests returns how many requests of an operation came.
func (s *Server) Requests(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[operation]
}

// Reset forgets requests and faults.
func (s *Server) Reset() {
	s.Do(func() {
		s.count, s.Fault, s.Loop, s.NextHost, s.Lost, s.Delay = map[string]int{}, nil, false, "", nil, 0
	})
}

// Configure returns the section of a source that reads the server.
func (s *Server) Configure(kind string) config.CloudSource {
	c := config.DefaultCloudSource()
	c.Kind = kind
	for name, v := range s.settings {
		c = c.With(name, v)
	}
	return c
}

// Open opens a source of a kind that reads the server.
func (s *Server) Open(t testing.TB, kind cloud.Kind, gates *cloud.Gates) cloud.Source {
	t.Helper()
	section, into := s.Configure(kind.Name), kind.Config()
	if err := section.Bind("test", into); err != nil {
		t.Fatal(err)
	}
	src, err := kind.Open(cloud.Env{Name: "test-" + kind.Name, Log: obs.Discard(), Gates: gates, WantTags: true, Rate: s.Rate}, into)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// start runs a server of one provider.
func start(t testing.TB, secure bool, s *Server) *Server {
	t.Helper()
	s.Items, s.count, s.changed = map[string]Item{}, map[string]int{}, make(chan struct{})
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.handle))
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	if s.settings == nil {
		s.settings = map[string]any{}
	}
	if secure {
		s.settings["ca_file"] = file(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	}
	return s
}

// file writes a file of its own.
func file(t testing.TB, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	delay := s.Delay
	s.mu.Unlock()
	if delay > 0 {
		// Only then does the server notice that the client is gone.
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(text))
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	op := s.name(r)
	s.count[op]++
	if s.Fault != nil {
		if f := s.Fault(op, s.count[op]); f != nil {
			s.fail(w, f)
			return
		}
	}
	s.serve(w, r)
}

func (s *Server) fail(w http.ResponseWriter, f *Fault) {
	maps.Copy(w.Header(), f.Header)
	if f.Status == http.StatusTooManyRequests || f.Status == http.StatusForbidden {
		if s.refuse != nil && s.refuse(w, f.Status == http.StatusTooManyRequests) {
			return
		}
	}
	if f.Status != 0 {
		w.WriteHeader(f.Status)
	}
	fmt.Fprint(w, f.Body)
	for junk := strings.Repeat("x", 1<<20); f.Endless; {
		if _, err := fmt.Fprint(w, junk); err != nil {
			return
		}
	}
}

// names returns the names of all items, sorted.
func (s *Server) names() []string { return slices.Sorted(maps.Keys(s.Items)) }

// page returns the names from an offset on, and the offset of the next page,
// "" when there is none.
func (s *Server) page(offset string, size int) (names []string, next string) {
	from, _ := strconv.Atoi(offset)
	all := s.names()
	if s.PageSize > 0 {
		size = min(size, s.PageSize)
	}
	from = min(from, len(all))
	to := min(from+size, len(all))
	if next = strconv.Itoa(to); to == len(all) {
		next = ""
	}
	if s.Loop {
		next = "1"
	}
	return all[from:to], next
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

func chain(der []byte) string {
	if der == nil {
		return "nothing"
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Certificates makes n certificates, for names N.PREFIX.
func Certificates(t testing.TB, n int, prefix string) [][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out := make([][]byte, n)
	for i := range out {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%d.%s", i, prefix)
		c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(720 * time.Hour)}
		if out[i], err = x509.CreateCertificate(rand.Reader, c, c, key.Public(), key); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// rsaKey is a service account's key.
func rsaKey(t testing.TB) (*rsa.PrivateKey, []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
