// Package ctwatchtest has Certificate Transparency logs of both kinds on
// loopback, with real trees and signatures, which can be told to lie.
package ctwatchtest

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/ctwatch"
)

// Tree is what a log holds.
type Tree struct {
	leaves, tileLeaves, extra [][]byte
	hashes                    []tlog.Hash // as tlog stores them
}

// ReadHashes implements tlog.HashReader.
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = t.hashes[x]
	}
	return out, nil
}

func (t *Tree) size() int64 { return int64(len(t.leaves)) }

// Clone returns a tree that grows apart from t.
func (t *Tree) Clone() *Tree {
	return &Tree{append([][]byte(nil), t.leaves...), append([][]byte(nil), t.tileLeaves...), append([][]byte(nil), t.extra...), append([]tlog.Hash(nil), t.hashes...)}
}

func length24(b []byte) []byte {
	return append([]byte{byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...)
}

// Add appends an entry. For a precertificate, tbs is what the log vouches for.
func (t *Tree) Add(tb testing.TB, cert, tbs []byte, at time.Time) {
	tb.Helper()
	body := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	var extra []byte
	if tbs == nil {
		body = append(append(body, 0, 0), length24(cert)...)
		extra = length24(nil)
	} else {
		body = append(append(body, 0, 1), make([]byte, 32)...)
		body = append(body, length24(tbs)...)
		extra = append(length24(cert), length24(nil)...)
	}
	body = append(body, 0, 0) // no extensions
	leaf := append([]byte{0, 0}, body...)
	tile := body
	if tbs != nil {
		tile = append(append([]byte(nil), body...), length24(cert)...)
	}
	tile = append(tile, 0, 0) // no chain
	stored, err := tlog.StoredHashesForRecordHash(t.size(), tlog.RecordHash(leaf), t)
	check(tb, err)
	t.hashes = append(t.hashes, stored...)
	t.leaves, t.tileLeaves, t.extra = append(t.leaves, leaf), append(t.tileLeaves, tile), append(t.extra, extra)
}

// Server is a log on loopback, of either kind, that can be told to lie.
type Server struct {
	*httptest.Server
	kind ctwatch.Kind
	key  *ecdsa.PrivateKey
	spki []byte

	mu       sync.Mutex
	Tree     *Tree // what the log holds
	Served   int64 // size of the head
	most     int   // entries of one get-entries
	Lie      func(path string, answer []byte) []byte
	Status   func(path string, n int) int
	Delay    time.Duration
	requests map[string]int
}

// New runs an empty log until the end of the test.
func New(t testing.TB, kind ctwatch.Kind) *Server {
	t.Helper()
	s := &Server{kind: kind, Tree: &Tree{}, most: 200, requests: map[string]int{}}
	var err error
	s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	s.spki, err = x509.MarshalPKIXPublicKey(s.key.Public())
	check(t, err)
	s.Server = httptest.NewServer(http.HandlerFunc(s.handle))
	t.Cleanup(s.Close)
	return s
}

// Log is how the log is followed.
func (s *Server) Log(name string, begin bool) ctwatch.Log {
	return ctwatch.Log{Name: name, Kind: s.kind, URL: s.URL + "/log", Key: s.spki, Begin: begin}
}

// Do changes the log; by itself it shows everything that it holds.
func (s *Server) Do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Served = 0
	f()
	if s.Served == 0 {
		s.Served = s.Tree.size()
	}
}

// Count returns how many requests came for a path, or for its first part.
func (s *Server) Count(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[operation]
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/log/"), "ct/v1/")
	s.requests[path]++
	s.requests[strings.SplitN(path, "/", 3)[0]]++
	delay, status := s.Delay, 0
	if s.Status != nil {
		status = s.Status(path, s.requests[path])
	}
	answer, err := s.answer(path, r)
	if s.Lie != nil && err == nil {
		answer = s.Lie(path, answer)
	}
	s.mu.Unlock()
	time.Sleep(delay) // the log is slow
	if status == 0 && err != nil {
		status = http.StatusNotFound
	}
	if status != 0 {
		http.Error(w, "no", status)
		return
	}
	if strings.HasPrefix(path, "tile/data/") && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		_, _ = z.Write(answer) // the client may be gone
		return
	}
	_, _ = w.Write(answer) // as above
}

// answer is called under mu.
func (s *Server) answer(path string, r *http.Request) ([]byte, error) {
	first, _ := strconv.ParseInt(r.URL.Query().Get("first"), 10, 64)
	second, _ := strconv.ParseInt(r.URL.Query().Get("second"), 10, 64)
	start, _ := strconv.ParseInt(r.URL.Query().Get("start"), 10, 64)
	end, _ := strconv.ParseInt(r.URL.Query().Get("end"), 10, 64)
	switch {
	case path == "checkpoint":
		return s.checkpoint()
	case strings.HasPrefix(path, "tile/data/"):
		n, width, err := tileNumber(strings.TrimPrefix(path, "tile/data/"))
		if err != nil || n*256+width > s.Tree.size() {
			return nil, fmt.Errorf("no tile %s: %v", path, err)
		}
		return bytes.Join(s.Tree.tileLeaves[n*256:n*256+width], nil), nil
	case strings.HasPrefix(path, "tile/"):
		level, rest, _ := strings.Cut(strings.TrimPrefix(path, "tile/"), "/")
		l, err := strconv.Atoi(level)
		n, width, err2 := tileNumber(rest)
		if err != nil || err2 != nil || (n*256+width)<<(8*l) > s.Tree.size() {
			return nil, fmt.Errorf("no tile %s", path)
		}
		return tlog.ReadTileData(tlog.Tile{H: 8, L: l, N: n, W: int(width)}, s.Tree)
	case path == "get-sth":
		root, err := tlog.TreeHash(s.Served, s.Tree)
		at := time.Now().UnixMilli()
		return encode(map[string]any{"tree_size": s.Served, "timestamp": at, "sha256_root_hash": root[:], "tree_head_signature": s.sign(s.Served, root, at)}, err)
	case path == "get-sth-consistency":
		if first < 1 || first > second || second > s.Tree.size() {
			return nil, fmt.Errorf("no proof from %d to %d", first, second)
		}
		proof, err := tlog.ProveTree(second, first, s.Tree)
		list := [][]byte{}
		for _, h := range proof {
			list = append(list, append([]byte(nil), h[:]...))
		}
		return encode(map[string]any{"consistency": list}, err)
	case path == "get-entries":
		list := []any{}
		for i := start; i <= min(end, start+int64(s.most)-1, s.Tree.size()-1); i++ {
			list = append(list, map[string]any{"leaf_input": s.Tree.leaves[i], "extra_data": s.Tree.extra[i]})
		}
		return encode(map[string]any{"entries": list}, nil)
	}
	return nil, fmt.Errorf("no %s", path)
}

func encode(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// tileNumber reads "x001/x234/067.p/12".
func tileNumber(path string) (n, width int64, err error) {
	path, partial, _ := strings.Cut(path, ".p/")
	if width = 256; partial != "" {
		if width, err = strconv.ParseInt(partial, 10, 64); err != nil {
			return 0, 0, err
		}
	}
	for part := range strings.SplitSeq(path, "/") {
		digits, err := strconv.ParseInt(strings.TrimPrefix(part, "x"), 10, 64)
		if err != nil || len(strings.TrimPrefix(part, "x")) != 3 {
			return 0, 0, fmt.Errorf("bad tile %s", path)
		}
		n = n*1000 + digits
	}
	return n, width, nil
}

// sign signs a tree head (RFC 6962 section 3.5).
func (s *Server) sign(size int64, root tlog.Hash, at int64) []byte {
	msg := binary.BigEndian.AppendUint64([]byte{0, 1}, uint64(at))
	msg = binary.BigEndian.AppendUint64(msg, uint64(size))
	digest := sha256.Sum256(append(msg, root[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		return nil // the client says that it is no signature
	}
	return append([]byte{4, 3, byte(len(sig) >> 8), byte(len(sig))}, sig...)
}

func (s *Server) checkpoint() ([]byte, error) {
	root, err := tlog.TreeHash(s.Served, s.Tree)
	if err != nil {
		return nil, err
	}
	origin := strings.TrimPrefix(s.URL, "http://") + "/log"
	at := time.Now().UnixMilli()
	id := sha256.Sum256(s.spki)
	keyID := sha256.Sum256(append([]byte(origin+"\n\x05"), id[:]...))
	sig := append(keyID[:4:4], binary.BigEndian.AppendUint64(nil, uint64(at))...)
	sig = append(sig, s.sign(s.Served, root, at)...)
	return fmt.Appendf(nil, "%s\n%d\n%s\n\n— %s %s\n", origin, s.Served, base64.StdEncoding.EncodeToString(root[:]), origin, base64.StdEncoding.EncodeToString(sig)), nil
}

// oids of RFC 6962.
var (
	poison = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	scts   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// Issuer is somebody's CA.
type Issuer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// NewIssuer returns a CA with a name.
func NewIssuer(t testing.TB, name string) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &Issuer{key, cert}
}

// Pair is a certificate with its precertificate, and what a log vouches for.
type Pair struct{ Cert, Precert, TBS []byte }

// Issue makes a certificate and its precertificate.
func (c *Issuer) Issue(t testing.TB, names ...string) Pair {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	check(t, err)
	template := x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotBefore: time.Now().Add(-time.Hour).Truncate(time.Second),
		NotAfter: time.Now().Add(700 * time.Hour).Truncate(time.Second), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	with := func(id asn1.ObjectIdentifier, critical bool, value []byte) []byte {
		one := template
		if id != nil {
			one.ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: value}}
		}
		der, err := x509.CreateCertificate(rand.Reader, &one, c.cert, c.key.Public(), c.key)
		check(t, err)
		return der
	}
	plain, err := x509.ParseCertificate(with(nil, false, nil))
	check(t, err)
	return Pair{with(scts, false, []byte{4, 2, 0, 0}), with(poison, true, []byte{5, 0}), plain.RawTBSCertificate}
}

// Bulk adds n foreign entries to a log, half of them precertificates.
func (s *Server) Bulk(t testing.TB, foreign *Issuer, n int) {
	t.Helper()
	p := foreign.Issue(t, "www.somebody-else.test", "*.elsewhere.test")
	s.Do(func() {
		for i := range n {
			if i%2 == 0 {
				s.Tree.Add(t, p.Cert, nil, time.Now())
			} else {
				s.Tree.Add(t, p.Precert, p.TBS, time.Now())
			}
		}
	})
}

// Put adds a certificate, or its precertificate.
func (s *Server) Put(t testing.TB, p Pair, precert bool) {
	t.Helper()
	s.Do(func() {
		if precert {
			s.Tree.Add(t, p.Precert, p.TBS, time.Now())
		} else {
			s.Tree.Add(t, p.Cert, nil, time.Now())
		}
	})
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
