package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"chancery/internal/deploy"
	"chancery/internal/fault"
)

// writers is how many items are written at once: a file system makes many
// fsyncs that wait together durable with one write of its journal.
const writers = 32

// batch implements deploy.Staged.
type batch struct {
	t       *Target
	j       journal
	change  Change
	lock    *deploy.Lock
	touched bool // the server may have read the new files
}

// Stage writes the files of the items and the links of the next version.
func (t *Target) Stage(_ context.Context, items []deploy.Item) (deploy.Staged, error) {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return nil, err
	}
	b := &batch{t: t, lock: lock}
	if err := b.stage(items); err != nil {
		if b.j.New != 0 {
			err = errors.Join(err, b.discard())
		}
		lock.Release()
		return nil, err
	}
	return b, nil
}

// stage does the work of Stage.
func (b *batch) stage(items []deploy.Item) error {
	if err := b.plan(items); err != nil {
		return err
	}
	if err := deploy.SaveJournal(b.t.env.State, &b.j); err != nil {
		return err
	}
	fault.Point("deploy.after_plan")
	err := deploy.Parallel(len(b.change.Items), writers, func(i int) error {
		if err := b.write(&b.change.Items[i]); err != nil {
			return &deploy.ItemError{ID: b.change.Items[i].ID, Err: err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fault.Point("deploy.after_files")
	if err := b.links(); err != nil {
		return err
	}
	fault.Point("deploy.after_stage")
	return nil
}

// plan chooses the version and the names, and makes the store.
func (b *batch) plan(items []deploy.Item) error {
	if found, err := deploy.LoadJournal(b.t.env.State, new(journal)); found || err != nil {
		return errors.Join(errors.New("another deployment was interrupted and must be recovered first"), err)
	}
	old, err := b.t.current()
	if err != nil {
		return err
	}
	for _, dir := range []string{b.t.store, filepath.Join(b.t.store, "items")} {
		if err := b.t.mkdir(dir); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	newest, err := b.t.newest()
	if err != nil {
		return err
	}
	j := journal{Step: staging, Old: old, New: max(newest, old) + 1}
	seen := map[string]string{}
	for i := range items {
		name := items[i].ID
		if n := items[i].Params["name"]; n != "" {
			name = n
		}
		if !deploy.ValidID(name) {
			return &deploy.ItemError{ID: items[i].ID, Err: fmt.Errorf("the parameter name, %.40q, cannot name a directory", name)}
		}
		if other, ok := seen[name]; ok {
			return &deploy.ItemError{ID: items[i].ID, Err: fmt.Errorf("%s has the same name, %s", other, name)}
		}
		seen[name] = items[i].ID
		_, err := os.Lstat(filepath.Join(b.t.version(old), name))
		j.Items = append(j.Items, journalEntry{ID: items[i].ID, Name: name, New: err != nil, Params: items[i].Params})
	}
	b.j, b.change = j, j.change()
	for i := range items {
		b.change.Items[i].Item = &items[i]
	}
	return nil
}

// mkdir makes a directory with the rights of the configuration.
func (t *Target) mkdir(dir string) error {
	if err := os.Mkdir(dir, t.access.dir); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if err := os.Chmod(dir, t.access.dir); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return t.access.give(dir)
}

// newest returns the highest number of a version on the disk.
func (t *Target) newest() (int, error) {
	entries, err := os.ReadDir(t.store)
	if err != nil {
		return 0, fmt.Errorf("list versions: %w", err)
	}
	top := 0
	for _, e := range entries {
		if n, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "v")); err == nil {
			top = max(top, n)
		}
	}
	return top, nil
}

// write writes the files of one item.
func (b *batch) write(item *Item) error {
	dir := b.t.itemDir(item.Name, b.j.New)
	if err := b.t.mkdir(dir); err != nil {
		return err
	}
	for _, f := range b.t.files {
		data, err := b.t.content(item.Item, f.content)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, f.name)
		if err := deploy.WriteFile(path, data, b.t.access.mode); err != nil {
			return err
		}
		if err := b.t.access.give(path); err != nil {
			return err
		}
	}
	return deploy.SyncDir(dir)
}

// links makes the directory of the version: what was live, with the items of
// the batch in place of their predecessors.
func (b *batch) links() error {
	dir := b.t.version(b.j.New)
	if err := b.t.mkdir(dir); err != nil {
		return err
	}
	ours := map[string]bool{}
	for _, item := range b.j.Items {
		ours[item.Name] = true
		if err := os.Symlink("../items/"+filepath.Base(b.t.itemDir(item.Name, b.j.New)), filepath.Join(dir, item.Name)); err != nil {
			return fmt.Errorf("make link: %w", err)
		}
	}
	targets, err := b.t.targets(b.j.Old)
	if err != nil {
		return err
	}
	for name, target := range targets {
		if ours[name] {
			continue
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("make link: %w", err)
		}
	}
	return errors.Join(deploy.SyncDir(dir), deploy.SyncDir(filepath.Join(b.t.store, "items")), deploy.SyncDir(b.t.store))
}

// targets returns the links of a version, by name.
func (t *Target) targets(n int) (map[string]string, error) {
	if n == 0 {
		return nil, nil
	}
	entries, err := os.ReadDir(t.version(n))
	if err != nil {
		return nil, fmt.Errorf("list live version: %w", err)
	}
	out := make(map[string]string, len(entries))
	for _, e := range entries {
		if out[e.Name()], err = os.Readlink(filepath.Join(t.version(n), e.Name())); err != nil {
			return nil, fmt.Errorf("read link: %w", err)
		}
	}
	return out, nil
}

// to records the next step.
func (b *batch) to(s step) error {
	b.j.Step = s
	return deploy.SaveJournal(b.t.env.State, &b.j)
}

// Apply switches, tests and reloads.
func (b *batch) Apply(ctx context.Context) error {
	if err := b.to(switching); err != nil {
		return err
	}
	fault.Point("deploy.before_switch")
	if err := b.t.point(b.j.New); err != nil {
		return err
	}
	fault.Point("deploy.after_switch")
	if err := b.t.test(ctx); err != nil {
		return fmt.Errorf("test configuration: %w", b.blamed(err))
	}
	b.touched = true
	if err := b.t.reload(ctx, b.change); err != nil {
		return fmt.Errorf("reload: %w", b.blamed(err))
	}
	fault.Point("deploy.after_reload")
	return nil
}

// blamed puts the blame on the items whose files a program complained about by
// their path, if there are any; the search for the bad item is then short.
func (b *batch) blamed(err error) error {
	ce, ok := errors.AsType[*deploy.CommandError](err)
	if _, named := errors.AsType[*deploy.ItemError](err); !ok || named {
		return err
	}
	var all []error
	for _, item := range b.j.Items {
		if strings.Contains(ce.Output, b.t.cfg.Dir+"/"+item.Name+"/") {
			all = append(all, &deploy.ItemError{ID: item.ID, Err: ce})
		}
	}
	if len(all) == 0 {
		return err
	}
	return errors.Join(all...)
}

// Verify checks that the link still points at this batch: whoever else moved
// it would make every probe lie.
func (b *batch) Verify(context.Context) (map[string]error, error) {
	n, err := b.t.current()
	if err == nil && n != b.j.New {
		err = fmt.Errorf("%s points at version %d and not %d; something else changes it", b.t.cfg.Dir, n, b.j.New)
	}
	return nil, err
}

// Commit drops what was live before.
func (b *batch) Commit(context.Context) error {
	if err := b.to(committing); err != nil {
		return err
	}
	fault.Point("deploy.before_commit")
	if err := b.finish(); err != nil {
		// The new version is live and on record as such: Recover tidies up.
		b.t.env.Log.Warn("old files not removed", "error", err)
	}
	b.lock.Release()
	return nil
}

// finish removes old versions and the items that only they had.
func (b *batch) finish() error {
	if err := b.t.prune(b.j.New); err != nil {
		return err
	}
	fault.Point("deploy.after_prune")
	return deploy.DropJournal(b.t.env.State)
}

// Rollback makes the old version live again.
func (b *batch) Rollback(ctx context.Context) error {
	defer b.lock.Release()
	return b.revert(ctx)
}

// revert undoes a switch that was made, or begun.
func (b *batch) revert(ctx context.Context) error {
	if err := b.to(reverting); err != nil {
		return err
	}
	if err := b.t.point(b.j.Old); err != nil {
		return err
	}
	fault.Point("deploy.after_revert")
	if b.touched {
		if err := b.t.restore(ctx, b.change); err != nil {
			return fmt.Errorf("reload with the old files, which are in place again: %w", err)
		}
	}
	return b.discard()
}

// discard removes what the batch wrote.
func (b *batch) discard() error {
	if err := b.t.prune(b.j.Old); err != nil {
		return err
	}
	fault.Point("deploy.after_discard")
	return deploy.DropJournal(b.t.env.State)
}

// prune removes every version but one, and every item that it does not use.
func (t *Target) prune(keep int) error {
	targets, err := t.targets(keep)
	if err != nil {
		return err
	}
	used := make(map[string]bool, len(targets))
	for _, target := range targets {
		used[filepath.Base(target)] = true
	}
	items, err := os.ReadDir(filepath.Join(t.store, "items"))
	if err != nil {
		return fmt.Errorf("list items: %w", err)
	}
	versions, err := os.ReadDir(t.store)
	if err != nil {
		return fmt.Errorf("list versions: %w", err)
	}
	for _, e := range versions {
		if strings.HasPrefix(e.Name(), "v") && e.Name() != "v"+strconv.Itoa(keep) {
			if err := os.RemoveAll(filepath.Join(t.store, e.Name())); err != nil {
				return fmt.Errorf("remove old version: %w", err)
			}
		}
	}
	for _, e := range items {
		if !used[e.Name()] {
			if err := os.RemoveAll(filepath.Join(t.store, "items", e.Name())); err != nil {
				return fmt.Errorf("remove old files: %w", err)
			}
		}
	}
	return nil
}
