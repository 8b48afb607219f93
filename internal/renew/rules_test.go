package renew

import (
	"fmt"
	"testing"
	"time"

	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/pki"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Every state can be reached, leads somewhere, and the way from due to idle
// never goes around the stored chain.
func TestTransitions(t *testing.T) {
	reached := map[State]bool{Due: true}
	for _, from := range States {
		if len(transitions[from]) == 0 || !from.Valid() {
			t.Errorf("%s leads nowhere", from)
		}
		for _, to := range transitions[from] {
			reached[to] = true
			if !to.Valid() || from == to {
				t.Errorf("%s to %s", from, to)
			}
			if (to == Deploying || to == Verified) && from.issuing() {
				t.Errorf("%s goes to %s without a stored chain", from, to)
			}
		}
		for _, to := range States {
			listed := false
			for _, x := range transitions[from] {
				listed = listed || x == to
			}
			if from.may(to) != (listed || from == to) {
				t.Errorf("may(%s, %s)", from, to)
			}
		}
	}
	for _, s := range States {
		if !reached[s] {
			t.Errorf("%s is never reached", s)
		}
	}
	for word, want := range map[string]State{"ordered": Ordered, "ready": Ready, "finalizing": Finalizing, "pending": Ordered, "idle": Ordered, "due": Ordered, "issued": Ordered, "": Ordered} {
		if got := stateOf(word); got != want {
			t.Errorf("%q stands for %s, want %s", word, got, want)
		}
	}
}

// The life of a breaker: it opens after failures in a row, one probe at a time
// finds out, each failed one doubles the pause, and a success lets the queue
// out slowly.
func TestLaneBreaker(t *testing.T) {
	now := t0
	l := Lane{Kind: IssuerLane, Name: "x"}
	for range laneFailures - 1 {
		l.failed(now, "down")
	}
	l.succeeded()
	for range laneFailures - 1 {
		l.failed(now, "down")
	}
	if l.open() || l.allow(now, 8) != 8 {
		t.Fatalf("it is open too early: %+v", l)
	}
	l.failed(now, "down")
	l.failed(now, "began before it opened")
	if !l.open() || l.allow(now, 8) != 0 || !l.until(now).Equal(now.Add(laneOpen)) {
		t.Fatalf("it is not open: %+v", l)
	}
	pause := laneOpen
	for range 10 {
		now = now.Add(pause)
		if got := l.allow(now, 8); got != 1 {
			t.Fatalf("%d probes at once", got)
		}
		l.failed(now, "still down")
		pause = min(2*pause, laneMaxOpen)
		if got := l.until(now).Sub(now); got != pause {
			t.Errorf("the next pause is %s, want %s", got, pause)
		}
	}
	l.succeeded()
	ramp := []int{}
	for !l.calm() {
		ramp = append(ramp, l.allow(now, 50))
		l.succeeded()
	}
	if fmt.Sprint(ramp) != "[1 2 4 8 16 32]" || l.allow(now, 50) != 50 {
		t.Errorf("it came back with %v", ramp)
	}
}

// A clock that was ahead must not close a lane for as long.
func TestLaneForgivesTheClock(t *testing.T) {
	future := t0.Add(400 * 24 * time.Hour)
	l := Lane{}
	for range laneFailures {
		l.failed(future, "down")
	}
	if got := l.allow(t0, 8); got != 1 {
		t.Errorf("open until next year: %d may go", got)
	}
	l = Lane{}
	l.sleep(future, time.Hour, "429")
	if got := l.allow(t0, 8); got != 1 {
		t.Errorf("asleep until next year: %d may go", got)
	}
	l = Lane{}
	l.sleep(t0, 100*time.Hour, "429")
	if got := l.until(t0).Sub(t0); got != laneMaxSleep {
		t.Errorf("it sleeps for %s", got)
	}
	l.Paused = true
	if got := l.allow(t0.Add(time.Hour), 8); got != 0 {
		t.Errorf("paused, and %d may go", got)
	}
}

// When a certificate leaves an issuer that is down.
func TestFallback(t *testing.T) {
	open := Lane{OpenedAt: t0, OpenUntil: t0.Add(time.Hour)}
	day := 24 * time.Hour
	for _, c := range []struct {
		l    Lane
		down time.Duration
		left time.Duration
		want bool
	}{
		{Lane{}, time.Hour, day, false}, {open, time.Minute, 30 * day, false}, {open, 15 * time.Minute, 30 * day, true},
		{open, 8 * time.Minute, time.Hour, true}, {open, 7 * time.Minute, time.Hour, false}, {open, time.Minute, 0, false},
		{Lane{Divert: "other"}, 0, 90 * day, true},
	} {
		if got := c.l.fallback(t0.Add(c.down), c.left, fallbackAfter); got != c.want {
			t.Errorf("down for %s, %s left, %+v: %v", c.down, c.left, c.l, got)
		}
	}
}

// What an order spends at Let's Encrypt, by its published rules.
func TestCharges(t *testing.T) {
	le, err := Preset("letsencrypt")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pki.ParseNames([]string{"www.example.co.uk", "*.pay.example.co.uk", "example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		replaces, renewal bool
		want              string
	}{{false, false, "orders domain:example.co.uk domain:example.com name-set"}, {false, true, "name-set"}, {true, true, ""}} {
		got := ""
		for _, ch := range charges(le, ids, c.replaces, c.renewal) {
			text := ch.budget.Name
			if ch.budget.Scope == limit.PerDomain {
				text += ":" + ch.subject
			}
			if got != "" {
				got += " "
			}
			got += text
		}
		if got != c.want {
			t.Errorf("replaces %v, renewal %v: %q, want %q", c.replaces, c.renewal, got, c.want)
		}
	}
	if n := len(failureCharges(le, ids)); n != 3 {
		t.Errorf("%d failures are counted", n)
	}
	if _, err := Preset("nobody"); !fault.Is(err, fault.Invalid) {
		t.Errorf("unknown preset: %v", err)
	}
	for _, name := range PresetNames() {
		for _, b := range presets[name] {
			if err := b.Rate.Validate(); err != nil || b.Rate.Unlimited() {
				t.Errorf("%s %s: %v", name, b.Name, err)
			}
		}
	}
}

// Specs that make no sense are refused with a reason.
func TestSpec(t *testing.T) {
	name := func(v string) pki.Identifier { return pki.Identifier{Type: pki.DNS, Value: v} }
	good := Spec{Names: []pki.Identifier{name("b.example.com"), name("*.example.com"), name("b.example.com")}, Issuer: "x"}
	if err := good.normalize(); err != nil || good.Name != "wildcard.example.com" || len(good.Names) != 2 || good.KeyType != pki.P256 || good.KeyPolicy != NewKey {
		t.Errorf("%+v, %v", good, err)
	}
	for what, edit := range map[string]func(*Spec){
		"no names":     func(s *Spec) { s.Names = nil },
		"bad name":     func(s *Spec) { s.Names = []pki.Identifier{name("not a name")} },
		"path as name": func(s *Spec) { s.Name = "../../etc/passwd" },
		"no issuer":    func(s *Spec) { s.Issuer = "" },
		"own fallback": func(s *Spec) { s.Fallbacks = []string{"x"} },
		"key type":     func(s *Spec) { s.KeyType = "dsa" },
		"key policy":   func(s *Spec) { s.KeyPolicy = "never" },
		"endpoint":     func(s *Spec) { s.Endpoints = []string{"www.example.com"} },
		"port":         func(s *Spec) { s.Endpoints = []string{"www.example.com:0"} },
		"target twice": func(s *Spec) { s.Targets = []Target{{Name: "a"}, {Name: "a"}} },
		"owner":        func(s *Spec) { s.Owner = "a\x00b" },
		"profile":      func(s *Spec) { s.Profile = "a b" },
		"renew before": func(s *Spec) { s.RenewBefore = -1 },
		"too many names": func(s *Spec) {
			s.Names = nil
			for i := range maxNames + 1 {
				s.Names = append(s.Names, name(fmt.Sprintf("n%d.example.com", i)))
			}
		},
	} {
		s := Spec{Names: []pki.Identifier{name("a.example.com")}, Issuer: "x"}
		edit(&s)
		if err := s.normalize(); err == nil {
			t.Errorf("%s: accepted", what)
		} else if fault.As(err).Code == fault.ServerInternal {
			t.Errorf("%s: %v", what, err)
		}
	}
}
