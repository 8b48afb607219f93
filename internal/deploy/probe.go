package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery/internal/scan/probe"
)

// Probe says where and how the server is asked what it serves. Without
// addresses nothing is asked.
type Probe struct {
	Addresses []Address
	Timeout   time.Duration // of one connection; 0 = 5 s
	Settle    time.Duration // how long after the reload old workers may go on answering; 0 = 15 s
	Workers   int           // connections at once; 0 = 16
}

// Address is where a server listens, and what it speaks before TLS.
type Address struct {
	Protocol probe.Protocol
	Host     string // name or address
	Port     uint16
}

// String returns "smtp://mail.example.com:25".
func (a Address) String() string {
	return string(a.Protocol) + "://" + net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// ParseAddress reads "127.0.0.1:443" or "smtp://127.0.0.1:25". Without a
// protocol the server speaks def.
func ParseAddress(s string, def probe.Protocol) (Address, error) {
	a := Address{Protocol: def}
	rest := s
	if p, after, ok := strings.Cut(s, "://"); ok {
		a.Protocol, rest = probe.Protocol(p), after
	}
	if a.Protocol == "" {
		a.Protocol = probe.TLS
	}
	host, port, err := net.SplitHostPort(rest)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || !a.Protocol.Valid() {
		return a, fmt.Errorf("%q is not where to probe; write host:port or protocol://host:port, with a protocol of %v", s, probe.Protocols())
	}
	a.Host, a.Port = host, uint16(n)
	return a, nil
}

// probeWildcard takes the place of the asterisk of a wildcard name.
const probeWildcard = "chancery-probe"

// ProbeNames returns the server names that an item is asked for by: what its
// parameter "probe" says (a list with commas, or "none"), or else all its DNS
// names. An item with addresses only is asked without a name.
func ProbeNames(item *Item) []string {
	if list, ok := item.Params["probe"]; ok {
		if list == "none" {
			return nil
		}
		return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	}
	var names []string
	for _, name := range item.Names {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		if rest, ok := strings.CutPrefix(name, "*."); ok {
			name = probeWildcard + "." + rest
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return []string{""}
	}
	return names
}

// Items asks every address for every name of the items until it shows the
// item's leaf, and returns what is wrong, by ID.
func (p Probe) Items(ctx context.Context, items []Item) map[string]error {
	return p.ask(ctx, items, ProbeNames, true)
}

// Gone waits until the addresses do not show the items any more, after a
// rollback: old workers that still do would make the next attempt look like a
// success. It asks for one name of each item and says which are still there.
func (p Probe) Gone(ctx context.Context, items []Item) map[string]error {
	return p.ask(ctx, items, func(item *Item) []string { return ProbeNames(item)[:min(1, len(ProbeNames(item)))] }, false)
}

// ask asks every address for the names of the items until it shows the leaf,
// or shows it no more.
func (p Probe) ask(ctx context.Context, items []Item, names func(*Item) []string, shown bool) map[string]error {
	if len(p.Addresses) == 0 {
		return nil
	}
	workers := max(p.Workers, 0)
	if workers == 0 {
		workers = 16
	}
	timeout := orDuration(p.Timeout, 5*time.Second)
	ctx, cancel := context.WithTimeout(ctx, orDuration(p.Settle, 15*time.Second)+timeout)
	defer cancel()
	q := &prober{
		dialer: probe.NewDialer(probe.NewTokens(workers, time.Second), timeout, timeout), observer: probe.NewObserver(time.Now),
		until: time.Now().Add(orDuration(p.Settle, 15*time.Second)), slots: make(chan struct{}, workers), bad: map[string]error{}, shown: shown, names: names,
	}
	q.all(ctx, p.Addresses, items)
	return q.bad
}

// prober is one call of Items.
type prober struct {
	dialer   *probe.Dialer
	observer *probe.Observer
	until    time.Time
	slots    chan struct{}
	shown    bool // what is hoped for: that the leaf is shown, or that it is not
	names    func(*Item) []string

	mu  sync.Mutex
	bad map[string]error
}

// all asks for everything, as many at once as there are slots.
func (q *prober) all(ctx context.Context, addresses []Address, items []Item) {
	var wg sync.WaitGroup
	for i := range items {
		for _, name := range q.names(&items[i]) {
			for _, a := range addresses {
				q.slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-q.slots }()
					q.one(ctx, a, name, &items[i])
				})
			}
		}
	}
	wg.Wait()
}

// one asks one address for one name until the answer is right or the time is
// over.
func (q *prober) one(ctx context.Context, a Address, name string, item *Item) {
	want := sha256.Sum256(item.Chain[0])
	pause := 20 * time.Millisecond
	for {
		err := q.leaf(ctx, a, name, want)
		if (err == nil) == q.shown {
			return
		}
		if err == nil {
			err = fmt.Errorf("probe %s for %q: it still shows the certificate that was taken back", a, name)
		}
		if ctx.Err() != nil || time.Now().Add(pause).After(q.until) {
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.bad[item.ID] == nil {
				q.bad[item.ID] = err
			}
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, time.Second)
	}
}

// leaf makes one handshake and compares the leaf. A server may have a second
// certificate with another kind of key, which it prefers; then it is asked for
// each kind.
func (q *prober) leaf(ctx context.Context, a Address, name string, want [32]byte) error {
	addr, err := resolve(ctx, a)
	if err != nil {
		return err
	}
	peer, f := q.observe(ctx, a, addr, name)
	if f != nil {
		return fmt.Errorf("probe %s for %q: %w", a, name, f)
	}
	if len(peer.Certs) == 0 {
		return fmt.Errorf("probe %s for %q: it shows no certificate", a, name)
	}
	shown := sha256.Sum256(peer.Certs[0].Raw)
	if shown == want {
		return nil
	}
	duals, f := probe.Dual(func() (*probe.Conn, *probe.Failure) { return q.dial(ctx, a, addr, name) }, name)
	if f == nil && (shows(duals.ECDSA, want) || shows(duals.RSA, want)) {
		return nil
	}
	return fmt.Errorf("probe %s for %q: it shows the certificate with SHA-256 %s, not %s", a, name, hex.EncodeToString(shown[:8]), hex.EncodeToString(want[:8]))
}

func shows(chain [][]byte, want [32]byte) bool {
	return len(chain) > 0 && sha256.Sum256(chain[0]) == want
}

// observe makes a full handshake.
func (q *prober) observe(ctx context.Context, a Address, addr netip.AddrPort, name string) (*probe.Peer, *probe.Failure) {
	conn, f := q.dial(ctx, a, addr, name)
	if f != nil {
		return nil, f
	}
	defer conn.Close()
	return q.observer.Observe(conn, name)
}

// dial connects and brings the server to the point where TLS begins.
func (q *prober) dial(ctx context.Context, a Address, addr netip.AddrPort, name string) (*probe.Conn, *probe.Failure) {
	conn, f := q.dialer.Dial(ctx, addr)
	if f != nil {
		return nil, f
	}
	if f = probe.StartTLS(conn, a.Protocol, name); f != nil {
		conn.Close()
		return nil, f
	}
	return conn, nil
}

// resolve returns the address of a server's host.
func resolve(ctx context.Context, a Address) (netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(a.Host); err == nil {
		return netip.AddrPortFrom(ip, a.Port), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", a.Host)
	if err == nil && len(ips) == 0 {
		err = errors.New("no address")
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolve %s: %w", a.Host, err)
	}
	slices.SortStableFunc(ips, func(x, y netip.Addr) int { return x.BitLen() - y.BitLen() }) // IPv4 first: a name with both often has no route for the other
	return netip.AddrPortFrom(ips[0].Unmap(), a.Port), nil
}
