package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chancery/internal/fault"
)

// tellSystemd says how the process is to the supervisor that asked for it, by
// the protocol of sd_notify(3): one datagram.
func tellSystemd(e env, log *slog.Logger, state string) {
	path := e.getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if err := sendDatagram(path, state); err != nil {
		log.Warn("the supervisor was not told", "state", state, "error", err)
	}
}

func sendDatagram(path, text string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@" begins an abstract name
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(text))
	return err
}

// readyTime is how long the check of readiness may take; the server answers
// within a second.
const readyTime = 3 * time.Second

// doctorReady is `chancery doctor ready`.
func doctorReady(e env, f *doctorFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ready",
		Short: "Ask the server on this machine whether it can serve",
		Long: `Ask the server of the configuration, on its server.debug_listen, whether it can
serve: each check with its verdict. It is the health check of containers, where
there is no shell. Exit 3 when a check fails, 75 when nothing answers.`,
		Example: `  chancery doctor ready --config /etc/chancery/chancery.toml`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := f.load(e)
			if err != nil {
				return err
			}
			return askReady(cmd.Context(), e.stdout, cfg.Server.DebugListen)
		},
	}
}

// askReady prints the verdicts of the server on a debug address.
func askReady(ctx context.Context, w io.Writer, addr string) error {
	if addr == "" {
		return usagef("the configuration has no server.debug_listen to ask")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	network, path, isUnix := "tcp", addr, false
	if path, isUnix = strings.CutPrefix(addr, "unix:"); isUnix {
		network = "unix"
	} else if host, port, err := net.SplitHostPort(addr); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		path = net.JoinHostPort("127.0.0.1", port)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, path)
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/readyz", nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "the server does not answer on %s", addr)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read verdicts: %w", err)
	}
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("print verdicts: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return problems("", "the server is not ready")
	}
	return nil
}
