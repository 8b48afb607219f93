package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func mixOf(t *testing.T, classes ...Class) ([]Point, Mix, error) {
	t.Helper()
	d := Driver{Plan: Plan{Warmup: time.Second, Duration: 4 * time.Second, Drain: time.Second}}
	return d.RunMix(t.Context(), classes)
}

func steady(name string, rate float64, took time.Duration) Class {
	return Class{Workload{Name: name, Unit: "operations", Do: take(took)}, 50, rate}
}

// Each class keeps its own rate and latency, and what is used belongs to none.
func TestMixKeepsClassesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		points, mix, err := mixOf(t, steady("quick", 100, time.Millisecond), steady("slow", 5, 200*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []struct {
			name         string
			rate, millis float64
			n            int64
		}{{"quick", 100, 1, 400}, {"slow", 5, 200, 20}} {
			p := points[i]
			if p.Variant != want.name || p.Rate != want.rate || p.Latency.Count != want.n || p.failed() != 0 || p.ServerCPU != nil {
				t.Errorf("%+v", p)
			}
			near(t, "p50 of "+want.name, p.Latency.P50, want.millis)
		}
		if mix.Window != 4*time.Second {
			t.Error(mix.Window)
		}
	})
}

// A class that gets nowhere ends the run, and errors of a class are its own.
func TestMixFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := Class{Workload{Name: "broken", Unit: "operations", Do: func(context.Context, int, *Sample) error { return errors.New("no") }}, 2, 50}
		if _, _, err := mixOf(t, steady("good", 100, time.Millisecond), broken); err == nil || !strings.Contains(err.Error(), "nothing succeeded") {
			t.Error(err)
		}
		n := 0
		shaky := Class{Workload{Name: "shaky", Unit: "operations", Do: func(context.Context, int, *Sample) error {
			if n++; n%2 == 0 {
				return errors.New("every other one")
			}
			return nil
		}}, 1, 10}
		points, _, err := mixOf(t, steady("good", 100, time.Millisecond), shaky)
		if err != nil || points[0].failed() != 0 || points[1].failed() != 20 {
			t.Error(points, err)
		}
	})
	if _, _, err := mixOf(t); err == nil {
		t.Error("a mix of nothing was run")
	}
	unready := Class{Workload{Name: "unready", Open: func(context.Context, int) error { return errors.New("not ready") }}, 1, 1}
	if _, _, err := mixOf(t, unready); err == nil || err.Error() != "not ready" {
		t.Error(err)
	}
}

func TestMixFigures(t *testing.T) {
	n := 300.0
	text := fmt.Sprint(Mix{10 * time.Second, Usage{ClientCPU: 5000, ServerCPU: 12000, Others: .25, PeakRSS: 200e6, Statements: &n}}.Figures())
	if want := "[{server CPU 1.2 cores} {client CPU 0.5 cores} {others CPU 25 % of the machine} {server peak memory 200 MB} {SQL 30 statements/s}]"; text != want {
		t.Error(text)
	}
}

// Rounds of a bulk renewal become one line: their rate, and the latency of the
// requests.
func TestBulkPoint(t *testing.T) {
	p := BulkPoint([]Bulk{
		{Certificates: 1000, Accepted: 100 * time.Millisecond, Drained: 2 * time.Second, Usage: Usage{ServerCPU: 2000}},
		{Certificates: 1000, Accepted: 200 * time.Millisecond, Drained: 4 * time.Second, Usage: Usage{ServerCPU: 4000}},
	})
	near(t, "rate", p.PerSecond.Median, 375)
	near(t, "server CPU", p.ServerCPU.Median, 3)
	near(t, "accepted", p.Latency.Max, 200)
	if p.Variant != "1000 by one request" || len(p.Rounds) != 2 {
		t.Errorf("%+v", p)
	}
}
