package probe

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// talk is a peer that says what it says, whatever it hears.
type talk struct {
	io.Reader
	heard bytes.Buffer
}

func (t *talk) Write(p []byte) (int, error) { return t.heard.Write(p) }

// Each protocol: a consent that ends exactly where TLS begins, and refusals.
var dialogues = []struct {
	protocol Protocol
	yes      string
	said     string // by us
	no       []string
}{
	{SMTP, "220-hello\r\n220 ready\r\n250-a.test\r\n250-starttls\r\n250 SIZE 1\r\n220 go\r\n", "EHLO scan.invalid\r\nSTARTTLS\r\n", []string{
		"554 no service\r\n", "220 ready\r\n250-a.test\r\n250 SIZE\r\n", "220 ready\r\n250 STARTTLS\r\n454 not now\r\n", "220 ready\r\n502 what\r\n"}},
	{IMAP, "* OK ready\r\n* CAPABILITY IMAP4rev2\r\na1 OK go\r\n", "a1 STARTTLS\r\n", []string{
		"* BYE\r\n", "* OK ready\r\na1 NO\r\n", "* OK ready\r\na1 BAD what\r\n", "* PREAUTH hello\r\n"}},
	{POP3, "+OK ready\r\n+OK go\r\n", "STLS\r\n", []string{"-ERR\r\n", "+OK ready\r\n-ERR what\r\n"}},
	{FTP, "220-hello\r\n all\r\n220 ready\r\n234 go\r\n", "AUTH TLS\r\n", []string{"421 busy\r\n", "220 ready\r\n534 no\r\n"}},
	{LDAP, "\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00", ldapStartTLS, []string{
		"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x02\x04\x00\x04\x00", // protocolError
		"\x30\x0c\x02\x01\x02\x78\x07\x0a\x01\x00\x04\x00\x04\x00", // another message
		"\x30\x80\x00\x00", "HTTP/1.1 400 Bad Request\r\n\r\n", "\x30\x84\xff\xff\xff\xff"}},
	{XMPP, "<?xml version='1.0'?><stream:stream id='1'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features><proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
		"<?xml version='1.0'?><stream:stream to='a.test' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
		[]string{"<stream:stream><stream:features></stream:features>", "<stream:stream><stream:features/>", "<stream:stream><stream:error>",
			"<stream:features>urn:ietf:params:xml:ns:xmpp-tls</stream:features><failure xmlns='x'/>"}},
	{Postgres, "S", "\x00\x00\x00\x08\x04\xd2\x16\x2f", []string{"N", "E"}},
	{MySQL, "\x23\x00\x00\x00\x0a8.4\x00\x01\x00\x00\x0012345678\x00\x00\x8a" + strings.Repeat("\x00", 15),
		"\x20\x00\x00\x01\x00\x8a\x00\x00\x00\x00\x00\x01\x2d" + strings.Repeat("\x00", 23),
		[]string{"\x23\x00\x00\x00\x0a8.4\x00\x01\x00\x00\x0012345678\x00\x00\x02" + strings.Repeat("\x00", 15), "\x05\x00\x00\x00\xff\x10\x04ab", "\x00\x00\x00\x00"}},
}

func TestStartTLSDialogues(t *testing.T) {
	for _, c := range dialogues {
		rest := "\x16\x03\x03"
		peer := &talk{Reader: strings.NewReader(c.yes + rest)}
		if f := startTLS(peer, c.protocol, "a.test"); f != nil {
			t.Errorf("%s: %v", c.protocol, f)
			continue
		}
		if left, _ := io.ReadAll(peer.Reader); string(left) != rest {
			t.Errorf("%s: %q is left for TLS, want %q", c.protocol, left, rest)
		}
		if diff := cmp.Diff(c.said, peer.heard.String()); diff != "" {
			t.Errorf("%s said (-want +got):\n%s", c.protocol, diff)
		}
		for _, no := range c.no {
			if f := startTLS(&talk{Reader: strings.NewReader(no)}, c.protocol, "a.test"); f == nil || f.Class != StartTLSFailed {
				t.Errorf("%s, %q: %v, want a refusal", c.protocol, no, f)
			}
		}
		for n := range len(c.yes) { // cut anywhere
			f := startTLS(&talk{Reader: strings.NewReader(c.yes[:n])}, c.protocol, "a.test")
			if f == nil || f.Class != Reset && f.Class != StartTLSFailed {
				t.Errorf("%s cut after %d: %v", c.protocol, n, f)
			}
		}
	}
}

// A peer that never ends its line or its features must not be read for ever.
func TestStartTLSIsBounded(t *testing.T) {
	for _, c := range dialogues {
		for _, fill := range []string{"a", "* x\r\n", "220-x\r\n", "<a>", "\x30\x82\xff\xff"} {
			peer := &talk{Reader: io.LimitReader(repeat(fill), 1<<20)}
			if f := startTLS(peer, c.protocol, "a.test"); f == nil || f.Class != StartTLSFailed {
				t.Errorf("%s, %q for ever: %v", c.protocol, fill, f)
			}
		}
	}
}

// repeat is an endless reader.
type repeat string

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r[i%len(r)]
	}
	return len(p), nil
}

func FuzzStartTLS(f *testing.F) {
	for i, c := range dialogues {
		f.Add(byte(i), c.yes)
		for _, no := range c.no {
			f.Add(byte(i), no)
		}
	}
	f.Fuzz(func(t *testing.T, which byte, said string) {
		p := Protocols()[1+int(which)%8]
		if f := startTLS(&talk{Reader: strings.NewReader(said)}, p, "a.test"); f != nil && !f.Class.Valid() {
			t.Errorf("%v", f)
		}
	})
}

// The key schedule of RFC 8448 section 3 (simple 1-RTT handshake): the server's
// handshake traffic secret.
func TestHandshakeSecretOfRFC8448(t *testing.T) {
	shared := unhex(t, "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d")
	clientHello := unhex(t, "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7000006130113031302010000910000000b0009000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400230000003300260024001d002099381de560e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c002b0003020304000d0020001e040305030603020308040805080604010501060102010402050206020202002d00020101001c00024001")
	serverHello := unhex(t, "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024001d0020c9828876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304")
	got, err := serverHandshakeSecret(shared, clientHello, serverHello)
	if err != nil {
		t.Fatal(err)
	}
	if want := "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"; hex.EncodeToString(got) != want {
		t.Errorf("secret %x, want %s", got, want)
	}
	sh, ok := parseServerHello(serverHello)
	if !ok || sh.version != 0x304 || sh.group != groupX25519 || sh.retry {
		t.Errorf("%+v, %v", sh, ok)
	}
	if _, err := ecdh.X25519().NewPublicKey(sh.share); err != nil {
		t.Error(err)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzServerHello(f *testing.F) {
	f.Add(unhexSeed("020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024001d0020c9828876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304"))
	f.Add(append([]byte{2, 0, 0, 38, 3, 3}, make([]byte, 36)...))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if sh, ok := parseServerHello(msg); ok && len(sh.share) > len(msg) {
			t.Error("a share out of nowhere")
		}
	})
}

func unhexSeed(s string) []byte { b, _ := hex.DecodeString(s); return b }

func FuzzCertificateMessage(f *testing.F) {
	f.Add([]byte{11, 0, 0, 9, 0, 0, 6, 0, 0, 3, 1, 2, 3}, false)
	f.Add([]byte{11, 0, 0, 12, 0, 0, 0, 8, 0, 0, 3, 1, 2, 3, 0, 0}, true)
	f.Fuzz(func(t *testing.T, msg []byte, tls13 bool) {
		certs, ok := parseCertificate(msg, tls13)
		if ok != (len(certs) > 0) && ok {
			t.Error("success without certificates")
		}
		total := 0
		for _, c := range certs {
			total += len(c)
		}
		if total > len(msg) || len(certs) > maxCerts {
			t.Errorf("%d octets in %d certificates from %d", total, len(certs), len(msg))
		}
	})
}

func FuzzHandshakeReader(f *testing.F) {
	f.Add([]byte{22, 3, 3, 0, 4, 14, 0, 0, 0})
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40})
	f.Add([]byte{20, 3, 3, 0, 1, 1, 22, 3, 3, 0, 2, 2, 0, 22, 3, 3, 0, 2, 0, 0})
	f.Fuzz(func(t *testing.T, stream []byte) {
		h := &handshake{r: bytes.NewReader(stream)}
		for range maxMessages {
			msg, f := h.next()
			if f != nil {
				return
			}
			if len(msg) < 4 || len(msg) > maxMessage {
				t.Errorf("a message of %d octets", len(msg))
			}
		}
	})
}
