package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/testenv"
)

// TestSupervisorIsTold: what Type=notify of the systemd unit waits for.
func TestSupervisorIsTold(t *testing.T) {
	s := &shell{t, t.TempDir()}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.path("notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	told := func() string {
		b := make([]byte, 100)
		if err := socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := socket.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan int, 1)
	var log lockedBuffer
	debug := testenv.FreeAddr(t)
	go func() {
		done <- run(ctx, []string{"dev", "--data", s.path("data"), "--listen", testenv.FreeAddr(t), "--http-listen", testenv.FreeAddr(t), "--debug-listen", debug},
			env{stdout: &log, stderr: &log, environ: []string{"NOTIFY_SOCKET=" + s.path("notify")}})
	}()
	if got := told(); got != "READY=1" {
		t.Errorf("told %q", got)
	}
	// Then it serves; the status of certificates is loaded while it does.
	var out bytes.Buffer
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for askReady(ctx, &out, debug) != nil {
		select {
		case <-tick.C:
			out.Reset()
		case <-time.After(time.Minute):
			t.Fatalf("it does not become ready: %s", &out)
		}
	}
	if !strings.Contains(out.String(), "[+] database") {
		t.Errorf("%s", &out)
	}
	stop()
	if got := told(); got != "STOPPING=1" {
		t.Errorf("told %q", got)
	}
	if code := <-done; code != exitOK {
		t.Errorf("exit %d: %s", code, &log)
	}
	if err := askReady(t.Context(), &out, debug); exitCode(err) != exitRetry {
		t.Errorf("of a server that ended: %v", err)
	}
}

func TestReadyOfOneThatIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "[-] database: gone", http.StatusServiceUnavailable)
	})}
	go srv.Serve(ln)
	defer srv.Close()
	var out bytes.Buffer
	if err := askReady(t.Context(), &out, "unix:"+path); exitCode(err) != exitProblems || !strings.Contains(out.String(), "database: gone") {
		t.Errorf("%v: %s", err, &out)
	}
	if err := askReady(t.Context(), &out, ""); exitCode(err) != exitUsage {
		t.Errorf("without an address: %v", err)
	}
}
