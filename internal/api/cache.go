package api

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/token"
)

// tokenTTL is how long a replica may go on believing in a token that another
// one has revoked. Where it was revoked, it ends at once.
const tokenTTL = 2 * time.Second

// tokenCacheMax bounds the cache; beyond it, it starts anew.
const tokenCacheMax = 4096

// tokenCache remembers tokens that were verified, so that a poll costs no SQL.
// Only good ones are kept: strangers cannot fill it.
type tokenCache struct {
	ttl time.Duration // set once

	mu    sync.Mutex
	known map[[sha256.Size]byte]knownToken // by the hash of the token's text
	epoch int64                            // grows with forget
}

// knownToken is a token and until when it is believed without a look.
type knownToken struct {
	token token.Token
	until time.Time
}

// verify is token.Verify with a memory.
func (c *tokenCache) verify(ctx context.Context, d *db.DB, text string, now time.Time) (token.Token, error) {
	key := sha256.Sum256([]byte(text))
	c.mu.Lock()
	k, ok := c.known[key]
	epoch := c.epoch
	c.mu.Unlock()
	if ok && now.Before(k.until) && k.token.Live(now) {
		return k.token, nil
	}
	t, err := token.Verify(ctx, d.Read(), text, now)
	if err != nil {
		return t, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch { // a token was revoked meanwhile, perhaps this one
		return t, nil
	}
	if c.known == nil || len(c.known) >= tokenCacheMax {
		c.known = map[[sha256.Size]byte]knownToken{}
	}
	c.known[key] = knownToken{t, now.Add(c.ttl)}
	return t, nil
}

// forget makes every token be looked up again.
func (c *tokenCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = nil
	c.epoch++
}

// stampTTL is how long a replica may answer 304 after a change that was not
// made through it.
const stampTTL = 250 * time.Millisecond

// feed is a sequence of changes that lists depend on.
type feed string

// Feeds.
const (
	journalFeed     feed = "journal"
	certificateFeed feed = "certificates" // of the inventory
	endpointFeed    feed = "endpoints"    // of the inventory
)

// memory is what a replica remembers of the lists that follow one feed.
type memory struct {
	version func(context.Context) (int64, error)
	stamp   stamp
	bodies  bodies
}

func (s *Server) newFeeds() map[feed]*memory {
	return map[feed]*memory{
		journalFeed:     {version: func(ctx context.Context) (int64, error) { return audit.Total(ctx, s.cfg.DB.Read()) }},
		certificateFeed: {version: func(ctx context.Context) (int64, error) { return s.cfg.Inventory.Version(ctx) }},
		endpointFeed:    {version: func(ctx context.Context) (int64, error) { return s.cfg.Inventory.EndpointVersion(ctx) }},
	}
}

// resetFeeds makes the next list look for its version.
func (s *Server) resetFeeds() {
	for _, m := range s.feeds {
		m.stamp.reset()
	}
}

// stamp remembers the version of a feed, so that a 304 costs no SQL.
type stamp struct {
	mu    sync.Mutex
	total int64
	until time.Time
	epoch int64 // grows with reset
}

// remembered returns a version that is at most stampTTL old, if there is one.
func (s *stamp) remembered(now time.Time) (total int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, now.Before(s.until)
}

// read returns the version as it is now.
func (s *stamp) read(ctx context.Context, version func(context.Context) (int64, error), now time.Time) (int64, error) {
	s.mu.Lock()
	epoch := s.epoch
	s.mu.Unlock()
	total, err := version(ctx)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.total, s.until = total, now.Add(stampTTL)
	}
	return total, nil
}

// reset makes the next read look.
func (s *stamp) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
	s.epoch++
}

// etagOf is the entity tag of every list at a version. It changes every minute,
// too: certificates expire without anybody doing anything.
func etagOf(total int64, at time.Time) string {
	return `W/"` + strconv.FormatInt(total, 36) + "-" + strconv.FormatInt(at.Unix()/60, 36) + `"`
}

// conditional answers a list: with 304, from memory, or by its handler. What
// is remembered is only used for the version that the database has now.
func (s *Server) conditional(w http.ResponseWriter, r *http.Request, m *memory, handle func(http.ResponseWriter)) {
	at := now()
	h := w.Header()
	h.Set("Cache-Control", "private, no-cache")
	if tags := r.Header.Values("If-None-Match"); len(tags) > 0 {
		if total, ok := m.stamp.remembered(at); ok && hasTag(tags, etagOf(total, at)) {
			h.Set("ETag", etagOf(total, at))
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	total, err := m.stamp.read(r.Context(), m.version, at)
	if err != nil { // the list itself will say what is wrong, or work
		s.log.LogAttrs(r.Context(), slog.LevelWarn, "version of the list is unknown", slog.Any("error", err))
		handle(w)
		return
	}
	etag := etagOf(total, at)
	h.Set("ETag", etag)
	if hasTag(r.Header.Values("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.fromMemory(w, m, r.URL.Path+"?"+r.URL.RawQuery, etag, handle)
}

// fromMemory answers with what the same request was answered before, if
// nothing has changed since.
func (s *Server) fromMemory(w http.ResponseWriter, m *memory, key, etag string, handle func(http.ResponseWriter)) {
	if body := m.bodies.get(etag, key); body != nil {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(body); err != nil {
			s.log.Debug("answer was not sent", "error", err)
		}
		return
	}
	rec := &recorder{ResponseWriter: w}
	handle(rec)
	if rec.status == http.StatusOK && !rec.tooLong {
		m.bodies.put(etag, key, rec.body)
	}
}

// Bounds of the memory of answers: 128 of at most 128 KiB.
const (
	maxBodies    = 128
	maxBodyBytes = 128 << 10
)

// bodies remembers answers of the newest version.
type bodies struct {
	mu    sync.Mutex
	etag  string
	byKey map[string][]byte
}

func (b *bodies) get(etag, key string) []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.etag != etag {
		return nil
	}
	return b.byKey[key]
}

func (b *bodies) put(etag, key string, body []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.etag != etag || len(b.byKey) >= maxBodies {
		b.etag, b.byKey = etag, map[string][]byte{}
	}
	b.byKey[key] = body
}

// recorder keeps what is written.
type recorder struct {
	http.ResponseWriter
	status  int
	body    []byte
	tooLong bool
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if r.tooLong = r.tooLong || len(r.body)+len(b) > maxBodyBytes; !r.tooLong {
		r.body = append(r.body, b...)
	}
	return r.ResponseWriter.Write(b)
}

// hasTag implements If-None-Match (RFC 9110 section 13.1.2) for tags without
// commas, as ours are.
func hasTag(headers []string, etag string) bool {
	want := strings.TrimPrefix(etag, "W/")
	for _, h := range headers {
		for tag := range strings.SplitSeq(h, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == want {
				return true
			}
		}
	}
	return false
}
