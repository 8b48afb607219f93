package fleet

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chancery/internal/scan/probe"
)

func TestPlanHasEveryKindInItsShare(t *testing.T) {
	for _, n := range []int{100, 2000} {
		count := map[Kind]int{}
		for _, s := range plan(n, false, rand.New(rand.NewPCG(1, 2))) {
			count[s.kind]++
		}
		total := 0
		for _, s := range mix() {
			if want := max(1, n*s.mille/1000); count[s.kind] != want {
				t.Errorf("%d endpoints: %d of %s, want %d", n, count[s.kind], s.kind, want)
			}
			total += count[s.kind]
		}
		if total+count[P256] != n {
			t.Errorf("%d endpoints of %d", total+count[P256], n)
		}
	}
}

func TestLiveFleetIsSound(t *testing.T) {
	for _, s := range plan(1000, true, rand.New(rand.NewPCG(1, 2))) {
		if s.class != probe.OK || s.fault != "" {
			t.Errorf("%s is not sound", s.kind)
		}
	}
}

func TestAddressesAreDistinct(t *testing.T) {
	for _, i := range []int{0, 1, perNetwork - 1, perNetwork, 20_000, MaxEndpoints - 1} {
		if got := indexOf(addressOf(i)); got != i || !addressOf(i).IsLoopback() {
			t.Errorf("endpoint %d is at %s, which is that of %d", i, addressOf(i), got)
		}
	}
}

func TestDelaysAreLogNormal(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	d := WideArea().Handshake
	var all []time.Duration
	for range 5000 {
		v := d.draw(random)
		if v < d.Min || v > d.Max {
			t.Fatalf("%v is outside %v to %v", v, d.Min, d.Max)
		}
		all = append(all, v)
	}
	slices.Sort(all)
	if median := all[len(all)/2]; median < 130*time.Millisecond || median > 150*time.Millisecond {
		t.Errorf("median %v, want %v", median, d.Median)
	}
}

func TestRunWritesWhatAScannerNeeds(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the files are written before Run waits
	if err := Run(ctx, Config{Endpoints: 30, Seed: 1}, dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "ready.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r Ready
	var truth []Endpoint
	if err := json.Unmarshal(text, &r); err != nil || r.DNS == "" || r.PID != os.Getpid() {
		t.Errorf("%v: %s", err, text)
	}
	if text, err = os.ReadFile(r.Truth); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &truth); err != nil || len(truth) != 30 {
		t.Errorf("%v: %d endpoints", err, len(truth))
	}
}

func TestStartRefusesSizes(t *testing.T) {
	for _, n := range []int{0, -1, MaxEndpoints + 1} {
		if _, err := Start(Config{Endpoints: n}); err == nil {
			t.Errorf("%d endpoints", n)
		}
	}
}
