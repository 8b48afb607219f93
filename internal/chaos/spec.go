// Package chaos makes a server misbehave in the ways that ACME allows it to, so
// that people can test their clients: refusals with Retry-After, rejected
// nonces, answers that are lost after the work was done, slow and asynchronous
// finalization. It stands outside of everything, as one http.Handler around the
// real one, and knows no state of the server.
package chaos

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Spec says how often what goes wrong.
type Spec struct {
	Limited     float64 // 429 rateLimited before anything is done
	Unavailable float64 // 503 before anything is done
	Nonce       float64 // 400 badNonce, with a good one
	Lost        float64 // the connection is closed after the work was done
	Slow        float64 // finalize answers after Delay
	Processing  float64 // a finalized order is shown as processing for Hold

	Delay time.Duration // of Slow
	Hold  time.Duration // of Processing
	Retry time.Duration // the Retry-After of all, whole seconds
	Seed  uint64        // the same requests in the same order meet the same faults
}

// highest bounds each rate: a client that repeats itself must get through.
const highest = 0.9

// rates are the names of the faults, in the order in which they are drawn.
var rates = []struct {
	name string
	of   func(*Spec) *float64
}{
	{"429", func(s *Spec) *float64 { return &s.Limited }},
	{"503", func(s *Spec) *float64 { return &s.Unavailable }},
	{"nonce", func(s *Spec) *float64 { return &s.Nonce }},
	{"lost", func(s *Spec) *float64 { return &s.Lost }},
	{"slow", func(s *Spec) *float64 { return &s.Slow }},
	{"processing", func(s *Spec) *float64 { return &s.Processing }},
}

// times are the names of the durations.
var times = []struct {
	name string
	most time.Duration
	of   func(*Spec) *time.Duration
}{
	{"delay", 20 * time.Second, func(s *Spec) *time.Duration { return &s.Delay }},
	{"hold", time.Minute, func(s *Spec) *time.Duration { return &s.Hold }},
	{"retry", time.Hour, func(s *Spec) *time.Duration { return &s.Retry }},
}

// Parse reads "0.1" (every fault at that rate) or "nonce=0.3,lost=0.1,seed=7".
// Without a seed it chooses one, which String shows.
func Parse(text string) (Spec, error) {
	s := Spec{Delay: 3 * time.Second, Hold: 3 * time.Second, Retry: time.Second, Seed: rand.Uint64N(1e6) + 1}
	if all, err := strconv.ParseFloat(text, 64); err == nil {
		for _, r := range rates {
			*r.of(&s) = all
		}
		return s, s.check()
	}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if err := s.set(name, value); err != nil {
			return s, err
		}
	}
	return s, s.check()
}

// set stores one part of the text.
func (s *Spec) set(name, value string) (err error) {
	for _, r := range rates {
		if r.name == name {
			if *r.of(s), err = strconv.ParseFloat(value, 64); err != nil {
				return fmt.Errorf("%s=%s is not a rate such as 0.1", name, value)
			}
			return nil
		}
	}
	for _, d := range times {
		if d.name == name {
			if *d.of(s), err = time.ParseDuration(value); err != nil {
				return fmt.Errorf("%s=%s is not a duration such as 3s", name, value)
			}
			return nil
		}
	}
	if name != "seed" {
		return fmt.Errorf("%q is unknown; there are 429, 503, nonce, lost, slow, processing (rates), delay, hold, retry (durations) and seed", name)
	}
	if s.Seed, err = strconv.ParseUint(value, 10, 64); err != nil || s.Seed == 0 {
		return fmt.Errorf("seed=%s is not a number above 0", value)
	}
	return nil
}

func (s *Spec) check() error {
	any := false
	for _, r := range rates {
		v := *r.of(s)
		if !(v >= 0 && v <= highest) { // a NaN is neither
			return fmt.Errorf("%s=%g is not between 0 and %g", r.name, v, highest)
		}
		any = any || v > 0
	}
	if !any {
		return fmt.Errorf("nothing would go wrong; name a rate, such as 0.1 or nonce=0.3,lost=0.1")
	}
	for _, d := range times {
		if v := *d.of(s); v <= 0 || v > d.most {
			return fmt.Errorf("%s=%s is not between 0 and %s", d.name, v, d.most)
		}
	}
	return nil
}

// String returns what Parse reads as the same.
func (s *Spec) String() string {
	var parts []string
	for _, r := range rates {
		if v := *r.of(s); v > 0 {
			parts = append(parts, r.name+"="+strconv.FormatFloat(v, 'g', -1, 64))
		}
	}
	for _, d := range times {
		parts = append(parts, d.name+"="+d.of(s).String())
	}
	return strings.Join(append(parts, "seed="+strconv.FormatUint(s.Seed, 10)), ",")
}
