package bus

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"chancery/internal/loop"
)

// maintain sets streams and caches up, after each connection and whenever one
// was found missing, until Close.
func (b *Bus) maintain() {
	for failures := 0; ; {
		select {
		case <-b.kick:
		case <-b.ctx.Done():
			return
		}
		err := b.ensure()
		if err == nil {
			failures = 0
			b.setReady(true, nil)
			continue
		}
		b.setReady(false, err)
		if !b.nc.IsConnected() || b.ctx.Err() != nil {
			continue // the next connection kicks
		}
		b.log.Warn("bus is not set up yet", "error", err.Error())
		if reconnect.Sleep(b.ctx, failures) == nil {
			failures++
			loop.Nudge(b.kick)
		}
	}
}

// ensure creates or updates all that is declared.
func (b *Bus) ensure() error {
	for _, s := range b.cfg.Streams {
		if err := b.ensureOne(b.streamConfig(s)); err != nil {
			return err
		}
	}
	for _, c := range b.cfg.Caches {
		if err := b.ensureOne(b.cacheConfig(c)); err != nil {
			return err
		}
	}
	return nil
}

// ensureOne creates or updates one stream.
func (b *Bus) ensureOne(cfg jetstream.StreamConfig) error {
	ctx, cancel := context.WithTimeout(b.connection(), opTimeout)
	defer cancel()
	if _, err := b.js.CreateOrUpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("set up stream %s: %w", cfg.Name, err)
	}
	return nil
}

// streamConfig is a work queue: a message stays until it is settled.
func (b *Bus) streamConfig(s Stream) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{
		Name: b.streamName(s.Name), Subjects: []string{b.subject(s.Name), b.subject(s.Name) + ".>"},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
		MaxBytes: s.maxBytes(), MaxMsgs: -1, MaxConsumers: -1, MaxMsgSize: maxPayload, MaxMsgsPerSubject: -1,
		MaxAge: cmp.Or(s.MaxAge, 24*time.Hour), Duplicates: cmp.Or(s.Dedup, 2*time.Minute),
		Storage: b.storage(), Replicas: b.replicas(), AllowDirect: true,
	}
	// The server wants a window of duplicates no longer than the life of a message.
	cfg.Duplicates = min(cfg.Duplicates, cfg.MaxAge)
	if s.Unique {
		cfg.MaxMsgsPerSubject, cfg.DiscardNewPerSubject = 1, true
	}
	return cfg
}

// maxBytes is the bound of the stream.
func (s Stream) maxBytes() int64 { return cmp.Or(s.MaxBytes, 64<<20) }

// stream finds a declared stream.
func (b *Bus) stream(name string) (Stream, bool) {
	for _, s := range b.cfg.Streams {
		if s.Name == name {
			return s, true
		}
	}
	return Stream{}, false
}

// storage is memory in the process, and disk where there are disks: the
// streams of an external server survive its restart.
func (b *Bus) storage() jetstream.StorageType {
	if b.server != nil {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

// replicas is how many copies a stream has.
func (b *Bus) replicas() int {
	switch {
	case b.cfg.Replicas > 0:
		return b.cfg.Replicas
	case b.nc.ConnectedClusterName() != "":
		return 3
	}
	return 1
}

// streamName is the server's name of a stream.
func (b *Bus) streamName(name string) string { return b.cfg.Prefix + "_" + name }

// subject is the server's name of a subject.
func (b *Bus) subject(s string) string { return b.cfg.Prefix + "." + s }

// own is the inverse of subject.
func (b *Bus) own(subject string) string { return subject[min(len(subject), len(b.cfg.Prefix)+1):] }
