package bench

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// OpenSSLPeer is `openssl ocsp` as a responder for the same serials: an index
// file in memory, a signature for each answer, a connection for each request,
// and as many processes as there are cores. Its authority is its own.
type OpenSSLPeer struct {
	URL     string
	Issuer  *x509.Certificate
	PID     int
	Version string

	cmd  *exec.Cmd
	done chan error
	log  *os.File
}

// OpenOpenSSLPeer writes index, certificate and key into dir, starts the
// responder and waits until it accepts connections.
func OpenOpenSSLPeer(ctx context.Context, dir string, serials []pki.Serial) (_ *OpenSSLPeer, err error) {
	program, err := exec.LookPath("openssl")
	if err != nil {
		return nil, fault.Wrap(err, fault.NotFound, "the program openssl is not installed here, and so cannot be a peer")
	}
	version, err := exec.CommandContext(ctx, program, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("ask openssl for its version: %w", err)
	}
	p := &OpenSSLPeer{Version: string(version[:max(len(version)-1, 0)])}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the peer: %w", err)
	}
	if err := p.writeSigner(filepath.Join(dir, "signer.pem")); err != nil {
		return nil, err
	}
	if err := writeIndex(filepath.Join(dir, "index.txt"), serials, time.Now()); err != nil {
		return nil, err
	}
	// The port is free when it is chosen, and may be somebody's when it is bound.
	// A responder with several processes says why it ended to the system's log only.
	for try := 1; ; try++ {
		addr, err := freeAddress()
		if err != nil {
			return nil, err
		}
		if err = p.start(ctx, program, dir, addr); err == nil {
			return p, nil
		}
		if err = errors.Join(err, p.Close()); !errors.Is(err, errEnded) || try == 3 {
			return nil, err
		}
	}
}

// errEnded means that the peer ended before it accepted a connection.
var errEnded = errors.New("openssl ended")

// start runs the responder at addr and waits until it accepts connections. After
// an error it must still be closed.
func (p *OpenSSLPeer) start(ctx context.Context, program, dir, addr string) (err error) {
	p.URL, p.PID, p.done = "http://"+addr, 0, make(chan error, 1)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if p.log, err = os.Create(filepath.Join(dir, "openssl.log")); err != nil {
		return fmt.Errorf("open log of the peer: %w", err)
	}
	signer := filepath.Join(dir, "signer.pem")
	p.cmd = exec.Command(program, "ocsp", "-index", filepath.Join(dir, "index.txt"), "-port", port, "-CA", signer, "-rsigner", signer, "-rkey", signer,
		"-ndays", "4", "-multi", strconv.Itoa(runtime.NumCPU()))
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = p.log, p.log, dieWithParent()
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start openssl: %w", err)
	}
	p.PID = p.cmd.Process.Pid
	go func() { p.done <- p.cmd.Wait() }()
	return p.listening(ctx, addr)
}

// writeSigner makes the peer's authority: its key signs the answers itself.
func (p *OpenSSLPeer) writeSigner(file string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Peer of a benchmark"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make authority of the peer: %w", err)
	}
	if p.Issuer, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("make authority of the peer: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	return os.WriteFile(file, text, 0o600)
}

// writeIndex writes the database of `openssl ca`: state, end, revocation,
// serial, file and subject, separated by tabs.
func writeIndex(file string, serials []pki.Serial, now time.Time) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write index of the peer: %w", err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	end := now.AddDate(0, 3, 0).UTC().Format("060102150405Z")
	for i, s := range serials {
		fmt.Fprintf(w, "V\t%s\t\t%X\tunknown\t/CN=i%d.seed.example\n", end, []byte(s), i)
	}
	if err := errors.Join(w.Flush(), f.Close(), os.WriteFile(file+".attr", []byte("unique_subject = no\n"), 0o600)); err != nil {
		return fmt.Errorf("write index of the peer: %w", err)
	}
	return nil
}

// listening waits until somebody accepts.
func (p *OpenSSLPeer) listening(ctx context.Context, addr string) error {
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("%w: %v; it said last: %s", errEnded, err, lastLine(p.log.Name()))
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Close ends the responder and its children.
func (p *OpenSSLPeer) Close() error {
	if p.PID == 0 { // it did not start
		return p.log.Close()
	}
	err := syscall.Kill(-p.PID, syscall.SIGTERM)
	if errors.Is(err, syscall.ESRCH) {
		err = nil
	}
	<-p.done // it was told to end: how it does is no error
	return errors.Join(err, p.log.Close())
}
