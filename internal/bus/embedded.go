package bus

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
)

// maxPayload bounds one message, embedded and external alike (it is the
// default of the server).
const maxPayload = 1 << 20

// embedded is a server inside this process.
type embedded struct {
	srv *server.Server
	dir string // its own; removed at the end
}

// startEmbedded starts a server that listens on nothing. Its streams are in
// memory; dir is still needed because JetStream insists on one.
func startEmbedded(parent string, memory int64, log *slog.Logger) (*embedded, error) {
	if parent != "" {
		if err := os.MkdirAll(parent, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of the bus: %w", err)
		}
	}
	dir, err := os.MkdirTemp(parent, "chancery-bus-")
	if err != nil {
		return nil, fmt.Errorf("make directory of the bus: %w", err)
	}
	e := &embedded{dir: dir}
	e.srv, err = server.NewServer(&server.Options{
		ServerName: "embedded", DontListen: true, NoSigs: true, MaxPayload: maxPayload,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: memory, JetStreamMaxStore: 1 << 20,
		DisableJetStreamBanner: true, DisableShortFirstPing: true,
	})
	if err != nil {
		e.stop()
		return nil, fmt.Errorf("configure embedded bus: %w", err)
	}
	trace := log.Enabled(context.Background(), slog.LevelDebug)
	e.srv.SetLoggerV2(serverLog{log}, trace, false, false)
	e.srv.Start()
	if !e.srv.JetStreamEnabled() {
		e.stop()
		return nil, fmt.Errorf("start embedded bus: JetStream did not start in %s; the log has the reason", dir)
	}
	return e, nil
}

// stop ends the server and removes its directory.
func (e *embedded) stop() {
	if e.srv != nil {
		e.srv.Shutdown()
		e.srv.WaitForShutdown()
	}
	// What cannot be removed is an empty directory among temporary files.
	_ = os.RemoveAll(e.dir)
}

// serverLog writes the server's lines to our log. The server reports its own
// life in notices, which say little to our users: they are debug lines here.
type serverLog struct{ log *slog.Logger }

// write logs one line of the server.
func (l serverLog) write(level slog.Level, format string, args []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "bus server", "text", strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

// Noticef implements server.Logger.
func (l serverLog) Noticef(format string, args ...any) { l.write(slog.LevelDebug, format, args) }

// Warnf implements server.Logger.
func (l serverLog) Warnf(format string, args ...any) { l.write(slog.LevelWarn, format, args) }

// Fatalf implements server.Logger. It does not end the process: Open finds out
// that the server did not start.
func (l serverLog) Fatalf(format string, args ...any) { l.write(slog.LevelError, format, args) }

// Errorf implements server.Logger.
func (l serverLog) Errorf(format string, args ...any) { l.write(slog.LevelError, format, args) }

// Debugf implements server.Logger.
func (l serverLog) Debugf(format string, args ...any) { l.write(slog.LevelDebug, format, args) }

// Tracef implements server.Logger.
func (l serverLog) Tracef(string, ...any) {}
