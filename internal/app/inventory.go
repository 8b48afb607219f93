package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/audit"
	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/inventory/follow"
	"chancery/internal/inventory/importer"
	"chancery/internal/loop"
)

// openInventory prepares the watches of directories.
func (a *App) openInventory(context.Context) error {
	if !a.has(config.RoleWriter) {
		return nil
	}
	for _, dir := range a.cfg.Inventory.Watch {
		w, err := importer.NewWatch(dir)
		if err != nil {
			return fault.Wrap(err, fault.Precondition, "inventory.watch: %s cannot be watched", dir)
		}
		a.watches = append(a.watches, w)
	}
	return nil
}

// catchUp lets the inventory know of what happened before this start, as far as
// that is quickly done; the loop does the rest.
func (a *App) catchUp(ctx context.Context) error {
	if a.has(config.RoleWriter) {
		counted, err := a.inventory.Upgrade(ctx, time.Now())
		if err != nil {
			return fmt.Errorf("bring the counts of the inventory up to date: %w", err)
		}
		if counted > 0 {
			a.log.InfoContext(ctx, "the certificates of the inventory were counted anew: this program keeps other counts than the one before", "certificates", counted)
		}
	}
	if a.opts.Estate > 0 {
		made, err := inventory.Estate(ctx, a.db, a.opts.Estate, time.Now(), a.opts.EstateProgress)
		if err != nil {
			return fmt.Errorf("make an estate: %w", err)
		}
		if !made {
			a.log.InfoContext(ctx, "the inventory has an invented estate already; another one needs another data directory")
		}
	}
	if !a.has(config.RoleWriter) {
		return nil
	}
	if _, err := audit.Sequence(ctx, a.db, sequenceBatch); err != nil {
		return fmt.Errorf("sequence the journal: %w", err)
	}
	a.follower = follow.New(a.db, a.ca, a.inventory)
	if _, err := a.follower.Tick(ctx); err != nil {
		return fmt.Errorf("follow the journal: %w", err)
	}
	return nil
}

// tidyBatch is how many certificates one transaction expires or deletes.
const tidyBatch = 500

// inventoryLoops keep the inventory: they belong to the writer.
func (a *App) inventoryLoops() []loop.Every {
	if !a.has(config.RoleWriter) {
		return nil
	}
	every := func(name string, interval time.Duration, tick loop.Tick) loop.Every {
		return loop.Every{Name: name, Interval: interval, Tick: tick, Log: a.log, Metrics: a.loops}
	}
	bounded := func(do func(context.Context) (int, error)) loop.Tick {
		return func(ctx context.Context) (loop.Count, error) {
			n, err := do(ctx)
			return loop.Count{Claimed: n, Done: n, More: n == tidyBatch}, err
		}
	}
	followed := every("inventory.follow", 500*time.Millisecond, a.follower.Tick)
	followed.Wake = a.wake.follow
	loops := []loop.Every{
		followed,
		every("inventory.sweep", 30*time.Second, bounded(func(ctx context.Context) (int, error) {
			return a.inventory.Sweep(ctx, time.Now(), tidyBatch)
		})),
		every("inventory.purge", time.Hour, bounded(func(ctx context.Context) (int, error) {
			return a.inventory.Purge(ctx, time.Now().Add(-a.cfg.Inventory.Retention), time.Now(), tidyBatch)
		})),
	}
	for i, w := range a.watches {
		l := every("inventory.watch", a.cfg.Inventory.WatchInterval, a.watchTick(a.cfg.Inventory.Watch[i], w))
		l.Timeout = 10 * time.Minute // a first look may find thousands of files
		loops = append(loops, l)
	}
	return loops
}

// watchTick imports what is new in a directory. A file that is no good is
// logged, and does not hold up the others.
func (a *App) watchTick(dir string, w *importer.Watch) loop.Tick {
	return func(ctx context.Context) (loop.Count, error) {
		n, err := w.Poll(ctx, time.Now(), func(name string, data []byte) error {
			rep, err := importer.Import(ctx, a.inventory, name, data, importer.Options{Tags: map[string]string{"file": name}, SeenAt: time.Now()}, "system", time.Now())
			if err == nil {
				a.log.InfoContext(ctx, "certificate file imported", "directory", dir, "file", name, "new", rep.New, "changed", rep.Changed, "known", rep.Known, "refused", len(rep.Refused))
			}
			return err
		})
		if _, refused := errors.AsType[*fault.Error](err); refused {
			a.log.WarnContext(ctx, "certificate files not imported", "directory", dir, "error", err)
			return loop.Count{Claimed: n + 1, Done: n, Failed: 1}, nil
		}
		if err != nil {
			return loop.Count{Claimed: n, Done: n}, fmt.Errorf("watch %s: %w", dir, err)
		}
		return loop.Count{Claimed: n, Done: n}, nil
	}
}
