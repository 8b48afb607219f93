// Package each deploys to places that take one certificate at a time through
// an API, such as a cloud's certificate store. It makes a batch of them: what
// was there before is read and written down first, then every item is put, a
// few at once; when one fails, or a process dies, what was there is put back.
package each

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"chancery/internal/deploy"
	"chancery/internal/fault"
)

// Store is a place that takes certificates. Its functions are called by
// several goroutines.
type Store struct {
	// Get returns what is there now, as Restore wants it; nil when nothing is.
	// It may hold a private key: it is kept in a file of mode 0600, and only
	// until the batch has ended.
	Get func(ctx context.Context, item *deploy.Item) (json.RawMessage, error)
	// Put puts the item there.
	Put func(ctx context.Context, item *deploy.Item) error
	// Restore puts back what Get returned, or removes what Put made. Twice is
	// fine, and so is without a Put.
	Restore func(ctx context.Context, id string, params map[string]string, old json.RawMessage) error
	// Shown says what is wrong with what is there.
	Shown func(ctx context.Context, item *deploy.Item) error
	// Test says whether the store can be used; nil = not known.
	Test func(ctx context.Context) error
}

// workers is how many items are worked on at once.
const workers = 8

// Target implements deploy.Target, Recoverer and Checker.
type Target struct {
	env   deploy.Env
	store Store
}

// Open returns a target.
func Open(env deploy.Env, s Store) *Target { return &Target{env, s} }

// Check asks the store whether it can be used.
func (t *Target) Check(ctx context.Context) error {
	if t.store.Test == nil {
		return nil
	}
	return t.store.Test(ctx)
}

// journal is what was there before.
type journal struct {
	Items []entry `json:"items"`
}

// entry is one item.
type entry struct {
	ID     string            `json:"id"`
	Params map[string]string `json:"params,omitempty"`
	Old    json.RawMessage   `json:"old,omitempty"`
}

// batch implements deploy.Staged.
type batch struct {
	t     *Target
	items []deploy.Item
	j     journal
	lock  *deploy.Lock
}

// Recover puts back what an interrupted batch changed.
func (t *Target) Recover(ctx context.Context) error {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return err
	}
	defer lock.Release()
	b := &batch{t: t}
	found, err := deploy.LoadJournal(t.env.State, &b.j)
	if err != nil || !found {
		return err
	}
	return b.restore(ctx)
}

// Stage reads what is there.
func (t *Target) Stage(ctx context.Context, items []deploy.Item) (deploy.Staged, error) {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return nil, err
	}
	b := &batch{t: t, items: items, lock: lock, j: journal{Items: make([]entry, len(items))}}
	if found, err := deploy.LoadJournal(t.env.State, new(journal)); found || err != nil {
		lock.Release()
		return nil, errors.Join(errors.New("another deployment was interrupted and must be recovered first"), err)
	}
	err = deploy.Parallel(len(items), workers, func(i int) error {
		old, err := t.store.Get(ctx, &items[i])
		if err != nil {
			return &deploy.ItemError{ID: items[i].ID, Err: err}
		}
		b.j.Items[i] = entry{items[i].ID, items[i].Params, old}
		return nil
	})
	if err == nil {
		err = deploy.SaveJournal(t.env.State, &b.j)
	}
	if err != nil {
		lock.Release()
		return nil, err
	}
	return b, nil
}

// Apply puts every item.
func (b *batch) Apply(ctx context.Context) error {
	fault.Point("deploy.before_put")
	err := deploy.Parallel(len(b.items), workers, func(i int) error {
		if err := b.t.store.Put(ctx, &b.items[i]); err != nil {
			return &deploy.ItemError{ID: b.items[i].ID, Err: err}
		}
		fault.Point("deploy.after_put")
		return nil
	})
	return err
}

// Verify compares.
func (b *batch) Verify(ctx context.Context) (map[string]error, error) {
	bad := map[string]error{}
	var mu sync.Mutex
	err := deploy.Parallel(len(b.items), workers, func(i int) error {
		if err := b.t.store.Shown(ctx, &b.items[i]); err != nil {
			mu.Lock()
			defer mu.Unlock()
			bad[b.items[i].ID] = err
		}
		return nil
	})
	return bad, err
}

// Commit forgets what was there.
func (b *batch) Commit(context.Context) error {
	defer b.lock.Release()
	return deploy.DropJournal(b.t.env.State)
}

// Rollback puts back what was there.
func (b *batch) Rollback(ctx context.Context) error {
	defer b.lock.Release()
	return b.restore(ctx)
}

// restore puts back every item; the journal goes when all are.
func (b *batch) restore(ctx context.Context) error {
	err := deploy.Parallel(len(b.j.Items), workers, func(i int) error {
		e := b.j.Items[i]
		if err := b.t.store.Restore(ctx, e.ID, e.Params, e.Old); err != nil {
			return fmt.Errorf("put back %s: %w", e.ID, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return deploy.DropJournal(b.t.env.State)
}
