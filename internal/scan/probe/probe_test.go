package probe_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/scan/probe"
)

// certificate returns a self-signed certificate for the key, whose handshakes
// are signed by signer.
func certificate(t testing.TB, key, signer crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(7), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer}
}

func ecKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rsaKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// listen serves each connection with handle and returns an Open for it.
func listen(t testing.TB, handle func(net.Conn)) probe.Open {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); handle(c) }()
		}
	}()
	d := probe.NewDialer(probe.NewTokens(2, time.Second), time.Second, 300*time.Millisecond)
	addr := netip.MustParseAddrPort(l.Addr().String())
	return func() (*probe.Conn, *probe.Failure) { return d.Dial(context.Background(), addr) }
}

// server speaks TLS.
func server(t testing.TB, cfg *tls.Config) probe.Open {
	return listen(t, func(c net.Conn) {
		conn := tls.Server(c, cfg)
		if conn.Handshake() == nil {
			io.Copy(io.Discard, conn)
		}
	})
}

// with runs one probe on a new connection.
func with(t testing.TB, open probe.Open, run func(*probe.Conn, string) (*probe.Peer, *probe.Failure)) (*probe.Peer, *probe.Failure) {
	t.Helper()
	c, f := open()
	if f != nil {
		return nil, f
	}
	defer c.Close()
	return run(c, "a.test")
}

func TestObserveProvesTheKey(t *testing.T) {
	o := probe.NewObserver(time.Now)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		cert := certificate(t, rsaKey(t), nil)
		cert.PrivateKey = rsaKey(t) // signs with another key than the certificate's
		honest := rsaKey(t)
		good := certificate(t, honest, honest)
		for _, c := range []struct {
			cert   tls.Certificate
			proven bool
		}{{good, true}, {cert, false}} {
			p, f := with(t, server(t, &tls.Config{Certificates: []tls.Certificate{c.cert}, MinVersion: version, MaxVersion: version}), o.Observe)
			if p == nil || p.Proven != c.proven || (f == nil) != c.proven || p.Version != version {
				t.Errorf("version %x, honest %v: %+v, %v", version, c.proven, p, f)
				continue
			}
			if diff := cmp.Diff(c.cert.Certificate[0], p.Certs[0].Raw); diff != "" {
				t.Errorf("certificate (-want +got):\n%s", diff)
			}
		}
	}
}

// RFC 8446 section 4.4.2.4: the server gives up, but has shown its own first.
func TestMutualTLSIsNoFailure(t *testing.T) {
	key := ecKey(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := &tls.Config{Certificates: []tls.Certificate{certificate(t, key, key)}, MaxVersion: version, ClientAuth: tls.RequireAnyClientCert}
		p, f := with(t, server(t, cfg), probe.NewObserver(time.Now).Observe)
		if f != nil || !p.ClientAuth || !p.Proven {
			t.Errorf("version %x: %+v, %v", version, p, f)
		}
	}
}

func TestObserveWithoutX25519(t *testing.T) {
	key := ecKey(t)
	cfg := &tls.Config{Certificates: []tls.Certificate{certificate(t, key, key)}, CurvePreferences: []tls.CurveID{tls.CurveP384}}
	p, f := with(t, server(t, cfg), probe.NewObserver(time.Now).Observe)
	if f != nil || p.Group != tls.CurveP384 {
		t.Errorf("%+v, %v", p, f)
	}
}

func TestFetchStopsAtTheCertificate(t *testing.T) {
	key := ecKey(t)
	cert := certificate(t, key, key)
	finished := make(chan error, 1)
	open := listen(t, func(c net.Conn) {
		finished <- tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	})
	p, f := with(t, open, probe.Fetch)
	if f != nil || p.Proven || p.Version != tls.VersionTLS12 {
		t.Fatalf("%+v, %v", p, f)
	}
	if diff := cmp.Diff(cert.Certificate, p.Raw); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
	if err := <-finished; err == nil {
		t.Error("the handshake was finished")
	}
}

// A server without TLS 1.2 encrypts its certificate.
func TestFetchAnyReadsTLS13(t *testing.T) {
	for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequireAnyClientCert} {
		key := ecKey(t)
		cert := certificate(t, key, key)
		open := server(t, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, ClientAuth: auth})
		if _, f := with(t, open, probe.Fetch); !f.NeedsAny() {
			t.Errorf("fetch: %v, want an alert that FetchAny can cure", f)
		}
		p, f := with(t, open, probe.FetchAny)
		if f != nil || p.Version != tls.VersionTLS13 || p.ClientAuth != (auth != tls.NoClientCert) {
			t.Fatalf("%+v, %v", p, f)
		}
		if diff := cmp.Diff(cert.Certificate, p.Raw); diff != "" {
			t.Errorf("certificates (-want +got):\n%s", diff)
		}
	}
}

func TestDualFindsBothCertificates(t *testing.T) {
	ec, rs := ecKey(t), rsaKey(t)
	ecCert, rsaCert := certificate(t, ec, ec), certificate(t, rs, rs)
	for name, c := range map[string]struct {
		certs      []tls.Certificate
		ecdsa, rsa [][]byte
	}{
		"both":       {[]tls.Certificate{ecCert, rsaCert}, ecCert.Certificate, rsaCert.Certificate},
		"ECDSA only": {[]tls.Certificate{ecCert}, ecCert.Certificate, nil},
		"RSA only":   {[]tls.Certificate{rsaCert}, nil, rsaCert.Certificate},
	} {
		for _, versions := range [][2]uint16{{tls.VersionTLS10, tls.VersionTLS12}, {tls.VersionTLS12, tls.VersionTLS13}, {tls.VersionTLS13, tls.VersionTLS13}} {
			open := server(t, &tls.Config{Certificates: c.certs, MinVersion: versions[0], MaxVersion: versions[1]})
			got, f := probe.Dual(open, "a.test")
			if f != nil {
				t.Fatalf("%s %x: %v", name, versions, f)
			}
			if diff := cmp.Diff(probe.Duals{ECDSA: c.ecdsa, RSA: c.rsa}, got); diff != "" {
				t.Errorf("%s %x (-want +got):\n%s", name, versions, diff)
			}
		}
	}
}

func TestFeatures(t *testing.T) {
	key := ecKey(t)
	cert := []tls.Certificate{certificate(t, key, key)}
	for name, c := range map[string]struct {
		cfg  *tls.Config
		want probe.Support
	}{
		"current": {&tls.Config{}, probe.Support{Versions: []uint16{tls.VersionTLS12, tls.VersionTLS13}, Hybrid: uint16(tls.X25519MLKEM768)}},
		"classic": {&tls.Config{CurvePreferences: []tls.CurveID{tls.X25519}}, probe.Support{Versions: []uint16{tls.VersionTLS12, tls.VersionTLS13}}},
		"old":     {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12}, probe.Support{Versions: []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12}}},
		"new":     {&tls.Config{MinVersion: tls.VersionTLS13}, probe.Support{Versions: []uint16{tls.VersionTLS13}, Hybrid: uint16(tls.X25519MLKEM768)}},
	} {
		c.cfg.Certificates = cert
		got, f := probe.Features(server(t, c.cfg), "a.test")
		if f != nil {
			t.Errorf("%s: %v", name, f)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestFailureClasses(t *testing.T) {
	const alertProtocolVersion = 70
	answer := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 2048))
			io.WriteString(c, text)
			io.Copy(io.Discard, c)
		}
	}
	for name, c := range map[string]struct {
		handle func(net.Conn)
		class  probe.Class
		alert  uint8
	}{
		"http":      {answer("HTTP/1.1 400 Bad Request\r\n\r\n"), probe.NotTLS, 0},
		"alert":     {answer("\x15\x03\x03\x00\x02\x02\x46"), probe.Alert, alertProtocolVersion},
		"silence":   {func(c net.Conn) { io.Copy(io.Discard, c) }, probe.TimeoutTLS, 0},
		"half":      {answer("\x16\x03\x03\x10\x00\x02"), probe.TimeoutTLS, 0},
		"closed":    {func(net.Conn) {}, probe.Reset, 0},
		"reset":     {func(c net.Conn) { c.Read(make([]byte, 1)); c.(*net.TCPConn).SetLinger(0) }, probe.Reset, 0},
		"nonsense":  {answer("\x16\x03\x03\x00\x05\x0e\x00\x00\x01\x00"), probe.BadTLS, 0},
		"too large": {answer("\x16\x03\x03\xff\xff" + string(make([]byte, 0xffff))), probe.BadTLS, 0},
	} {
		open := listen(t, c.handle)
		for kind, run := range map[string]func(*probe.Conn, string) (*probe.Peer, *probe.Failure){
			"observe": probe.NewObserver(time.Now).Observe, "fetch": probe.Fetch, "fetch any": probe.FetchAny,
		} {
			_, f := with(t, open, run)
			if f == nil || f.Class != c.class || f.Alert != c.alert {
				t.Errorf("%s, %s: %v, want %s", name, kind, f, c.class)
			}
		}
	}
}

func TestCancelEndsAConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	d := probe.NewDialer(probe.NewTokens(1, time.Second), time.Second, time.Hour)
	c, f := d.Dial(ctx, netip.MustParseAddrPort(l.Addr().String()))
	if f != nil {
		t.Fatal(f)
	}
	defer c.Close()
	context.AfterFunc(ctx, func() {})
	go cancel()
	if _, f := probe.NewObserver(time.Now).Observe(c, ""); f == nil || f.Class != probe.Canceled {
		t.Errorf("%v, want canceled", f)
	}
}
