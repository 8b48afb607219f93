package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/deploy"
	"chancery/internal/deploy/deploytest"
)

// shelf is a target in memory, with faults.
type shelf struct {
	live     map[string]bool // IDs in service
	applied  int
	rolled   int
	bad      []string // items that spoil a batch
	blames   bool     // the target says which
	lies     bool     // Apply succeeds, Verify does not
	full     bool     // Stage fails
	stuck    bool     // Rollback fails
	noCommit bool
	recovers error
	recalled int
}

type shelved struct {
	s   *shelf
	ids []string
	old map[string]bool
}

func (s *shelf) Stage(_ context.Context, items []deploy.Item) (deploy.Staged, error) {
	if s.full {
		return nil, errors.New("no space left on device")
	}
	b := &shelved{s: s, old: s.live}
	for _, i := range items {
		b.ids = append(b.ids, i.ID)
	}
	return b, nil
}

func (s *shelf) Recover(context.Context) error { s.recalled++; return s.recovers }

func (b *shelved) spoilt() error {
	var err error
	for _, id := range b.ids {
		switch {
		case !slices.Contains(b.s.bad, id):
		case b.s.blames:
			err = errors.Join(err, &deploy.ItemError{ID: id, Err: errors.New("refused")})
		default:
			return errors.New("something is wrong")
		}
	}
	return err
}

func (b *shelved) Apply(context.Context) error {
	b.s.applied++
	b.s.live = map[string]bool{}
	for id := range b.old {
		b.s.live[id] = true
	}
	for _, id := range b.ids {
		b.s.live[id] = true
	}
	if b.s.lies {
		return nil
	}
	return b.spoilt()
}

func (b *shelved) Verify(context.Context) (map[string]error, error) { return nil, b.spoilt() }

func (b *shelved) Commit(context.Context) error {
	if b.s.noCommit {
		return errors.New("disk is full")
	}
	return nil
}

func (b *shelved) Rollback(context.Context) error {
	b.s.rolled++
	if b.s.stuck {
		return errors.New("the server is gone")
	}
	b.s.live = b.old
	return nil
}

// states returns "id: live" or "id: error" of outcomes.
func states(out []deploy.Outcome) []string {
	s := make([]string, len(out))
	for i, o := range out {
		s[i] = o.ID + ": live"
		if !o.Live {
			s[i] = fmt.Sprintf("%s: %v", o.ID, o.Err)
		}
	}
	return s
}

// liveOf lists what a shelf serves.
func liveOf(s *shelf) []string {
	var ids []string
	for id := range s.live {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func TestBatchGoesLiveTogether(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 3)
	s := &shelf{}
	out := deploy.Run(t.Context(), s, items, deploy.Options{})
	if diff := cmp.Diff([]string{"c000: live", "c001: live", "c002: live"}, states(out)); diff != "" {
		t.Error(diff)
	}
	if s.applied != 1 || s.rolled != 0 || s.recalled != 1 {
		t.Errorf("%d applied, %d rolled back, %d recovered", s.applied, s.rolled, s.recalled)
	}
}

// Whatever way a target refuses one item of two hundred, the others go live.
func TestBadItemIsIsolated(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 200)
	for _, c := range []struct {
		name    string
		s       shelf
		applied int // at most
	}{
		{"named", shelf{blames: true}, 2},
		{"not named", shelf{}, 17},
		{"only seen from outside", shelf{lies: true}, 17},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &c.s
			s.bad = []string{"c137"}
			for _, o := range deploy.Run(t.Context(), s, items, deploy.Options{}) {
				if o.Live != (o.ID != "c137") || s.live[o.ID] != o.Live {
					t.Errorf("%s: live %t, served %t: %v", o.ID, o.Live, s.live[o.ID], o.Err)
				}
			}
			if s.applied > c.applied {
				t.Errorf("%d applications, more than %d", s.applied, c.applied)
			}
		})
	}
}

func TestSeveralBadItems(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 64)
	s := &shelf{bad: []string{"c000", "c001", "c031", "c063"}}
	for _, o := range deploy.Run(t.Context(), s, items, deploy.Options{}) {
		if o.Live == slices.Contains(s.bad, o.ID) {
			t.Errorf("%s: live %t, %v", o.ID, o.Live, o.Err)
		}
	}
}

// A target at which nothing works is left alone after a few attempts, and
// serves what it served.
func TestHopelessTargetIsLeftAlone(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 200)
	s := &shelf{live: map[string]bool{"old": true}}
	for _, i := range items {
		s.bad = append(s.bad, i.ID)
	}
	for _, o := range deploy.Run(t.Context(), s, items, deploy.Options{}) {
		if o.Live || o.Err == nil {
			t.Errorf("%s: live %t, %v", o.ID, o.Live, o.Err)
		}
	}
	if s.applied > 20 || s.applied != s.rolled {
		t.Errorf("%d attempts, %d rolled back", s.applied, s.rolled)
	}
	if diff := cmp.Diff([]string{"old"}, liveOf(s)); diff != "" {
		t.Error(diff)
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 64)
	s := &shelf{bad: []string{"c000", "c031", "c063"}}
	deploy.Run(t.Context(), s, items, deploy.Options{Attempts: 3})
	if s.applied != 3 {
		t.Errorf("%d attempts", s.applied)
	}
}

func TestFailuresOfTheTarget(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 1)
	for _, c := range []struct {
		name string
		s    shelf
		want string
	}{
		{"stage", shelf{full: true}, "stage: no space left"},
		{"commit", shelf{noCommit: true}, "disk is full"},
		{"recover", shelf{recovers: errors.New("journal is broken")}, "recover what an earlier run left: journal is broken"},
		{"rollback", shelf{noCommit: true, stuck: true}, "roll back: the server is gone; it was needed because: disk is full"},
	} {
		out := deploy.Run(t.Context(), &c.s, items, deploy.Options{})
		if out[0].Live || !strings.Contains(fmt.Sprint(out[0].Err), c.want) {
			t.Errorf("%s: %v", c.name, out[0].Err)
		}
	}
}

// When a rollback fails nothing more is tried: nobody knows what is live.
func TestNothingAfterAFailedRollback(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 8)
	s := &shelf{bad: []string{"c003"}, stuck: true}
	out := deploy.Run(t.Context(), s, items, deploy.Options{})
	if s.applied != 1 || out[0].Live || out[7].Err == nil {
		t.Errorf("%d applied: %v", s.applied, states(out))
	}
}

// A caller that gives up gets a rollback, not half a deployment.
func TestCancelledRunIsRolledBack(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 4)
	ctx, cancel := context.WithCancel(t.Context())
	s := &shelf{bad: []string{"c001"}}
	out := deploy.Run(ctx, &cancels{s, cancel}, items, deploy.Options{})
	if s.applied != 1 || s.rolled != 1 || !errors.Is(out[3].Err, context.Canceled) {
		t.Errorf("%d applied, %d rolled back: %v", s.applied, s.rolled, states(out))
	}
}

// cancels is a shelf whose caller gives up when the batch is staged.
type cancels struct {
	*shelf
	cancel func()
}

func (c *cancels) Stage(ctx context.Context, items []deploy.Item) (deploy.Staged, error) {
	defer c.cancel()
	return c.shelf.Stage(ctx, items)
}

func TestWindows(t *testing.T) {
	items := deploytest.NewCA(t).Items(t, 1)
	w, err := deploy.ParseWindow("02:00-04:00")
	if err != nil {
		t.Fatal(err)
	}
	day := time.Now().UTC().Truncate(24 * time.Hour)
	for _, c := range []struct {
		at     time.Time
		urgent bool
		live   bool
	}{{day.Add(3 * time.Hour), false, true}, {day.Add(5 * time.Hour), false, false}, {day.Add(5 * time.Hour), true, true}} {
		// The dates of the certificates are around the real time.
		items[0] = deploytest.NewCA(t).Items(t, 1)[0]
		now := c.at
		if now.Before(time.Now()) {
			now = now.Add(24 * time.Hour)
		}
		out := deploy.Run(t.Context(), &shelf{}, items, deploy.Options{Windows: []deploy.Window{w}, Urgent: c.urgent, Now: func() time.Time { return now }})
		if out[0].Live != c.live {
			t.Errorf("at %s, urgent %t: %v", c.at, c.urgent, out[0].Err)
		}
		if closed, ok := errors.AsType[*deploy.ClosedError](out[0].Err); !c.live && (!ok || closed.OpensAt.Hour() != 2 || !closed.OpensAt.After(now)) {
			t.Errorf("%v", out[0].Err)
		}
	}
}

func TestTwiceTheSameID(t *testing.T) {
	ca := deploytest.NewCA(t)
	items := []deploy.Item{ca.Item(t, "a", "a.test"), ca.Item(t, "a", "b.test")}
	out := deploy.Run(t.Context(), &shelf{}, items, deploy.Options{})
	if !out[0].Live || out[1].Live {
		t.Errorf("%v", states(out))
	}
}
