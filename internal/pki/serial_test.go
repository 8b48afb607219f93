package pki

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"chancery/internal/fault"
)

func TestNewSerial(t *testing.T) {
	seen := make(map[Serial]bool)
	at := time.Unix(0x6b_12_34_56, 0)
	for range 1000 {
		s, err := NewSerial(0x7f, at, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		// 20 octets are the most that RFC 5280 section 4.1.2.2 allows.
		if len(s) != 20 || !s.Valid() || s.Big().Sign() != 1 || seen[s] {
			t.Fatalf("serial %s is not a new positive number of 20 octets", s)
		}
		if !strings.HasPrefix(s.Hex(), "7f123456") {
			t.Fatalf("serial %s does not begin with prefix and time", s)
		}
		seen[s] = true
	}
	ones, err := NewSerial(1, at, bytes.NewReader(bytes.Repeat([]byte{0xff}, 16)))
	if err != nil || ones.Hex()[8:] != strings.Repeat("ff", 16) {
		t.Fatalf("serial %s does not end with 128 random bits (%v)", ones, err)
	}
}

func TestNewSerialErrors(t *testing.T) {
	for _, prefix := range []byte{0, 0x80, 0xff} {
		if s, err := NewSerial(prefix, time.Time{}, rand.Reader); err == nil {
			t.Errorf("prefix %#x gave %s", prefix, s)
		}
	}
	if _, err := NewSerial(1, time.Time{}, bytes.NewReader(make([]byte, 15))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short random source: %v", err)
	}
	if _, err := NewSerial(1, time.Time{}, iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("broken random source: %v", err)
	}
}

func TestSerialText(t *testing.T) {
	for _, c := range []struct{ text, hex, der string }{
		{"01", "01", "\x01"},
		{"1", "01", "\x01"},
		{"0", "00", "\x00"},
		{"0000", "00", "\x00"},
		{"7F", "7f", "\x7f"},
		{"80", "80", "\x00\x80"},
		{"0080", "80", "\x00\x80"},
		{"01:AB:cd", "01abcd", "\x01\xab\xcd"},
		{"100", "0100", "\x01\x00"},
		{"-01", "-01", "\xff"},
		{"-80", "-80", "\x80"},
		{"-81", "-81", "\xff\x7f"},
		{"-ff00", "-ff00", "\xff\x01\x00"},
	} {
		s, err := ParseSerial(c.text)
		if err != nil || string(s) != c.der || s.Hex() != c.hex || s.String() != c.hex {
			t.Errorf("%q: got %x %q %v, want %x %q", c.text, string(s), s.Hex(), err, c.der, c.hex)
		}
		if SerialFromBig(s.Big()) != s {
			t.Errorf("%q does not survive the trip through big.Int", c.text)
		}
	}
	for _, text := range []string{"", "-", "x", "0x01", "01:2", "1:02", "01:", " 01", "01 ", "--01", "+01", string(make([]byte, 300))} {
		s, err := ParseSerial(text)
		if err == nil {
			t.Errorf("%q gave %s", text, s)
		}
		wantFault(t, err, fault.Malformed)
	}
}

func TestSerialJSON(t *testing.T) {
	text, err := json.Marshal([]Serial{"\x00\x80", "\x01\xff"})
	if err != nil || string(text) != `["80","01ff"]` {
		t.Errorf("%s, %v", text, err)
	}
	var back []Serial
	if err := json.Unmarshal(text, &back); err != nil || len(back) != 2 || back[0] != "\x00\x80" || back[1] != "\x01\xff" {
		t.Errorf("%q, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`["x"]`), &back); !fault.Is(err, fault.Malformed) {
		t.Errorf("bad text: %v", err)
	}
}

func TestSerialValid(t *testing.T) {
	for s, want := range map[Serial]bool{
		"\x01": true, "\x7f": true, "\x00\x80": true, Serial(bytes.Repeat([]byte{1}, 20)): true,
		"": false, "\x00": false, "\x80": false, "\x00\x01": false, "\x00\x00": false, Serial(bytes.Repeat([]byte{1}, 21)): false,
	} {
		if s.Valid() != want {
			t.Errorf("%x: valid is %v", string(s), !want)
		}
	}
	if SerialFromBig(nil) != "" || Serial("").Hex() != "" {
		t.Error("no number is not the empty serial")
	}
}

func FuzzParseSerial(f *testing.F) {
	for _, s := range []string{"01", "-ff", "01:ab:cd", "00ff", "fffffffffffffffffffffffffffffffffffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSerial(text)
		if err != nil {
			wantFault(t, err, fault.Malformed)
			return
		}
		again, err := ParseSerial(s.Hex())
		if err != nil || again != s {
			t.Fatalf("%q: %x became %x, %v", text, string(s), string(again), err)
		}
		if n := s.Big(); SerialFromBig(n) != s || n.Cmp(new(big.Int).Set(n)) != 0 {
			t.Fatalf("%q: number %v does not give %x back", text, n, string(s))
		}
	})
}

// TestLongHex: serial numbers as OpenSSL prints them, also without a leading
// zero, are told from words and names.
func TestLongHex(t *testing.T) {
	for text, want := range map[string]bool{"6b1f13593a7975e": true, "66b1f13593a7975e623e3461c7b2ea1fC": true, strings.Repeat("ab", 32): true,
		"deadbeef": false, "6b1f13593a7975": false, "www.example.com": false, "": false, "6b1f13593a7975eg": false} {
		if got := LongHex(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
