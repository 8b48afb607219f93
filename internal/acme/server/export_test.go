package server

import (
	"context"
	"time"

	"chancery/internal/db"
)

// Hold is how long one more answer to an account that floods is held back, on
// average, when so many are.
func Hold(parked int) time.Duration { return hold(parked) }

// ForgetOrders makes the server read from the database again, as tests need
// that write there themselves.
func (s *Server) ForgetOrders() { s.recent.clear() }

// KnownNames is the filter of names that accounts have asked for.
type KnownNames = knownNames

// NewKnownNames returns an empty one.
var NewKnownNames = newKnownNames

// None is none.
func (k *knownNames) None(ctx context.Context, q db.Q, account string, identifiers []string) bool {
	return k.none(ctx, q, account, identifiers)
}

// Add is add.
func (k *knownNames) Add(account string, identifiers ...string) { k.add(account, identifiers...) }
