package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/fault"
	"chancery/internal/loop"
)

// CacheSpec declares a cache shared by all replicas (a second level: the first
// is in each process).
type CacheSpec struct {
	Name string

	// TTL ends values. 0: 1 h.
	TTL time.Duration

	// MaxBytes bounds keys and values together; the oldest give way.
	// 0: 32 MiB.
	MaxBytes int64
}

// cacheTimeout bounds one look-up. A cache that is slower than what it saves
// is no cache.
const cacheTimeout = 500 * time.Millisecond

// maxKey bounds the encoded key.
const maxKey = 400

// Cache is a handle on a declared cache. Keys may hold any bytes, up to about
// 130 of them, or 400 if they are letters, digits, "-" and "_".
type Cache struct {
	b                 *Bus
	name              string
	stream, pre       string
	hit, miss, failed prometheus.Counter
}

// Change is what a watcher of a cache sees.
type Change struct {
	Key     string
	Value   []byte
	Deleted bool
	Missed  bool // changes may have been lost, of any key: see Hint.Missed
}

// headers by which the server's key-value convention marks deletions, kept so
// that the usual tools can read our caches.
const (
	kvOperation = "KV-Operation"
	kvDelete    = "DEL"
)

// maxBytes is the bound of the cache.
func (s CacheSpec) maxBytes() int64 { return cmp.Or(s.MaxBytes, 32<<20) }

// cacheStream is the name of a cache's stream: that of a key-value bucket.
func (b *Bus) cacheStream(name string) string { return "KV_" + b.cfg.Prefix + "_" + name }

// cachePrefix begins the subjects of a cache.
func (b *Bus) cachePrefix(name string) string { return "$KV." + b.cfg.Prefix + "_" + name + "." }

// cacheConfig is a key-value bucket, but one that makes room by dropping the
// oldest, where a bucket would refuse. It is in memory, on disk it would be no
// faster than the database.
func (b *Bus) cacheConfig(s CacheSpec) jetstream.StreamConfig {
	ttl := cmp.Or(s.TTL, time.Hour)
	return jetstream.StreamConfig{
		Name: b.cacheStream(s.Name), Subjects: []string{b.cachePrefix(s.Name) + ">"},
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld, MaxMsgsPerSubject: 1,
		MaxBytes: s.maxBytes(), MaxMsgs: -1, MaxConsumers: -1, MaxMsgSize: maxPayload, MaxAge: ttl, Duplicates: min(ttl, 2*time.Minute),
		Storage: jetstream.MemoryStorage, Replicas: b.replicas(), AllowDirect: true, AllowRollup: true, DenyDelete: true,
	}
}

// Cache returns a declared cache.
func (b *Bus) Cache(name string) (*Cache, error) {
	for _, s := range b.cfg.Caches {
		if s.Name == name {
			outcome := func(o string) prometheus.Counter { return b.m.cache.WithLabelValues(name, o) }
			return &Cache{b, name, b.cacheStream(name), b.cachePrefix(name), outcome("hit"), outcome("miss"), outcome("failed")}, nil
		}
	}
	return nil, fmt.Errorf("cache %q is not declared", name)
}

// subject is where a key lives.
func (c *Cache) subject(key string) (string, error) {
	token := Token(key)
	if token == "" || len(token) > maxKey {
		return "", fmt.Errorf("cache %s: key of %d bytes", c.name, len(key))
	}
	return c.pre + token, nil
}

// Get returns the value of key. Absence is normal and has many reasons, so
// none is given: never stored, expired, made room for others, no connection.
func (c *Cache) Get(ctx context.Context, key string) (value []byte, ok bool) {
	subject, err := c.subject(key)
	if err != nil || !c.b.nc.IsConnected() {
		c.failed.Inc()
		return nil, false
	}
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	// The direct API: any replica answers, with the value as it is.
	m, err := c.b.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+c.stream+"."+subject, nil)
	switch {
	case err != nil:
		if errors.Is(err, nats.ErrNoResponders) {
			loop.Nudge(c.b.kick)
		}
		c.failed.Inc()
		return nil, false
	case m.Header.Get("Status") != "" || m.Header.Get(kvOperation) != "":
		c.miss.Inc()
		return nil, false
	}
	c.hit.Inc()
	return m.Data, true
}

// Put stores a value until its TTL ends, at the longest. An error may be
// ignored: the value is then likely absent, or an older one.
func (c *Cache) Put(ctx context.Context, key string, value []byte) error {
	return c.write(ctx, key, &nats.Msg{Data: value})
}

// Delete forgets a value. Others may read it until Delete returns nil; if it
// returns an error, for as long as the TTL: the caller tries again.
func (c *Cache) Delete(ctx context.Context, key string) error {
	return c.write(ctx, key, &nats.Msg{Header: nats.Header{kvOperation: {kvDelete}}})
}

// write stores a value or the mark of a deletion.
func (c *Cache) write(ctx context.Context, key string, m *nats.Msg) error {
	var err error
	if m.Subject, err = c.subject(key); err != nil {
		return fault.Wrap(err, fault.Invalid, "the key of a cached value is empty or too long")
	}
	ctx, cancel := c.b.bound(ctx)
	defer cancel()
	_, err = c.b.js.PublishMsg(ctx, m, jetstream.WithRetryAttempts(0))
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		loop.Nudge(c.b.kick)
	case ctx.Err() != nil:
		err = errors.Join(err, context.Cause(ctx))
	}
	return publishError(c.name, len(m.Data), err)
}

// Watch calls fn for each Put and Delete by any replica, this one included,
// until ctx ends, with the guarantees of a hint. Values that end by their TTL
// or make room are not reported. fn must be quick.
func (c *Cache) Watch(ctx context.Context, fn func(Change)) error {
	return c.b.watch(ctx, c.pre+"*", "cache "+c.name, func(m *nats.Msg) {
		if key, ok := untoken(m.Subject[len(c.pre):]); ok {
			fn(Change{Key: key, Value: m.Data, Deleted: m.Header.Get(kvOperation) != ""})
		}
	}, func() { fn(Change{Missed: true}) })
}
