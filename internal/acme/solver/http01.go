package solver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// challengePath is where a CA asks (RFC 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// HTTP answers http-01 challenges of all orders at one place: as a handler, or
// by files below a web server's root. No server is ever reloaded for it.
//
// The answer to a token follows from the token and the account's key alone, so
// a token that is not known here is answered as well as long as there is only
// one account: another replica may have asked for it, behind the same name.
type HTTP struct {
	webroot string

	mu       sync.RWMutex
	tokens   map[string]token
	accounts map[string]bool // thumbprints
}

type token struct {
	keyAuthorization string
	refs             int
}

// NewHTTP returns a responder. webroot is a directory that a web server serves
// as "/" for all names, or "" to serve as a handler only. thumbprints are those
// of accounts that are known already (RFC 7638).
func NewHTTP(webroot string, thumbprints ...string) *HTTP {
	h := &HTTP{webroot: webroot, tokens: map[string]token{}, accounts: map[string]bool{}}
	for _, t := range thumbprints {
		h.accounts[t] = true
	}
	return h
}

// Add makes a response visible until the returned function is called as often
// as Add was.
func (h *HTTP) Add(name, keyAuthorization string) (func(), error) {
	if !isToken(name) || !strings.HasPrefix(keyAuthorization, name+".") {
		return nil, errors.New("present http-01: malformed token or key authorization")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tokens[name]
	if t.refs == 0 && h.webroot != "" {
		if err := h.write(name, keyAuthorization); err != nil {
			return nil, err
		}
	}
	h.tokens[name] = token{keyAuthorization, t.refs + 1}
	h.accounts[strings.TrimPrefix(keyAuthorization, name+".")] = true
	return sync.OnceFunc(func() { h.drop(name) }), nil
}

func (h *HTTP) drop(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.tokens[name]
	if t.refs--; t.refs > 0 {
		h.tokens[name] = t
		return
	}
	delete(h.tokens, name)
	if h.webroot != "" {
		os.Remove(h.file(name)) // one that stays does no harm
	}
}

func (h *HTTP) file(name string) string {
	return filepath.Join(h.webroot, filepath.FromSlash(challengePath), name)
}

// write puts a response into the web server's tree in one step.
func (h *HTTP) write(name, text string) error {
	path := h.file(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("present http-01: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("present http-01: %w", err)
	}
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("present http-01: %w", err)
	}
	return nil
}

// ServeHTTP answers a CA.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, challengePath)
	answer := ""
	if ok && isToken(name) && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		answer = h.answer(name)
	}
	if answer == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	io.WriteString(w, answer)
}

func (h *HTTP) answer(name string) string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if t, ok := h.tokens[name]; ok {
		return t.keyAuthorization
	}
	if len(h.accounts) == 1 {
		for thumb := range h.accounts {
			return name + "." + thumb
		}
	}
	return ""
}

// Server returns a server for the responder alone, for port 80.
func (h *HTTP) Server() *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10}
}

// isToken reports whether s can be a token, and so a file name (RFC 8555
// section 8.1).
func isToken(s string) bool {
	if len(s) < 16 || len(s) > 256 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}
