// Package deploy puts certificates into service: many at once, one reload per
// batch, probed, and rolled back when the probe says so.
//
// A kind of target is a folder below this one that exports a Kind and one line
// in internal/app/kinds.go. A target knows where its server wants the files and
// how it is reloaded; Run keeps the order of steps that makes a deployment
// safe, and is the same for the server, the agent and the command line:
//
//	check every pair here -> Recover -> Stage -> Apply (one switch, one reload)
//	-> Verify -> probe every changed name -> Commit
//
// and, when a step after Stage fails, Rollback and another try without the
// items to blame; where nobody is to blame, with halves of the batch.
package deploy

import (
	"context"
	"crypto"
	"log/slog"
	"time"

	"chancery/internal/scan/probe"
)

// Item is one certificate to be put into service.
type Item struct {
	ID    string        // of the managed certificate; names files, so [a-zA-Z0-9._-], at most 128
	Names []string      // DNS names and IP addresses of the leaf
	Chain [][]byte      // DER, leaf first
	Key   crypto.Signer // must be exportable for targets that write files; nil for those that hold the key themselves
	// Params are what the target's configuration asks to be said per
	// certificate (a file name, a frontend, a keystore alias).
	Params map[string]string
}

// Target is one configured place. Its methods are called by one batch at a
// time.
type Target interface {
	// Stage writes every item beside what is live, durably, and changes
	// nothing live. An error blames an item through *ItemError where it can.
	Stage(ctx context.Context, items []Item) (Staged, error)
}

// Staged is a batch that is written and not yet live. The order of calls is
// Apply, Verify, then Commit or Rollback; Rollback may follow any of them and
// may be called again after a crash (Recoverer).
type Staged interface {
	// Apply makes the whole batch live with one switch and at most one reload.
	Apply(ctx context.Context) error
	// Verify asks the live server for every item and returns what is wrong,
	// by item ID; an empty map means all are served as expected.
	Verify(ctx context.Context) (map[string]error, error)
	// Commit drops what Rollback would need.
	Commit(ctx context.Context) error
	// Rollback puts back what was live before, and reloads if Apply did.
	Rollback(ctx context.Context) error
}

// Recoverer is a Target that can be left half-way by a crash. Recover puts it
// into a state that is wholly old or wholly new and says which.
type Recoverer interface {
	Recover(ctx context.Context) error
}

// Checker is a Target that can say, without changing anything, whether its
// configuration works.
type Checker interface {
	Check(ctx context.Context) error
}

// ItemError blames one item of a batch.
type ItemError struct {
	ID  string
	Err error
}

// Error implements error.
func (e *ItemError) Error() string { return e.ID + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ItemError) Unwrap() error { return e.Err }

// Kind is a plug-in: how to describe, configure and open targets of one sort.
type Kind struct {
	Name   string // as configuration writes it, e.g. "nginx"
	Doc    string // one sentence
	Config func() any
	// Open checks a configuration that came from Config and returns the
	// target. It changes nothing.
	Open func(env Env, config any) (Target, error)
	// Serves is what the server speaks at an address of a probe that names no
	// protocol; "" for kinds that serve nothing by themselves. Of a kind that
	// serves, the configuration must say where to probe, or "none".
	Serves probe.Protocol
}

// Env is what the program gives every target.
type Env struct {
	Name  string       // of the target in the configuration: labels, errors
	State string       // directory of this target's own files and journal, 0700, exists
	Log   *slog.Logger // never nil
	// Offline says that the server does not run yet: write what it will read,
	// and neither test nor reload it.
	Offline bool
}

// Outcome is what became of one item.
type Outcome struct {
	ID       string
	Live     bool   // verified in service
	Err      error  // why not; nil when Live
	Stderr   string // of the program that refused it, bounded, if any
	Finished time.Time
	Took     time.Duration // of the batch that decided it
}
