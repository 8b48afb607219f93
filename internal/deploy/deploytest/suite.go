// Package deploytest is the suite that every kind of target runs, against the
// real server where Debian has one, and what such tests need: a CA, processes
// that are stopped again, and a load of handshakes.
package deploytest

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery/internal/deploy"
)

// Name is the ID of the i-th item of CA.Items.
func Name(i int) string { return fmt.Sprintf("c%03d", i) }

// Suite is what the tests need to know of a target. Its items are CA.Items: a
// server must be configured to serve them all under their names.
type Suite struct {
	Kind   deploy.Kind
	Config any          // of the target; used by every Open
	Probe  deploy.Probe // where the server listens; its Settle is the price of each failure
	Items  int          // certificates; at least 3, 0 = 4
	State  string       // directory of the target's journal; "" = a new one
	One    bool         // the server uses the first item only, whatever name is asked for; the others are not probed

	// Start starts the server, when the first files are there. Nil: it runs.
	Start func(t *testing.T)
	// Served says what is wrong with what the outside sees of an item. Nil: the
	// probe says it.
	Served func(item *deploy.Item) error
	// Break makes the next deployments fail, without any item's fault, until
	// the returned function is called. Nil: the test is left out.
	Break func(t *testing.T) (mend func())
	// Spoil changes an item, which is good in itself, so that the target
	// refuses it. Nil: it is probed under a name that nothing serves.
	Spoil func(item *deploy.Item)
}

// tester is one run of a suite.
type tester struct {
	Suite
	whole *testing.T // the server lives as long as all the steps
	ca    *CA
	live  []deploy.Item // what should be served
}

// Run runs the suite: first deployment, renewal of a part, a pair that does
// not match, a bad item among good ones, a target that is out of order, and
// interruptions after every step.
func Run(t *testing.T, s Suite) {
	if s.Items == 0 {
		s.Items = 4
	}
	if s.State == "" {
		s.State = State(t)
	}
	x := &tester{Suite: s, whole: t, ca: NewCA(t)}
	for _, step := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"first", x.first}, {"renewal", x.renewal}, {"mismatched pair", x.mismatch}, {"bad item", x.badItem},
		{"out of order", x.outOfOrder}, {"interrupted", x.interrupted}, {"check", x.check},
	} {
		if !t.Run(step.name, step.run) {
			return // the next would say the same again
		}
	}
}

// State returns a directory for a target's journal.
func State(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Env returns what a program gives a target.
func Env(t testing.TB, state string) deploy.Env {
	return deploy.Env{Name: "test", State: state, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// open opens the target, as every process does.
func (x *tester) open(t *testing.T, env deploy.Env) deploy.Target {
	t.Helper()
	target, err := x.Kind.Open(env, x.Config)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// run deploys items and returns the outcomes.
func (x *tester) run(t *testing.T, items []deploy.Item) []deploy.Outcome {
	t.Helper()
	return deploy.Run(t.Context(), x.open(t, Env(t, x.State)), items, deploy.Options{Probe: x.Probe, Log: Env(t, "").Log})
}

// AllLive fails the test unless every item is live.
func AllLive(t testing.TB, out []deploy.Outcome) {
	t.Helper()
	for _, o := range out {
		if !o.Live || o.Err != nil {
			t.Errorf("%s is not live: %v %s", o.ID, o.Err, o.Stderr)
		}
	}
}

// serves checks that exactly the expected certificates are served.
func (x *tester) serves(t *testing.T) {
	t.Helper()
	var bad error
	for i := range x.live {
		if x.Served != nil {
			bad = errors.Join(bad, x.Served(&x.live[i]))
		}
	}
	for id, err := range x.Probe.Items(t.Context(), x.live) {
		bad = errors.Join(bad, fmt.Errorf("%s: %w", id, err))
	}
	if bad != nil {
		t.Errorf("what is served is not what should be: %v", bad)
	}
	if _, err := os.Stat(filepath.Join(x.State, "journal.json")); err == nil {
		t.Error("a journal is left over")
	}
}

func (x *tester) first(t *testing.T) {
	x.live = x.items(t, x.Items)
	if x.Start == nil {
		AllLive(t, x.run(t, x.live))
	} else {
		env := Env(t, x.State)
		env.Offline = true
		AllLive(t, deploy.Run(t.Context(), x.open(t, env), x.live, deploy.Options{}))
		x.Start(x.whole)
	}
	x.serves(t)
}

// renew returns new certificates for a part of the live ones.
func (x *tester) renew(t *testing.T, from, to int) []deploy.Item {
	return x.items(t, to)[from:]
}

// items makes items, those that the server does not use with the parameter
// that says not to probe them.
func (x *tester) items(t *testing.T, n int) []deploy.Item {
	items := x.ca.Items(t, n)
	for i := range items {
		if x.One && i > 0 {
			items[i].Params = map[string]string{"probe": "none"}
		}
	}
	return items
}

// now puts items into the list of what should be served.
func (x *tester) now(items []deploy.Item) {
	for _, item := range items {
		i := slices.IndexFunc(x.live, func(l deploy.Item) bool { return l.ID == item.ID })
		x.live[i] = item
	}
}

func (x *tester) renewal(t *testing.T) {
	items := x.renew(t, 0, x.Items-1)
	AllLive(t, x.run(t, items))
	x.now(items)
	x.serves(t)
}

// A pair that does not match is refused before the target sees it, and the
// others go live.
func (x *tester) mismatch(t *testing.T) {
	items := x.renew(t, 0, 3)
	items[1].Key = NewKey(t)
	out := x.run(t, items)
	if out[1].Live || out[1].Err == nil {
		t.Error("a certificate with another's key is live")
	}
	AllLive(t, []deploy.Outcome{out[0], out[2]})
	x.now([]deploy.Item{items[0], items[2]})
	x.serves(t)
}

// An item that is good in itself and that the target does not serve is taken
// out: what it replaced stays, and the others go live.
func (x *tester) badItem(t *testing.T) {
	items := x.renew(t, 0, x.Items)
	bad := len(items) - 2
	switch {
	case x.One: // it is served to whoever asks for whatever name
		t.Skip("the server uses one certificate")
	case x.Spoil != nil:
		x.Spoil(&items[bad])
	case len(x.Probe.Addresses) > 0:
		items[bad].Params = map[string]string{"probe": "nothing-serves-this.test"}
	default:
		t.Skip("nothing can be bad in itself here")
	}
	out := x.run(t, items)
	if out[bad].Live || out[bad].Err == nil {
		t.Errorf("the bad item is live: %+v", out[bad])
	}
	t.Logf("the bad item: %v", out[bad].Err)
	good := slices.Delete(slices.Clone(items), bad, bad+1)
	AllLive(t, slices.Delete(slices.Clone(out), bad, bad+1))
	x.now(good)
	x.serves(t)
}

// While the target is out of order nothing changes; afterwards all is well.
func (x *tester) outOfOrder(t *testing.T) {
	if x.Break == nil {
		t.Skip("this target has nothing that breaks")
	}
	items := x.renew(t, 0, x.Items)
	mend := x.Break(t)
	for _, o := range x.run(t, items) {
		if o.Live || o.Err == nil {
			t.Errorf("%s is said to be live at a target that is out of order", o.ID)
		}
	}
	mend()
	recovered(t, x.open(t, Env(t, x.State)))
	x.serves(t)
	AllLive(t, x.run(t, items))
	x.now(items)
	x.serves(t)
}

// recovered recovers a target that can be.
func recovered(t *testing.T, target deploy.Target) {
	t.Helper()
	if r, ok := target.(deploy.Recoverer); ok {
		if err := r.Recover(t.Context()); err != nil {
			t.Fatalf("recover: %v", err)
		}
	}
}

// A process that dies after any step leaves something that the next one
// recovers: before the commit the old certificates, twice over.
func (x *tester) interrupted(t *testing.T) {
	if _, ok := x.open(t, Env(t, x.State)).(deploy.Recoverer); !ok {
		t.Skip("this target cannot be left half-way")
	}
	for _, steps := range []int{1, 2, 3} {
		dead := x.dies(t, x.renew(t, 0, 2), steps)
		recovered(t, x.open(t, Env(t, dead)))
		recovered(t, x.open(t, Env(t, dead)))
		x.State = dead
		x.serves(t)
	}
	items := x.renew(t, 0, 2)
	AllLive(t, x.run(t, items))
	x.now(items)
	x.serves(t)
}

// dies goes some steps and returns the state directory as a process that died
// then leaves it: a copy, as the lock of the original is held by us.
func (x *tester) dies(t *testing.T, items []deploy.Item, steps int) string {
	t.Helper()
	staged, err := x.open(t, Env(t, x.State)).Stage(t.Context(), items)
	if err == nil && steps > 1 {
		err = staged.Apply(t.Context())
	}
	if err == nil && steps > 2 {
		_, err = staged.Verify(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	dead := State(t)
	if err := copyFiles(dead, x.State); err != nil {
		t.Fatal(err)
	}
	return dead
}

// copyFiles copies a tree of plain files, except locks.
func copyFiles(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, path)
		switch {
		case err != nil || d.Name() == "lock" || rel == ".":
			return err
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

func (x *tester) check(t *testing.T) {
	c, ok := x.open(t, Env(t, x.State)).(deploy.Checker)
	if !ok {
		t.Skip("this target has no check")
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("a target that works fails its check: %v", err)
	}
}

// Wait calls ready until it reports true, at most for a while.
func Wait(t testing.TB, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ready(); {
		if time.Now().After(end) {
			t.Fatalf("waited 20 s for %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}
