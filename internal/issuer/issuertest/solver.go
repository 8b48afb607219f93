package issuertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// Solver presents responses in memory only.
type Solver struct {
	mu       sync.Mutex
	Err      error    // of Present
	List     []string // methods; http-01 (not for wildcards) and dns-01 if nil
	Presents int      // calls so far
	live     map[string]int
}

// Present implements issuer.Solver.
func (s *Solver) Present(_ context.Context, responses []issuer.Response) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Presents++
	if s.Err != nil {
		return nil, s.Err
	}
	if s.live == nil {
		s.live = map[string]int{}
	}
	for _, r := range responses {
		s.live[r.Token]++
	}
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range responses {
			if s.live[r.Token]--; s.live[r.Token] == 0 {
				delete(s.live, r.Token)
			}
		}
	}), nil
}

// Methods implements issuer.Solver.
func (s *Solver) Methods(id pki.Identifier) []string {
	switch {
	case s.List != nil:
		return slices.Clone(s.List)
	case id.Base() != id:
		return []string{"dns-01"}
	}
	return []string{"http-01", "dns-01"}
}

// Live returns how many responses are visible.
func (s *Solver) Live() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// Check is an ACME CA's Validate: what is not visible is not valid.
func (s *Solver) Check(_ string, _ pki.Identifier, token, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[token] == 0 {
		return errors.New("nothing is visible")
	}
	return nil
}

// Store keeps what an issuer keeps, in memory.
type Store struct {
	mu     sync.Mutex
	values map[string][]byte
}

// Keep is issuer.Env.Keep.
func (s *Store) Keep(_ context.Context, name string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string][]byte{}
	}
	s.values[name] = slices.Clone(value)
	return nil
}

// Kept is issuer.Env.Kept.
func (s *Store) Kept(_ context.Context, name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.values[name]), nil
}

// WantClass fails the test unless err has a class.
func WantClass(t testing.TB, err error, class issuer.Class) *issuer.Error {
	t.Helper()
	var e *issuer.Error
	if !errors.As(err, &e) || e.Class != class {
		t.Fatalf("error %v, want one of class %s", err, class)
	}
	return e
}
