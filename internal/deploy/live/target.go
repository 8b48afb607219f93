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

// Server is how a kind treats the server that reads the files. All functions
// may be nil.
type Server struct {
	// Test says what is wrong with the server's configuration as it is on the
	// disk now. Config.Test, where set, is run in its place.
	Test func(ctx context.Context) error
	// Reload makes the server use the files; called once per batch and once
	// per rollback. Config.Reload, where set, is run in its place.
	Reload func(ctx context.Context, c Change) error
	// Password of keystores, and their encoding.
	Password       func() (string, error)
	LegacyKeystore bool
}

// Change is what a reload is about.
type Change struct {
	Items []Item // of the batch; their files are those to be used from now on
	Back  bool   // it takes back a change that did not work
}

// Item is one certificate of a Change.
type Item struct {
	ID     string
	Name   string // of its directory below Config.Dir
	New    bool   // nothing was live under this name before; when taking back: nothing is any more
	Params map[string]string
	Item   *deploy.Item // nil after a crash
}

// Target implements deploy.Target, Recoverer and Checker.
type Target struct {
	env    deploy.Env
	cfg    Config
	server Server
	files  []file
	access access
	store  string // directory of versions and items, beside the link
}

// Open checks the configuration.
func Open(env deploy.Env, cfg Config, server Server) (*Target, error) {
	if err := checkDir(cfg.Dir); err != nil {
		return nil, err
	}
	files, err := parseFiles(cfg.Files)
	if err != nil {
		return nil, err
	}
	a, err := cfg.access()
	if err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	store := filepath.Join(filepath.Dir(cfg.Dir), "."+filepath.Base(cfg.Dir))
	return &Target{env: env, cfg: cfg, server: server, files: files, access: a, store: store}, nil
}

// Check says whether the place of the files and the server are in order.
func (t *Target) Check(ctx context.Context) error {
	if _, err := t.current(); err != nil {
		return err
	}
	info, err := os.Stat(filepath.Dir(t.cfg.Dir))
	if err != nil {
		return fmt.Errorf("look at the parent of dir: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("the parent of %s is not a directory", t.cfg.Dir)
	}
	return t.test(ctx)
}

// Dir returns the link below which an item's files are.
func (t *Target) Dir() string { return t.cfg.Dir }

// current returns the number of the live version, 0 for none.
func (t *Target) current() (int, error) {
	link, err := os.Readlink(t.cfg.Dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return 0, nil
	case err != nil:
		if _, statErr := os.Stat(t.cfg.Dir); statErr == nil {
			return 0, fmt.Errorf("%s exists and is no link that a deployment made; move it away", t.cfg.Dir)
		}
		return 0, fmt.Errorf("read link: %w", err)
	}
	rest, ok := strings.CutPrefix(link, filepath.Base(t.store)+"/v")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 1 {
		return 0, fmt.Errorf("%s is a link to %s, which no deployment made; move it away", t.cfg.Dir, link)
	}
	return n, nil
}

// version is the directory of a version.
func (t *Target) version(n int) string { return filepath.Join(t.store, "v"+strconv.Itoa(n)) }

// itemDir is the directory of an item as a version wrote it.
func (t *Target) itemDir(name string, n int) string {
	return filepath.Join(t.store, "items", name+"."+strconv.Itoa(n))
}

// point makes version n live, with one rename; 0 removes the link.
func (t *Target) point(n int) error {
	parent := filepath.Dir(t.cfg.Dir)
	if n == 0 {
		if err := os.Remove(t.cfg.Dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove link: %w", err)
		}
		return deploy.SyncDir(parent)
	}
	tmp := t.store + ".link"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old link: %w", err)
	}
	if err := os.Symlink(filepath.Base(t.store)+"/v"+strconv.Itoa(n), tmp); err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	if err := os.Rename(tmp, t.cfg.Dir); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	return deploy.SyncDir(parent)
}

// test runs the server's own test.
func (t *Target) test(ctx context.Context) error {
	switch {
	case t.env.Offline:
		return nil
	case len(t.cfg.Test) > 0:
		return t.run(ctx, t.cfg.Test)
	case t.server.Test != nil:
		return t.server.Test(ctx)
	}
	return nil
}

// reload makes the server read the files.
func (t *Target) reload(ctx context.Context, c Change) error {
	switch {
	case t.env.Offline:
		return nil
	case len(t.cfg.Reload) > 0:
		return t.run(ctx, t.cfg.Reload)
	case t.server.Reload != nil:
		return t.server.Reload(ctx, c)
	}
	return nil
}

// restore reloads after the old files are back, and starts the server anew if
// that is the only way.
func (t *Target) restore(ctx context.Context, c Change) error {
	c.Back = true
	err := t.reload(ctx, c)
	if err == nil || len(t.cfg.Restart) == 0 || t.env.Offline {
		return err
	}
	if again := t.run(ctx, t.cfg.Restart); again != nil {
		return errors.Join(err, again)
	}
	return nil
}

// run runs one of the configured programs.
func (t *Target) run(ctx context.Context, argv []string) error {
	_, err := deploy.Command{Argv: argv, Timeout: t.cfg.Timeout,
		Env: []string{"CHANCERY_TARGET=" + t.env.Name, "CHANCERY_DIR=" + t.cfg.Dir}}.Run(ctx)
	return err
}

// step is how far a batch came.
type step string

// Steps, each recorded before what it names is done.
const (
	staging    step = "staging"
	switching  step = "switching"
	reverting  step = "reverting"
	committing step = "committing"
)

// journal is what is known about the batch under way.
type journal struct {
	Step  step           `json:"step"`
	Old   int            `json:"old"` // version that was live before, 0 = none
	New   int            `json:"new"`
	Items []journalEntry `json:"items"`
}

// journalEntry names an item of the batch.
type journalEntry struct {
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	New    bool              `json:"new,omitzero"`
	Params map[string]string `json:"params,omitzero"`
}

// change returns what the journal says about the items.
func (j *journal) change() Change {
	c := Change{Items: make([]Item, len(j.Items))}
	for i, e := range j.Items {
		c.Items[i] = Item{ID: e.ID, Name: e.Name, New: e.New, Params: e.Params}
	}
	return c
}

// Recover finishes or undoes what a crash interrupted.
func (t *Target) Recover(ctx context.Context) error {
	lock, err := deploy.TakeLock(t.env.State)
	if err != nil {
		return err
	}
	defer lock.Release()
	var j journal
	found, err := deploy.LoadJournal(t.env.State, &j)
	if err != nil || !found {
		return err
	}
	b := &batch{t: t, j: j, change: j.change()}
	fault.Point("deploy.before_recover")
	switch j.Step {
	case committing:
		err = b.finish()
	case staging:
		err = b.discard()
	default:
		b.touched = true
		err = b.revert(ctx)
	}
	if err != nil {
		return err
	}
	t.env.Log.Info("interrupted deployment recovered", "step", string(j.Step), "items", len(j.Items))
	return nil
}
