package ctwatch

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Kind is a kind of log.
type Kind string

// Kinds of logs.
const (
	Static  Kind = "static-ct" // c2sp.org/static-ct-api: tiles and checkpoints
	RFC6962 Kind = "rfc6962"
)

// Log is one log to be followed.
type Log struct {
	Name  string
	Kind  Kind
	URL   string // submission prefix; it names the log
	Read  string // monitoring prefix of a static log; "" = URL
	Key   []byte // DER SubjectPublicKeyInfo
	Begin bool   // from its first entry, rather than from its end
	Rate  cloud.Rate
}

// head is a signed statement of a log about its tree.
type head struct {
	size int64
	root tlog.Hash
	at   time.Time
	text string // as signed
}

// window is how many entries are asked for at once: those of one tile.
const window = 256

// reader reads one log. Whatever it returns besides entries is authenticated
// by the log's signature; entries are authenticated by their place in the
// tree.
type reader struct {
	log    Log
	rest   cloud.REST
	key    crypto.PublicKey
	prefix string // of URLs
	origin string // of checkpoints
	id     [32]byte
}

// newReader returns a reader of a log.
func newReader(l Log, gates *cloud.Gates) (*reader, error) {
	key, err := x509.ParsePKIXPublicKey(l.Key)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "ct_log.%s.key: not a public key", l.Name)
	}
	r := &reader{log: l, key: key, prefix: strings.TrimSuffix(l.URL, "/"), id: sha256.Sum256(l.Key)}
	r.origin = strings.TrimPrefix(strings.TrimPrefix(r.prefix, "https://"), "http://")
	if l.Kind == Static && l.Read != "" {
		r.prefix = strings.TrimSuffix(l.Read, "/")
	}
	u, err := url.Parse(r.prefix)
	if err != nil || u.Host == "" {
		return nil, fault.New(fault.Invalid, "ct_log.%s.url: not a URL", l.Name)
	}
	rate := l.Rate
	if rate.PerSecond <= 0 {
		rate = cloud.Rate{PerSecond: 50, Burst: 50}
	}
	r.rest = cloud.REST{Client: gates.Client(cloud.Scope{Source: "ct-" + l.Name, Provider: "ct", Account: l.Name, Rates: map[string]cloud.Rate{"": rate}, Hosts: []string{u.Host}}, nil)}
	return r, nil
}

// get fetches a file below the prefix.
func (r *reader) get(ctx context.Context, operation, path string) ([]byte, error) {
	var body []byte
	err := r.rest.Fetch(ctx, operation, r.prefix+"/"+path, func(in io.Reader) (err error) {
		body, err = io.ReadAll(in)
		return err
	})
	return body, err
}

// head fetches what the log signs now.
func (r *reader) head(ctx context.Context) (head, error) {
	if r.log.Kind == Static {
		text, err := r.get(ctx, "checkpoint", "checkpoint")
		if err != nil {
			return head{}, err
		}
		return r.checkpoint(text)
	}
	var a struct {
		Size      int64  `json:"tree_size"`
		Timestamp int64  `json:"timestamp"`
		Root      []byte `json:"sha256_root_hash"`
		Signature []byte `json:"tree_head_signature"`
	}
	text, err := r.get(ctx, "get-sth", "ct/v1/get-sth")
	if err != nil {
		return head{}, err
	}
	if err := json.Unmarshal(text, &a); err != nil || len(a.Root) != tlog.HashSize || a.Size < 0 {
		return head{}, errors.New("the log's tree head does not parse")
	}
	h := head{a.Size, tlog.Hash(a.Root), time.UnixMilli(a.Timestamp), string(bytes.TrimSpace(text))}
	return h, r.verify(&h, a.Timestamp, a.Signature)
}

// maxHead bounds what is kept of a signed head.
const maxHead = 16 << 10

// verify checks the signature of a tree head (RFC 6962 section 3.5): a
// DigitallySigned structure (RFC 5246 section 4.7) over TreeHeadSignature.
func (r *reader) verify(h *head, millis int64, signed []byte) error {
	bad := errors.New("the log's tree head is not signed by its key")
	if len(signed) < 4 || int(binary.BigEndian.Uint16(signed[2:]))+4 != len(signed) || len(h.text) > maxHead {
		return bad
	}
	msg := []byte{0, 1} // v1, tree_hash
	msg = binary.BigEndian.AppendUint64(msg, uint64(millis))
	msg = binary.BigEndian.AppendUint64(msg, uint64(h.size))
	msg = append(msg, h.root[:]...)
	digest, sig := sha256.Sum256(msg), signed[4:]
	ok := false
	switch k := r.key.(type) {
	case *ecdsa.PublicKey:
		ok = signed[0] == 4 && signed[1] == 3 && ecdsa.VerifyASN1(k, digest[:], sig)
	case *rsa.PublicKey:
		ok = signed[0] == 4 && signed[1] == 1 && rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, msg, sig)
	}
	if !ok {
		return bad
	}
	return nil
}

// checkpoint reads a signed note whose signature is that of a tree head
// (c2sp.org/static-ct-api, "Checkpoints").
func (r *reader) checkpoint(text []byte) (h head, err error) {
	if len(text) > maxHead {
		return h, errors.New("the log's checkpoint is too long")
	}
	v := &noteVerifier{r: r}
	n, err := note.Open(text, note.VerifierList(v))
	if err != nil {
		return h, fmt.Errorf("the log's checkpoint is not signed by its key: %w", err)
	}
	if err := v.read(n.Text, &h); err != nil {
		return h, err
	}
	h.at, h.text = v.at, string(text)
	return h, nil
}

// noteVerifier verifies RFC 6962 note signatures.
type noteVerifier struct {
	r  *reader
	at time.Time // of the signature that was verified
}

// Name implements note.Verifier.
func (v *noteVerifier) Name() string { return v.r.origin }

// KeyHash implements note.Verifier: signature type 0x05 of c2sp.org/signed-note.
func (v *noteVerifier) KeyHash() uint32 {
	h := sha256.New()
	h.Write([]byte(v.r.origin + "\n\x05"))
	h.Write(v.r.id[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Verify implements note.Verifier.
func (v *noteVerifier) Verify(msg, sig []byte) bool {
	var h head
	if len(sig) < 8 || v.read(string(msg), &h) != nil {
		return false
	}
	millis := binary.BigEndian.Uint64(sig)
	if millis > 1<<53 || v.r.verify(&h, int64(millis), sig[8:]) != nil {
		return false
	}
	v.at = time.UnixMilli(int64(millis))
	return true
}

// read reads origin, size and root.
func (v *noteVerifier) read(text string, h *head) error {
	lines := strings.Split(text, "\n")
	bad := errors.New("the log's checkpoint does not parse")
	if len(lines) < 4 || lines[0] != v.r.origin {
		return bad
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	root, err2 := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || err2 != nil || size < 0 || len(root) != tlog.HashSize || strconv.FormatInt(size, 10) != lines[1] {
		return bad
	}
	h.size, h.root = size, tlog.Hash(root)
	return nil
}

// entries returns the entries from <= i < to, which lie in one window, of the
// tree of a head.
func (r *reader) entries(ctx context.Context, from, to int64, h head) ([]entry, error) {
	if r.log.Kind == Static {
		n := from / window
		have := min(window, h.size-n*window)
		data, err := r.get(ctx, "data", "tile/data/"+tilePath(n, have))
		if err != nil {
			return nil, err
		}
		all, err := tileEntries(data, int(have))
		if err != nil {
			return nil, err
		}
		return all[from-n*window : to-n*window], nil
	}
	var out []entry
	step := to - from
	for at := from; at < to; {
		var a struct {
			Entries []struct {
				Leaf  []byte `json:"leaf_input"`
				Extra []byte `json:"extra_data"`
			} `json:"entries"`
		}
		if err := r.rest.Get(ctx, "get-entries", http.MethodGet, fmt.Sprintf("%s/ct/v1/get-entries?start=%d&end=%d", r.prefix, at, min(at+step, to)-1), &a); errors.Is(err, cloud.ErrTooLong) && step > 1 {
			step /= 2 // huge entries: fewer of them at once
			continue
		} else if err != nil {
			return nil, err
		}
		if len(a.Entries) == 0 || int64(len(a.Entries)) > to-at {
			return nil, fmt.Errorf("the log answers %d entries for %d", len(a.Entries), to-at)
		}
		for i := range a.Entries {
			out = append(out, leafEntry(a.Entries[i].Leaf, a.Entries[i].Extra))
		}
		at += int64(len(a.Entries))
	}
	return out, nil
}

// prove returns the frontier of the first size entries of the tree of a head,
// as the head authenticates it. known is the root that they are believed to
// have, or nil.
func (r *reader) prove(ctx context.Context, size int64, known *tlog.Hash, h head) (frontier, error) {
	if size == 0 {
		return frontier{}, nil
	}
	if r.log.Kind == Static {
		hashes, err := tlog.TileHashReader(tlog.Tree{N: h.size, Hash: h.root}, &tiles{ctx, r}).ReadHashes(subtrees(size))
		return frontier{size, hashes}, err
	}
	var a struct {
		Proof [][]byte `json:"consistency"`
	}
	if err := r.rest.Get(ctx, "get-sth-consistency", http.MethodGet, fmt.Sprintf("%s/ct/v1/get-sth-consistency?first=%d&second=%d", r.prefix, size, h.size), &a); err != nil {
		return frontier{}, err
	}
	proof := make([]tlog.Hash, len(a.Proof))
	for i, p := range a.Proof {
		if len(p) != tlog.HashSize || len(a.Proof) > 128 {
			return frontier{}, errProof
		}
		proof[i] = tlog.Hash(p)
	}
	return fromProof(size, known, proof, h)
}

// tilePath writes a tile's number and width (c2sp.org/tlog-tiles).
func tilePath(n, width int64) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	if width < window {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

// tiles fetches hash tiles for package tlog, which verifies them.
type tiles struct {
	ctx context.Context // of one reading
	r   *reader
}

// Height implements tlog.TileReader.
func (t *tiles) Height() int { return 8 }

// ReadTiles implements tlog.TileReader.
func (t *tiles) ReadTiles(want []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(want))
	for i, tile := range want {
		data, err := t.r.get(t.ctx, "tile", fmt.Sprintf("tile/%d/%s", tile.L, tilePath(tile.N, int64(tile.W))))
		if err != nil {
			return nil, err
		}
		if len(data) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("a tile of the log has %d bytes", len(data))
		}
		out[i] = data
	}
	return out, nil
}

// SaveTiles implements tlog.TileReader: nothing is kept.
func (t *tiles) SaveTiles([]tlog.Tile, [][]byte) {}
