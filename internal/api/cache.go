package api

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
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

// stampTTL is how long a replica may answer 304 after a change made elsewhere.
// Changes made through this server count at once.
const stampTTL = 250 * time.Millisecond

// stamp remembers the version of the journal, so that a 304 costs no SQL.
type stamp struct {
	mu      sync.Mutex
	version string
	until   time.Time
	epoch   int64 // grows with reset
}

// read returns the version, at most stampTTL old.
func (s *stamp) read(ctx context.Context, q db.Q, now time.Time) (string, error) {
	s.mu.Lock()
	version, until, epoch := s.version, s.until, s.epoch
	s.mu.Unlock()
	if now.Before(until) {
		return version, nil
	}
	version, err := audit.Version(ctx, q)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == epoch {
		s.version, s.until = version, now.Add(stampTTL)
	}
	return version, nil
}

// reset makes the next read look.
func (s *stamp) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = time.Time{}
	s.epoch++
}

// unchanged sets the entity tag of a conditional operation and reports whether
// it has answered 304. The tag changes with the journal and every minute:
// certificates expire without anybody doing anything.
func (s *Server) unchanged(w http.ResponseWriter, r *http.Request) bool {
	at := now()
	version, err := s.stamp.read(r.Context(), s.cfg.DB.Read(), at)
	if err != nil { // the list itself will say what is wrong, or work
		s.log.LogAttrs(r.Context(), slog.LevelWarn, "journal version is unknown", slog.Any("error", err))
		return false
	}
	etag := fmt.Sprintf(`W/"%s-%d"`, version, at.Unix()/60)
	h := w.Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "private, no-cache")
	if !hasTag(r.Header.Values("If-None-Match"), etag) {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
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
