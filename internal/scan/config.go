package scan

import (
	"context"
	"runtime"
	"time"

	"chancery/internal/dns"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// Kind is what a scan asks of each endpoint.
type Kind string

// Kinds of probe.
const (
	Observe  Kind = "observe"  // a full handshake: certificate and proof of the key
	Fetch    Kind = "fetch"    // the certificate only: cheapest, no proof, a failed handshake in the peer's log
	Dual     Kind = "dual"     // observe, and is there a second certificate of the other kind of key?
	Features Kind = "features" // observe, and which versions and post-quantum groups?
)

// Kinds lists every kind.
func Kinds() []Kind { return []Kind{Observe, Fetch, Dual, Features} }

// Valid reports whether k is a known kind.
func (k Kind) Valid() bool {
	return k == Observe || k == Fetch || k == Dual || k == Features
}

// connections is how many a probe of the kind opens one after the other; rates
// are charged for all of them.
func (k Kind) connections() int {
	switch k {
	case Dual:
		return 3
	case Features:
		return 6
	}
	return 1
}

// Sink takes results. It is called by one goroutine; the slice is only valid
// during the call. An error that is a fault with RetryAfter (unavailable, rate
// limited) means "not now": the same batch comes again after that time, and
// meanwhile the scan slows down. Any other error ends the scan.
type Sink func(ctx context.Context, batch []Result) error

// Config of a Scanner. Zero fields take the default named.
type Config struct {
	Resolver   *dns.Resolver
	Judge      *verdict.Judge
	Revocation *verdict.Revocation // nil: revocation is not looked up
	Probe      Kind                // Observe
	PreferIPv6 bool                // ask for AAAA first; the other family is asked only when the first has nothing

	// Warn is how long before its end a certificate becomes a problem; 0: at
	// its end.
	Warn time.Duration

	// Connect bounds connecting, 3 s: two SYN retransmissions. Handshake
	// bounds the sum of what the peer lets us wait for after that, 3 s; our
	// own computing does not count. A first attempt ends after two thirds of
	// either, as it only raises a suspicion: the second one, in the lane for
	// suspects, gets the whole time.
	Connect, Handshake time.Duration

	// PerAddress bounds connections to one address at once, 4, and AddressRate
	// their rate per second, 20: more looks like an attack to its owner, and
	// measures our own queue.
	PerAddress  int
	AddressRate float64

	// PerNetwork and NetworkRate are the same for a /24 (IPv6: /48), 64 and
	// 400/s: that much a small site's firewall can track.
	PerNetwork  int
	NetworkRate float64

	// Targets in flight: from Start, 256, between MinInFlight, 64 (below it
	// waiting alone limits the rate) and MaxInFlight, 8,000 (beyond it each
	// connection costs more memory than it saves time), or DescriptorShare,
	// 0.4, of the descriptors: the rest is for sockets that linger, DNS, files
	// and the other parts of the program.
	Start, MinInFlight, MaxInFlight int
	DescriptorShare                 float64

	// Suspects bounds targets in flight that are tried again or failed in the
	// last pass, 256: they mostly wait for a time-out, in a lane of their own,
	// so that dead endpoints never hold up the others.
	Suspects int

	// CPUTokens bounds connections that compute at once, 2 per processor: one
	// works while the other is in a system call.
	CPUTokens int

	// Latency is the local delay (99th percentile) up to which the number in
	// flight grows, 20 ms: well below any peer's time-out, well above noise.
	// Beyond probe.Stall times as much it shrinks. Tune is how often that is
	// looked at, 50 ms.
	Latency, Tune time.Duration

	// Lookups bounds names being resolved at once, 512: what recursive servers
	// take from one client.
	Lookups int

	// Batch and Flush bound the results of one call of the sink, 50, and their
	// delay, 500 ms. Backlog is how many finished results may wait for the
	// sink before no further target is admitted, 4,096 (a few megabytes).
	Batch   int
	Flush   time.Duration
	Backlog int

	State   *State           // resumes and records; nil: neither
	Now     func() time.Time // time.Now
	Shuffle func(n int, swap func(i, j int))

	openFiles uint64 // for tests
}

// withDefaults fills the zero fields of c.
func (c Config) withDefaults() Config {
	setInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	setTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	setFloat := func(v *float64, d float64) {
		if *v <= 0 {
			*v = d
		}
	}
	setInt(&c.PerAddress, 4)
	setInt(&c.PerNetwork, 64)
	setInt(&c.Start, 256)
	setInt(&c.MinInFlight, 64)
	setInt(&c.MaxInFlight, 8000)
	setInt(&c.Suspects, 256)
	setInt(&c.CPUTokens, 2*runtime.GOMAXPROCS(0))
	setInt(&c.Lookups, 512)
	setInt(&c.Batch, 50)
	setInt(&c.Backlog, 4096)
	setTime(&c.Connect, 3*time.Second)
	setTime(&c.Handshake, 3*time.Second)
	setTime(&c.Latency, 20*time.Millisecond)
	setTime(&c.Tune, 50*time.Millisecond)
	setTime(&c.Flush, 500*time.Millisecond)
	setFloat(&c.AddressRate, 20)
	setFloat(&c.NetworkRate, 400)
	setFloat(&c.DescriptorShare, 0.4)
	if c.Probe == "" {
		c.Probe = Observe
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.openFiles == 0 {
		c.openFiles = openFiles()
	}
	return c
}

// dialers returns the dialers of first and of second attempts.
func (c *Config) dialers() (first, second *probe.Dialer) {
	tokens := probe.NewTokens(c.CPUTokens, c.Latency)
	return probe.NewDialer(tokens, c.Connect*2/3, c.Handshake*2/3), probe.NewDialer(tokens, c.Connect, c.Handshake)
}
