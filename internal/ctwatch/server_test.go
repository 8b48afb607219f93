package ctwatch_test

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

// tree is what a log holds.
type tree struct {
	leaves, tileLeaves, extra [][]byte
	hashes                    []tlog.Hash // as tlog stores them
}

func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = t.hashes[x]
	}
	return out, nil
}

func (t *tree) size() int64 { return int64(len(t.leaves)) }

func (t *tree) clone() *tree {
	return &tree{append([][]byte(nil), t.leaves...), append([][]byte(nil), t.tileLeaves...), append([][]byte(nil), t.extra...), append([]tlog.Hash(nil), t.hashes...)}
}

func length24(b []byte) []byte {
	return append([]byte{byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...)
}

// add appends an entry. For a precertificate, tbs is what the log vouches for.
func (t *tree) add(tb testing.TB, cert, tbs []byte, at time.Time) {
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

// server is a log on loopback, of either kind, that can be told to lie.
type server struct {
	*httptest.Server
	kind ctwatch.Kind
	key  *ecdsa.PrivateKey
	spki []byte

	mu       sync.Mutex
	tree     *tree
	served   int64 // size of the head
	most     int   // entries of one get-entries
	lie      func(path string, answer []byte) []byte
	status   func(path string, n int) int
	delay    time.Duration
	requests map[string]int
}

func newServer(t testing.TB, kind ctwatch.Kind) *server {
	t.Helper()
	s := &server{kind: kind, tree: &tree{}, most: 200, requests: map[string]int{}}
	var err error
	s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	s.spki, err = x509.MarshalPKIXPublicKey(s.key.Public())
	check(t, err)
	s.Server = httptest.NewServer(http.HandlerFunc(s.handle))
	t.Cleanup(s.Close)
	return s
}

func (s *server) log(name string, begin bool) ctwatch.Log {
	return ctwatch.Log{Name: name, Kind: s.kind, URL: s.URL + "/log", Key: s.spki, Begin: begin}
}

// do changes the log; by itself it shows everything that it holds.
func (s *server) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served = 0
	f()
	if s.served == 0 {
		s.served = s.tree.size()
	}
}

func (s *server) count(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[operation]
}

func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/log/"), "ct/v1/")
	s.requests[path]++
	s.requests[strings.SplitN(path, "/", 3)[0]]++
	delay, status := s.delay, 0
	if s.status != nil {
		status = s.status(path, s.requests[path])
	}
	answer, err := s.answer(path, r)
	if s.lie != nil && err == nil {
		answer = s.lie(path, answer)
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
func (s *server) answer(path string, r *http.Request) ([]byte, error) {
	first, _ := strconv.ParseInt(r.URL.Query().Get("first"), 10, 64)
	second, _ := strconv.ParseInt(r.URL.Query().Get("second"), 10, 64)
	start, _ := strconv.ParseInt(r.URL.Query().Get("start"), 10, 64)
	end, _ := strconv.ParseInt(r.URL.Query().Get("end"), 10, 64)
	switch {
	case path == "checkpoint":
		return s.checkpoint()
	case strings.HasPrefix(path, "tile/data/"):
		n, width, err := tileNumber(strings.TrimPrefix(path, "tile/data/"))
		if err != nil || n*256+width > s.tree.size() {
			return nil, fmt.Errorf("no tile %s: %v", path, err)
		}
		return bytes.Join(s.tree.tileLeaves[n*256:n*256+width], nil), nil
	case strings.HasPrefix(path, "tile/"):
		level, rest, _ := strings.Cut(strings.TrimPrefix(path, "tile/"), "/")
		l, err := strconv.Atoi(level)
		n, width, err2 := tileNumber(rest)
		if err != nil || err2 != nil || (n*256+width)<<(8*l) > s.tree.size() {
			return nil, fmt.Errorf("no tile %s", path)
		}
		return tlog.ReadTileData(tlog.Tile{H: 8, L: l, N: n, W: int(width)}, s.tree)
	case path == "get-sth":
		root, err := tlog.TreeHash(s.served, s.tree)
		at := time.Now().UnixMilli()
		return encode(map[string]any{"tree_size": s.served, "timestamp": at, "sha256_root_hash": root[:], "tree_head_signature": s.sign(s.served, root, at)}, err)
	case path == "get-sth-consistency":
		if first < 1 || first > second || second > s.tree.size() {
			return nil, fmt.Errorf("no proof from %d to %d", first, second)
		}
		proof, err := tlog.ProveTree(second, first, s.tree)
		list := [][]byte{}
		for _, h := range proof {
			list = append(list, append([]byte(nil), h[:]...))
		}
		return encode(map[string]any{"consistency": list}, err)
	case path == "get-entries":
		list := []any{}
		for i := start; i <= min(end, start+int64(s.most)-1, s.tree.size()-1); i++ {
			list = append(list, map[string]any{"leaf_input": s.tree.leaves[i], "extra_data": s.tree.extra[i]})
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
func (s *server) sign(size int64, root tlog.Hash, at int64) []byte {
	msg := binary.BigEndian.AppendUint64([]byte{0, 1}, uint64(at))
	msg = binary.BigEndian.AppendUint64(msg, uint64(size))
	digest := sha256.Sum256(append(msg, root[:]...))
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, digest[:])
	if err != nil {
		return nil // the client says that it is no signature
	}
	return append([]byte{4, 3, byte(len(sig) >> 8), byte(len(sig))}, sig...)
}

func (s *server) checkpoint() ([]byte, error) {
	root, err := tlog.TreeHash(s.served, s.tree)
	if err != nil {
		return nil, err
	}
	origin := strings.TrimPrefix(s.URL, "http://") + "/log"
	at := time.Now().UnixMilli()
	id := sha256.Sum256(s.spki)
	keyID := sha256.Sum256(append([]byte(origin+"\n\x05"), id[:]...))
	sig := append(keyID[:4:4], binary.BigEndian.AppendUint64(nil, uint64(at))...)
	sig = append(sig, s.sign(s.served, root, at)...)
	return fmt.Appendf(nil, "%s\n%d\n%s\n\n— %s %s\n", origin, s.served, base64.StdEncoding.EncodeToString(root[:]), origin, base64.StdEncoding.EncodeToString(sig)), nil
}

// oids of RFC 6962.
var (
	poison = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	scts   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
)

// issuer is somebody's CA.
type issuer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newIssuer(t testing.TB, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &issuer{key, cert}
}

// pair is a certificate with its precertificate, and what a log vouches for.
type pair struct{ cert, precert, tbs []byte }

// issue makes a certificate and its precertificate.
func (c *issuer) issue(t testing.TB, names ...string) pair {
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
	return pair{with(scts, false, []byte{4, 2, 0, 0}), with(poison, true, []byte{5, 0}), plain.RawTBSCertificate}
}

// bulk adds n foreign entries to a log, half of them precertificates.
func (s *server) bulk(t testing.TB, foreign *issuer, n int) {
	t.Helper()
	p := foreign.issue(t, "www.somebody-else.test", "*.elsewhere.test")
	s.do(func() {
		for i := range n {
			if i%2 == 0 {
				s.tree.add(t, p.cert, nil, time.Now())
			} else {
				s.tree.add(t, p.precert, p.tbs, time.Now())
			}
		}
	})
}

// put adds a certificate, or its precertificate.
func (s *server) put(t testing.TB, p pair, precert bool) {
	t.Helper()
	s.do(func() {
		if precert {
			s.tree.add(t, p.precert, p.tbs, time.Now())
		} else {
			s.tree.add(t, p.cert, nil, time.Now())
		}
	})
}
