package status

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math/big"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"chancery/internal/pki"
)

// serialOf is a serial of ours with a number in its random part.
func serialOf(i int) pki.Serial {
	var b [pki.SerialLen]byte
	b[0] = 0x2a
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	copy(b[1:], sum[:])
	return pki.Serial(b[:])
}

func factOf(i int, expires time.Time) fact {
	f, _ := newFact(serialOf(i), time.Unix(1_800_000_000, 0), expires, time.Time{}, 0)
	return f
}

func TestTableKeepsWhatItLearned(t *testing.T) {
	tab, soon, late := newTable(), time.Unix(1_900_000_000, 0), time.Unix(2_000_000_000, 0)
	for i := range 20_000 {
		expires := late
		if i%2 == 0 {
			expires = soon
		}
		f := factOf(i, expires)
		if !tab.put(f) || tab.put(f) {
			t.Fatal("news and no news are confused")
		}
		if !tab.keep(&f, bySHA1, seal{at: 7, gen: 3}, bytes.Repeat([]byte{byte(i)}, 64)) {
			t.Fatal("not kept")
		}
	}
	check := func(every int) {
		t.Helper()
		for i := range 20_000 {
			_, se, sig, ok := tab.get([]byte(serialOf(i)), bySHA1, nil)
			if want := i%every == every-1; ok != want {
				t.Fatalf("serial %d: known %v", i, ok)
			} else if ok && se.at != 0 && (se != seal{7, 3} || !bytes.Equal(sig, bytes.Repeat([]byte{byte(i)}, 64))) {
				t.Fatalf("serial %d: %+v %x", i, se, sig)
			}
		}
	}
	check(1)
	if _, se, _, ok := tab.get([]byte(serialOf(1)), bySHA256, nil); !ok || se.at != 0 {
		t.Error("the forms are not apart")
	}
	if n := tab.forget(minutes(soon) + 2); n != 10_000 || tab.size() != 10_000 {
		t.Errorf("forgot %d, %d left", n, tab.size())
	}
	check(2)
}

func TestRevokedStaysRevoked(t *testing.T) {
	tab := newTable()
	good := factOf(1, time.Unix(2_000_000_000, 0))
	revoked, again := good, good
	revoked.revokedAt, revoked.reason = 1_850_000_000, uint8(pki.KeyCompromise)
	again.revokedAt, again.reason = 1_860_000_000, uint8(pki.Superseded)
	tab.put(good)
	tab.keep(&good, bySHA1, seal{at: 1}, make([]byte, 64))
	for i, f := range []fact{revoked, again, good} {
		if news := tab.put(f); news != (i == 0) {
			t.Errorf("fact %d: news %v", i, news)
		}
	}
	f, se, _, _ := tab.get(good.key(), bySHA1, nil)
	if f != revoked || se.at != 0 {
		t.Errorf("%+v %+v", f, se)
	}
	if tab.keep(&good, bySHA1, seal{at: 2}, make([]byte, 64)) {
		t.Error("the signature of a good answer was kept for a revoked certificate")
	}
}

func TestTableUnderContention(t *testing.T) {
	tab, end := newTable(), time.Unix(2_000_000_000, 0)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				f := factOf(i, end)
				if g == 0 {
					f.revokedAt = 1_850_000_000
				}
				tab.put(f)
				got, se, sig, ok := tab.get(f.key(), bySHA1, nil)
				if !ok || se.at != 0 && sig[0] != byte(got.revokedAt) {
					t.Errorf("serial %d: %v %+v %x", i, ok, got, sig)
				}
				tab.keep(&got, bySHA1, seal{at: 1}, bytes.Repeat([]byte{byte(got.revokedAt)}, 64))
			}
		})
	}
	wg.Wait()
	tab.each(place{}, func(f *fact, _ seal) bool {
		if !f.revoked() {
			t.Error("a revocation was lost")
		}
		return true
	})
}

// TestBytesPerSerial holds the memory of a signed P-256 answer to its bar.
func TestBytesPerSerial(t *testing.T) {
	const n, bar = 100_000, 150
	before := heap()
	tab, sig, end := newTable(), make([]byte, 64), time.Unix(2_000_000_000, 0)
	for i := range n {
		f := factOf(i, end)
		tab.put(f)
		tab.keep(&f, bySHA1, seal{at: 1}, sig)
	}
	per := float64(heap()-before) / n
	t.Logf("%.1f bytes per serial", per)
	if per > bar {
		t.Errorf("%.1f bytes per serial, the bar is %d", per, bar)
	}
	runtime.KeepAlive(tab)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestECDSASignaturesSurvivePacking, also with short r and s.
func TestECDSASignaturesSurvivePacking(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	var ders [][]byte
	for range 600 { // one in 256 has a short r
		der, err := key.Sign(rand.Reader, make([]byte, 32), nil)
		must(t, err)
		ders = append(ders, der)
	}
	for _, pair := range [][2]int64{{0, 0}, {1, 127}, {128, 255}, {256, 1 << 40}} {
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1BigInt(big.NewInt(pair[0]))
			b.AddASN1BigInt(big.NewInt(pair[1]))
		})
		ders = append(ders, b.BytesOrPanic())
	}
	for _, der := range ders {
		kept, err := packECDSA(der, 32)
		must(t, err)
		if got := appendECDSA(nil, kept); !bytes.Equal(got, der) {
			t.Fatalf("%x became %x", der, got)
		}
	}
	for _, bad := range []string{"", "\x30\x00", "\x30\x03\x02\x01\x01", "\x30\x24\x02\x21\x01" + strings.Repeat("\x00", 32) + "\x02\x01\x01"} {
		if _, err := packECDSA([]byte(bad), 32); err == nil {
			t.Errorf("%x was packed", bad)
		}
	}
}

func TestPhasesAreEven(t *testing.T) {
	const period = 48 * 60
	var hours [48]int
	for i := range 48_000 {
		f := factOf(i, time.Now())
		hours[f.phase()%period/60]++
	}
	for h, n := range hours {
		if n < 850 || n > 1150 {
			t.Errorf("%d of 48000 in hour %d", n, h)
		}
	}
}

// FuzzDecodeGET holds the decoder against net/url and encoding/base64: what
// they read, it reads alike; and what it reads is bounded.
func FuzzDecodeGET(f *testing.F) {
	for _, seed := range []string{"", "/ocsp/id/MAMCAQE=", "/ocsp/id/MAMCAQE", "/ocsp//id//MAMCAQE%3D", "//ocsp/id/%4d%41MCAQE=", "/ocsp/id/M+/+?x", "/ocsp/id/%", "/ocsp/id/%f", "/ocsp/%/M", "/ocsp/id/====", "/ocsp/id/M\n"} {
		f.Add(seed)
	}
	sc := new(scratch)
	f.Fuzz(func(t *testing.T, target string) {
		authority, text := splitTarget(target)
		if strings.ContainsAny(authority+text, "?") || strings.Contains(authority, "/") || strings.HasPrefix(text, "/") {
			t.Errorf("%q was split into %q and %q", target, authority, text)
		}
		err := sc.decodeGET(text)
		if len(sc.raw) > len(text) || err != nil && len(sc.raw) > maxGET {
			t.Errorf("%d octets of %d", len(sc.raw), len(text))
		}
		plain, uerr := url.PathUnescape(text)
		want, berr := base64.StdEncoding.DecodeString(plain)
		if ok := uerr == nil && berr == nil && text != "" && len(text) <= maxGET; ok && (err != nil || !bytes.Equal(sc.raw, want)) {
			t.Errorf("%q: %x, %v; want %x", text, sc.raw, err, want)
		}
		if uerr != nil && err == nil {
			t.Errorf("%q was decoded: %v", text, uerr)
		}
	})
}
