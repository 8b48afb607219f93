// Package pkcs11 keeps private keys in a PKCS #11 token: a hardware security
// module, a smart card, SoftHSM. Keys are made in the token and never leave
// it.
//
// It speaks to the token only in a program that was built with the tag
// "pkcs11" (and cgo); otherwise Open says so. What does not touch the token,
// the URIs of RFC 7512 and the classes of return values, is always there.
//
// What the package promises:
//
//   - No more than Config.Sessions calls are in the module at once, and no more
//     than Config.Waiters wait; one more is refused at once. A call that hangs
//     keeps its session, so a dead token never costs more threads than that.
//   - A caller waits no longer than Config.Timeout or its own deadline, whatever
//     the token does.
//   - A lost session costs a repetition, a lost login one login, and a lost
//     device one re-initialisation, for which every call must first have left
//     the module. The same bytes may then be signed twice; one signature is
//     handed out.
//   - While the device is away, calls fail at once with 503 and a Retry-After,
//     and one at a time asks whether it is back.
//   - A PIN that the token refused is not tried again until it was changed, and
//     the last try before the token locks itself is never taken.
package pkcs11

import (
	"log/slog"
	"time"

	"chancery/internal/loop"
)

// Config says which token to use, and how.
type Config struct {
	Module string // path of the token's library
	Token  string // its label, or an RFC 7512 URI such as "pkcs11:token=ca;serial=42"

	// Where the user PIN is: the first line of a file, or an environment
	// variable. It is read at each login.
	PINFile string
	PINEnv  string

	Sessions int           // most sessions; 0 = 16
	Waiters  int           // most callers that wait for one; 0 = 256
	Timeout  time.Duration // longest wait of one caller; 0 = 10 s

	Log     *slog.Logger  // nil: discard
	Metrics *loop.Metrics // of the breaker; nil: not measured
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	if c.Sessions <= 0 {
		c.Sessions = 16
	}
	if c.Waiters <= 0 {
		c.Waiters = 256
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}
