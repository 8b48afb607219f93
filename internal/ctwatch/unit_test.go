package ctwatch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

type memory []tlog.Hash

func (m memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = m[x]
	}
	return out, nil
}

// grow makes a tree of n leaves, with the frontier at each size.
func grow(t testing.TB, n int64) (m memory, fronts []frontier) {
	t.Helper()
	f := frontier{}
	fronts = append(fronts, f.clone())
	for i := range n {
		leaf := binary.BigEndian.AppendUint64(nil, uint64(i))
		stored, err := tlog.StoredHashes(i, leaf, m)
		if err != nil {
			t.Fatal(err)
		}
		m = append(m, stored...)
		f.add(tlog.RecordHash(leaf))
		fronts = append(fronts, f.clone())
	}
	return m, fronts
}

// The frontier gives the roots of RFC 6962, and every consistency proof gives
// the frontier; a proof that is changed gives none.
func TestFrontier(t *testing.T) {
	m, fronts := grow(t, 80)
	for size := int64(1); size <= 80; size++ {
		root, err := tlog.TreeHash(size, m)
		if err != nil || fronts[size].root() != root {
			t.Fatalf("root of %d: %v", size, err)
		}
		again, err := readFrontier(size, fronts[size].bytes())
		if err != nil || again.root() != root {
			t.Errorf("%d reads back: %v", size, err)
		}
		for old := int64(1); old < size; old++ {
			proof, err := tlog.ProveTree(size, old, m)
			if err != nil {
				t.Fatal(err)
			}
			known := fronts[old].root()
			to := head{size: size, root: root}
			f, err := fromProof(old, &known, proof, to)
			if err != nil || f.root() != known || !bytes.Equal(f.bytes(), fronts[old].bytes()) {
				t.Fatalf("from %d to %d: %v", old, size, err)
			}
			for i := range proof {
				bad := append([]tlog.Hash(nil), proof...)
				bad[i][3] ^= 1
				if _, err := fromProof(old, &known, bad, to); err == nil {
					t.Errorf("from %d to %d: a proof with hash %d changed", old, size, i)
				}
			}
			if _, err := fromProof(old, &known, append(proof, known), to); err == nil {
				t.Errorf("from %d to %d: a proof that is too long", old, size)
			}
			if len(proof) > 0 {
				if _, err := fromProof(old, &known, proof[:len(proof)-1], to); err == nil {
					t.Errorf("from %d to %d: a proof that is too short", old, size)
				}
			}
		}
	}
	if _, err := readFrontier(3, make([]byte, 32)); err == nil {
		t.Error("a frontier that does not fit its size")
	}
}

func TestMatcher(t *testing.T) {
	m := newMatcher([]string{"ours.test", "deep.sub.other.test", "ours.test.", "xn--bcher-kva.example"})
	if m.count != 3 {
		t.Errorf("%d domains", m.count)
	}
	for name, want := range map[string]bool{"ours.test": true, "www.ours.test": true, "*.ours.test": true, "A.B.OURS.Test": true, "ours.test.": true, "notours.test": false, "ours.test.evil.test": false,
		"test": false, "": false, ".": false, "..": false, "other.test": false, "sub.other.test": false, "x.deep.sub.other.test": true, "XN--BCHER-kva.example": true, "ours\x00.test": false,
		string(bytes.Repeat([]byte("a"), 300)): false, string(bytes.Repeat([]byte("a."), 5000)) + "ours.test": true} {
		if got := m.match([]byte(name)); got != want {
			t.Errorf("%.40q: %t", name, got)
		}
	}
}

func TestTilePaths(t *testing.T) { // c2sp.org/tlog-tiles
	for want, in := range map[string][2]int64{"000": {0, 256}, "067.p/1": {67, 1}, "x001/234": {1234, 256}, "x001/x234/067": {1234067, 256}, "x999/999.p/255": {999999, 255}} {
		if got := tilePath(in[0], in[1]); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
}

// Foreign bytes give entries or an error, and never more than they hold.
func FuzzEntries(f *testing.F) {
	f.Add([]byte{}, []byte{}, 1)
	f.Add(append(make([]byte, 10), 0, 0, 1, 0x30, 0, 0, 0, 0), []byte{0, 0, 0}, 1)
	f.Add(append(append(make([]byte, 9), 1), make([]byte, 60)...), []byte{0, 0, 1, 7}, 1)
	ours := newMatcher([]string{"ours.test"})
	f.Fuzz(func(t *testing.T, data, extra []byte, n int) {
		entries, err := tileEntries(data, n&255)
		if err == nil && len(entries) != n&255 {
			t.Errorf("%d entries", len(entries))
		}
		look(ours, append(entries, leafEntry(data, extra)), 0)
	})
}

func FuzzDissect(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, tbs []byte) {
		fields, ok := dissect(tbs)
		if !ok {
			return
		}
		fields.names(func([]byte) bool { return true })
		if _, err := fields.common(); err != nil {
			return
		}
	})
}

// BenchmarkLook looks at entries like those of public logs: parse, hash, names
// against 1,000 domains.
func BenchmarkLook(b *testing.B) {
	var domains []string
	for i := range 1000 {
		domains = append(domains, fmt.Sprintf("d%d.test", i))
	}
	ours := newMatcher(domains)
	data := benchTile(b)
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	begin, n := time.Now(), 0
	for b.Loop() {
		entries, err := tileEntries(data, window)
		if err != nil {
			b.Fatal(err)
		}
		if w := look(ours, entries, 0); len(w.found) > 0 || w.unreadable > 0 {
			b.Fatal(w)
		}
		n += window
	}
	b.ReportMetric(float64(n)/time.Since(begin).Seconds(), "entries/s")
}
