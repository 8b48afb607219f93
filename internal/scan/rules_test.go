package scan

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/internal/scan/probe"
)

func TestTunerGrowsAndShrinks(t *testing.T) {
	tn := newTuner(256, 64, 8000, 20*time.Millisecond)
	for _, c := range []struct {
		limit  int
		delay  delay
		demand bool
		want   int
	}{
		{256, none, true, 281}, {256, none, false, 256}, {256, mild, true, 256}, {256, severe, true, 205}, {64, severe, true, 64}, {7900, none, true, 8000}, {5, none, true, 64},
	} {
		if got := tn.next(c.limit, c.delay, c.demand); got != c.want {
			t.Errorf("from %d, delay %d, demand %v: %d, want %d", c.limit, c.delay, c.demand, got, c.want)
		}
	}
	limit := 256
	steps := 0
	for ; limit < 1050; steps++ {
		limit = tn.next(limit, none, true)
	}
	if steps > 16 {
		t.Errorf("%d steps of 50 ms to 1,050 in flight", steps)
	}
}

// One slow wait in a hundred is noise; more is delay.
func TestOnePercentIsTolerated(t *testing.T) {
	for _, c := range []struct {
		delayed, stalled, all uint64
		want                  delay
	}{{0, 0, 0, none}, {1, 1, 100, none}, {2, 0, 100, mild}, {1, 0, 99, mild}, {2, 2, 100, severe}, {0, 0, 5, none}} {
		if got := grade(c.delayed, c.stalled, c.all); got != c.want {
			t.Errorf("%d and %d of %d: %d", c.delayed, c.stalled, c.all, got)
		}
	}
}

// Peers that answer in 200 ms, then in 250, then in 400.
func TestPeersThatSlowDownAreNoticed(t *testing.T) {
	var p patience
	feed := func(wait time.Duration) (slow bool) {
		for range 60 {
			slow = p.add(10*wait, 10)
		}
		return slow
	}
	for _, c := range []struct {
		wait time.Duration
		want bool
	}{{200 * time.Millisecond, false}, {250 * time.Millisecond, false}, {400 * time.Millisecond, true}, {210 * time.Millisecond, false}} {
		if got := feed(c.wait); got != c.want {
			t.Errorf("at %v: %v", c.wait, got)
		}
	}
	if new(patience).add(time.Hour, 3) {
		t.Error("three answers are enough to judge")
	}
}

func TestDescriptorsBoundTheFlight(t *testing.T) {
	for _, c := range []struct {
		files       uint64
		least, most int
		note        string
	}{
		{20_000, 64, 8000, ""},
		{1024, 64, 409, "ulimit -n 20000"},
		{100, 40, 40, "limit of 100 open files allows 40 connections"},
		{1, 1, 1, "ulimit"},
	} {
		least, most, note := flightBounds(Config{}.withDefaults(), c.files)
		if least != c.least || most != c.most || !strings.Contains(note, c.note) || (note == "") != (c.note == "") {
			t.Errorf("%d descriptors: %d to %d, %q", c.files, least, most, note)
		}
	}
}

func TestQuantilesAreClose(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	var h histogram
	var all []time.Duration
	for range 10_000 {
		d := time.Duration(random.ExpFloat64() * float64(50*time.Millisecond))
		if d > 0 {
			all = append(all, d)
		}
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{.5, .95, .99, 1} {
		want := all[int(q*float64(len(all)))-1]
		if got := h.quantile(q); got < want || float64(got) > 1.07*float64(want) {
			t.Errorf("quantile %v: %v, want %v to 7 %% more", q, got, want)
		}
	}
	if (&histogram{}).quantile(.5) != 0 {
		t.Error("an empty histogram has quantiles")
	}
}

// admit lets time pass by hand and checks the rules at each step.
func TestAdmissionHoldsItsLimits(t *testing.T) {
	const jobs = 400
	random := rand.New(rand.NewPCG(7, 7))
	a := newAdmission(newLimits(2, 50), newLimits(5, 200), 1)
	for i := range jobs {
		addr := netip.AddrFrom4([4]byte{192, 0, byte(i % 3), byte(random.IntN(4))})
		a.add(&job{addr: addr, slow: i%10 == 0})
	}
	now := time.Unix(1000, 0)
	hosts, nets := map[netip.Addr][]time.Time{}, map[netip.Prefix]int{}
	running := map[*job]time.Time{}
	busy := map[netip.Addr]int{}
	done, slow := 0, 0
	for done < jobs {
		for {
			j, wait := a.next(now, 9, 2, func(*job) {})
			if j == nil {
				if len(running) == 0 && wait > time.Minute {
					t.Fatalf("stuck after %d of %d", done, jobs)
				}
				break
			}
			prefix, _ := j.addr.Prefix(24)
			busy[j.addr]++
			nets[prefix]++
			if j.slow {
				slow++
			}
			if busy[j.addr] > 2 || nets[prefix] > 5 || len(running)-slow >= 9 || slow > 2 {
				t.Fatalf("limits: %d at the address, %d in the network, %d of %d slow", busy[j.addr], nets[prefix], slow, len(running)+1)
			}
			hosts[j.addr] = append(hosts[j.addr], now)
			running[j] = now.Add(time.Duration(random.IntN(30)) * time.Millisecond)
		}
		now = now.Add(time.Millisecond)
		for j, end := range running {
			if end.After(now) {
				continue
			}
			prefix, _ := j.addr.Prefix(24)
			busy[j.addr]--
			nets[prefix]--
			if j.slow {
				slow--
			}
			delete(running, j)
			a.leave(j)
			done++
		}
	}
	for addr, at := range hosts {
		for i := range at { // 50/s with a burst of 2: n in (n-2) * 20 ms
			if i >= 10 && at[i].Sub(at[i-10]) < 9*20*time.Millisecond-1 {
				t.Errorf("%s: 11 connections in %v", addr, at[i].Sub(at[i-10]))
				break
			}
		}
	}
	a.sweep(now.Add(time.Hour))
	if len(a.hosts)+len(a.nets) != 0 || len(a.timers) != 0 {
		t.Errorf("%d addresses, %d networks and %d timers are left", len(a.hosts), len(a.nets), len(a.timers))
	}
}

func TestOnlySuspicionsAreTriedAgain(t *testing.T) {
	for _, c := range probe.Classes() {
		want := c == probe.TimeoutConnect || c == probe.TimeoutTLS || c == probe.Local
		if c.Suspect() != want {
			t.Errorf("%s: suspect %v", c, c.Suspect())
		}
	}
}
