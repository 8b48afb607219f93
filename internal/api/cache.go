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

// For so long what follows the inventory may be answered from memory after a
// change elsewhere.
const (
	listingLag = 250 * time.Millisecond
	countsLag  = time.Second
)

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

// remembered returns a version that is at most stampTTL old, if there is one,
// and the epoch.
func (s *stamp) remembered(now time.Time) (total int64, ok bool, epoch int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, now.Before(s.until), s.epoch
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
// is remembered is used for the version that the database has now, and for lag
// after it was made: what follows the inventory comes there a little later
// anyway, and counts cost most. A change that was made through this replica is
// never younger than what it answers.
func (s *Server) conditional(w http.ResponseWriter, r *http.Request, m *memory, lag time.Duration, handle func(http.ResponseWriter)) {
	at, key := now(), r.URL.Path+"?"+r.URL.RawQuery
	w.Header().Set("Cache-Control", "private, no-cache")
	total, known, epoch := m.stamp.remembered(at)
	etag, tags := etagOf(total, at), r.Header.Values("If-None-Match")
	if known = known && hasTag(tags, etag); !known && lag > 0 {
		if old, ok := m.bodies.recent(key, epoch, at.Add(-lag)); ok {
			etag, known = old, true
		}
	}
	if !known {
		total, err := m.stamp.read(r.Context(), m.version, at)
		if err != nil { // the list itself will say what is wrong, or work
			s.log.LogAttrs(r.Context(), slog.LevelWarn, "version of the list is unknown", slog.Any("error", err))
			handle(w)
			return
		}
		etag = etagOf(total, at)
	}
	w.Header().Set("ETag", etag)
	if hasTag(tags, etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.fromMemory(w, r, m, key, etag, epoch, handle)
}

// fromMemory answers with what the same request was answered before, if
// nothing has changed since. Of several that ask at once, one does the work.
func (s *Server) fromMemory(w http.ResponseWriter, r *http.Request, m *memory, key, etag string, epoch int64, handle func(http.ResponseWriter)) {
	body, busy, done := m.bodies.get(etag, key)
	if busy != nil {
		select {
		case <-busy:
		case <-r.Context().Done():
			return
		}
		body, _, done = m.bodies.get(etag, key)
	}
	if body != nil {
		w.Header().Set("Content-Type", "application/json")
		if _, err := w.Write(body); err != nil {
			s.log.Debug("answer was not sent", "error", err)
		}
		return
	}
	if done != nil {
		defer done()
	}
	rec := &recorder{ResponseWriter: w}
	handle(rec)
	if rec.status == http.StatusOK && !rec.tooLong {
		m.bodies.put(etag, key, rec.body, epoch, now())
	}
}

// Bounds of the memory of answers: 128 of at most 128 KiB.
const (
	maxBodies    = 128
	maxBodyBytes = 128 << 10
)

// bodies remembers answers.
type bodies struct {
	mu    sync.Mutex
	byKey map[string]answer
	busy  map[string]chan struct{} // closed when the one who makes the answer is done
}

// answer is what a request was answered.
type answer struct {
	etag  string
	body  []byte
	epoch int64 // of the stamp, before it was made
	at    time.Time
}

// recent returns the tag of an answer that was made after since, and before any
// change through this replica that is younger.
func (b *bodies) recent(key string, epoch int64, since time.Time) (etag string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.byKey[key]
	return a.etag, a.body != nil && a.epoch == epoch && a.at.After(since)
}

// get returns an answer; or busy, which is closed when somebody else has made
// it; or done, to be called by the caller who has.
func (b *bodies) get(etag, key string) (body []byte, busy <-chan struct{}, done func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.byKey[key]; a.etag == etag {
		return a.body, nil, nil
	}
	one := etag + key
	if c := b.busy[one]; c != nil {
		return nil, c, nil
	}
	c := make(chan struct{})
	if b.busy == nil {
		b.busy = map[string]chan struct{}{}
	}
	b.busy[one] = c
	return nil, nil, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.busy, one)
		close(c)
	}
}

func (b *bodies) put(etag, key string, body []byte, epoch int64, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byKey == nil || len(b.byKey) >= maxBodies && b.byKey[key].body == nil {
		b.byKey = map[string]answer{}
	}
	b.byKey[key] = answer{etag, body, epoch, at}
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

// settling is the answer to a change: whoever has seen the beginning of it must
// not be shown a list from before.
type settling struct {
	http.ResponseWriter
	reset func()
}

// Unwrap lets http.ResponseController reach the connection.
func (s *settling) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (s *settling) WriteHeader(status int) {
	s.reset()
	s.ResponseWriter.WriteHeader(status)
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
