package bus

import (
	"context"
	"errors"
	"net"

	"github.com/nats-io/nats.go"
)

// Attach opens another connection to the server that b has embedded, as if it
// were another process. cfg is b's.
func (b *Bus) Attach(ctx context.Context) (*Bus, error) {
	if b.server == nil {
		return nil, errors.New("not embedded")
	}
	other, err := connect(b.cfg, b.server, func() {})
	if err != nil {
		return nil, err
	}
	return other, other.Ready(ctx)
}

// Crash ends the connection as if the process had died: nothing is settled,
// handed back or drained.
func (b *Bus) Crash() { b.nc.Close() }

// Lose deletes a stream behind the bus's back.
func (b *Bus) Lose(ctx context.Context, name string) error {
	return b.js.DeleteStream(ctx, b.streamName(name))
}

// LoseConsumer deletes a consumer behind its back.
func (c *Consumer) LoseConsumer(ctx context.Context) error {
	return c.b.js.DeleteConsumer(ctx, c.b.streamName(c.cfg.Stream), c.cfg.Name)
}

// ServerName is the server's name of a stream.
func (b *Bus) ServerName(stream string) string { return b.streamName(stream) }

// Untoken is the inverse of Token.
func Untoken(t string) (string, bool) { return untoken(t) }

// Raw is the connection.
func (b *Bus) Raw() *nats.Conn { return b.nc }

// ListenAddr is where the embedded server listens: nowhere.
func (b *Bus) ListenAddr() net.Addr { return b.server.Addr() }
