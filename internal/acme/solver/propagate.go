package solver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	firstLook  = 100 * time.Millisecond
	lastLook   = 5 * time.Second
	lookers    = 32 // questions at once
	maxSilence = 3  // rounds after which a silent server is not waited for
)

// view is what is known of one server during a wait.
type view struct {
	addr   netip.AddrPort
	silent int  // rounds without any answer
	spoke  bool // it answered at least once
}

// propagate waits until all servers of the zone show the additions of a change
// set, and ends their attempts: each name as soon as it is there.
func (g *group) propagate(ctx context.Context, add []taken) {
	g.s.mu.Lock()
	servers := slices.Clone(g.servers)
	g.s.mu.Unlock()
	if g.route.Wait < 0 || len(servers) == 0 {
		for _, t := range add {
			g.finish(t, nil)
		}
		return
	}
	views := make([]*view, len(servers))
	for i, a := range servers {
		views[i] = &view{addr: a}
	}
	ctx, cancel := context.WithTimeout(ctx, g.route.Wait)
	defer cancel()
	for pause := firstLook; len(add) > 0; pause = min(pause*3/2, lastLook) {
		add = g.look(ctx, views, add)
		if len(add) > 0 && !wait(ctx, pause) {
			break
		}
	}
	for _, t := range add {
		g.finish(t, g.blame(fmt.Errorf("the record %s is not visible at %s after %s", t.name, missing(views), g.route.Wait)))
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// missing names the servers for an error.
func missing(views []*view) string {
	var out []string
	for _, v := range views {
		s := v.addr.String()
		if !v.spoke {
			s += " (silent)"
		}
		out = append(out, s)
	}
	return "all of " + strings.Join(out, ", ")
}

// look asks every server for every name once, and returns what is not visible
// everywhere yet.
func (g *group) look(ctx context.Context, views []*view, add []taken) []taken {
	names := map[string][]int{}
	for i, t := range add {
		names[t.name] = append(names[t.name], i)
	}
	r := &round{seen: make([]int, len(add)), answered: make([]int, len(views)), missed: make([]int, len(views))}
	var eg errgroup.Group
	eg.SetLimit(lookers)
	for vi, v := range views {
		for name, list := range names {
			eg.Go(func() error {
				if r.deaf(vi) {
					return nil // one dead server must not cost a time-out per name
				}
				if values, err := g.s.cfg.Resolver.TXTAt(ctx, v.addr, name); err == nil {
					r.note(vi, list, add, values)
				} else {
					r.miss(vi)
				}
				return nil
			})
		}
	}
	eg.Wait()
	need := r.voters(views)
	var left []taken
	for i, t := range add {
		if need > 0 && r.seen[i] >= need {
			g.finish(t, nil)
			continue
		}
		left = append(left, t)
	}
	return left
}

// round is one look at all servers.
type round struct {
	mu       sync.Mutex
	seen     []int // by addition: servers that show it
	answered []int // by server
	missed   []int // by server
}

// deaf reports whether a server answers nothing in this round.
func (r *round) deaf(server int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answered[server] == 0 && r.missed[server] >= 2
}

func (r *round) miss(server int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed[server]++
}

func (r *round) note(server int, list []int, add []taken, values []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered[server]++
	for _, i := range list {
		if slices.Contains(values, add[i].value) {
			r.seen[i]++
		}
	}
}

// voters returns how many servers must show a record: all but those that have
// been silent for several rounds, and at least one.
func (r *round) voters(views []*view) int {
	n := 0
	for i, v := range views {
		if r.answered[i] > 0 {
			v.spoke, v.silent = true, 0
		} else {
			v.silent++
		}
		if v.silent < maxSilence {
			n++
		}
	}
	return n
}
