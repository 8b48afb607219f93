package fleet

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// Zones of the endpoints' names.
const (
	zone         = "fleet.test"
	wildcardZone = "shared.fleet.test"
)

// Config of a Fleet.
type Config struct {
	Endpoints int    // at most MaxEndpoints
	Seed      uint64 // the same seed gives the same kinds and delays
	Live      bool   // only endpoints that answer and are in order
	Delays    Delays
}

// MaxEndpoints is how many addresses a fleet has.
const MaxEndpoints = 250 * 256 * perNetwork

// perNetwork is how many endpoints share a /24.
const perNetwork = 8

// Endpoint is one endpoint and what a scanner ought to find.
type Endpoint struct {
	Target   string            `json:"target"` // as `chancery scan` reads it
	Kind     Kind              `json:"kind"`
	Class    probe.Class       `json:"class"`
	Alert    uint8             `json:"alert,omitempty"`
	Problems []verdict.Problem `json:"problems"` // "revoked" only if revocation is looked up
	Leaf     string            `json:"leaf,omitempty"`

	served *served
	delay  time.Duration
	zone   zoneEntry
}

// Fleet is a running fleet.
type Fleet struct {
	Endpoints []Endpoint
	Root      []byte // PEM

	cfg       Config
	dns       *nameServer
	authority *authority
	listeners []net.Listener
	ports     map[probe.Protocol]uint16
	hole      *blackhole
	dead      *deadPort
	crl       *http.Server
	names     map[string]int // name -> endpoint
	conns     sync.WaitGroup
	closed    chan struct{}
}

// Start makes the certificates and serves until Close.
func Start(cfg Config) (*Fleet, error) {
	if cfg.Endpoints < 1 || cfg.Endpoints > MaxEndpoints {
		return nil, fmt.Errorf("start fleet: want 1 to %d endpoints", MaxEndpoints)
	}
	f := &Fleet{cfg: cfg, ports: make(map[probe.Protocol]uint16), names: make(map[string]int, cfg.Endpoints), closed: make(chan struct{})}
	if err := f.open(); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// open starts every server.
func (f *Fleet) open() (err error) {
	crl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for fleet CRL: %w", err)
	}
	if f.authority, err = newAuthority(time.Now(), "http://"+crl.Addr().String()+"/fleet.crl"); err != nil {
		return err
	}
	f.Root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.authority.root.Raw})
	if f.hole, err = newBlackhole(); err != nil {
		return fmt.Errorf("make a port that drops: %w", err)
	}
	if f.dead, err = newDeadPort(); err != nil {
		return fmt.Errorf("make a port that refuses: %w", err)
	}
	for _, p := range probe.Protocols() {
		if err := f.listen(p); err != nil {
			return err
		}
	}
	if err := f.populate(); err != nil {
		return err
	}
	list, err := f.authority.crl()
	if err != nil {
		return err
	}
	f.crl = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(list) }), ReadHeaderTimeout: time.Second}
	go f.crl.Serve(crl)
	for i, l := range f.listeners {
		go f.accept(l, probe.Protocols()[i])
	}
	f.dns, err = startDNS(f.cfg.Delays.DNS, f.resolve)
	return err
}

// listen opens the port of a protocol on every address.
func (f *Fleet) listen(p probe.Protocol) error {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		return fmt.Errorf("listen for fleet: %w", err)
	}
	f.listeners = append(f.listeners, l)
	f.ports[p] = uint16(l.Addr().(*net.TCPAddr).Port)
	return nil
}

// populate makes the endpoints.
func (f *Fleet) populate() error {
	random := rand.New(rand.NewPCG(f.cfg.Seed, 7))
	protocols := probe.Protocols()[1:]
	f.Endpoints = make([]Endpoint, f.cfg.Endpoints)
	for i, s := range plan(f.cfg.Endpoints, f.cfg.Live, random) {
		e := &f.Endpoints[i]
		*e = Endpoint{Kind: s.kind, Class: s.class, Problems: []verdict.Problem{}}
		if s.fault != "" {
			e.Problems = append(e.Problems, s.fault)
		}
		if s.kind == AlertKind {
			e.Alert = alertHandshake
		}
		name := fmt.Sprintf("h%06d.%s", i, zone)
		if s.kind == Wildcard {
			name = fmt.Sprintf("h%06d.%s", i, wildcardZone)
		}
		certs, err := f.authority.certificates(s.kind, i, name)
		if err != nil {
			return err
		}
		e.served = newServed(s.kind, certs)
		e.Leaf = e.served.fingerprint()
		e.delay = f.cfg.Delays.TCP.draw(random) + f.cfg.Delays.Handshake.draw(random)
		protocol := probe.TLS
		if s.kind == StartTLS || s.kind == StartTLSRefused {
			protocol = protocols[random.IntN(len(protocols))]
		}
		if s.kind == StartTLS { // every protocol, also in a small fleet
			protocol, protocols = protocols[0], append(protocols[1:], protocols[0])
		}
		e.zone = zoneEntry{addr: addressOf(i), ttl: 5 + uint32(random.IntN(55))}
		f.place(e, i, name, protocol, random)
	}
	return nil
}

// place gives an endpoint its name, its entry in the zone and its target.
func (f *Fleet) place(e *Endpoint, i int, name string, protocol probe.Protocol, random *rand.Rand) {
	port := f.ports[protocol]
	switch e.Kind {
	case Refused:
		port = f.dead.port
	case Dropped:
		port = f.hole.port
	case ServFail:
		e.zone.rcode = dns.RcodeServerFailure
	}
	if random.IntN(10) == 0 {
		e.zone.alias = fmt.Sprintf("lb%06d.%s", i, zone)
	}
	if e.Kind != NXDomain {
		f.names[name] = i
	}
	e.Target = fmt.Sprintf("%s:%d", name, port)
	if protocol != probe.TLS {
		e.Target = string(protocol) + "://" + e.Target
	}
}

// addressOf gives each endpoint an address of its own.
func addressOf(i int) netip.Addr {
	network := i / perNetwork
	return netip.AddrFrom4([4]byte{127, byte(network/256) + 1, byte(network % 256), byte(10 + i%perNetwork)})
}

// indexOf is the inverse of addressOf.
func indexOf(addr netip.Addr) int {
	b := addr.Unmap().As4()
	return ((int(b[1])-1)*256+int(b[2]))*perNetwork + int(b[3]) - 10
}

// resolve looks a name up in the zone.
func (f *Fleet) resolve(name string) (zoneEntry, bool) {
	if i, ok := f.names[name]; ok {
		return f.Endpoints[i].zone, true
	}
	return zoneEntry{}, false
}

// DNS returns the address of the DNS server.
func (f *Fleet) DNS() string { return f.dns.conn.LocalAddr().String() }

// Queries returns how many DNS queries were asked.
func (f *Fleet) Queries() int { return int(f.dns.queries.Load()) }

// Close ends the fleet.
func (f *Fleet) Close() {
	select {
	case <-f.closed:
		return
	default:
		close(f.closed)
	}
	for _, l := range f.listeners {
		l.Close()
	}
	if f.dns != nil {
		f.dns.conn.Close()
	}
	if f.crl != nil {
		f.crl.Close()
	}
	if f.hole != nil {
		f.hole.close()
	}
	if f.dead != nil {
		f.dead.close()
	}
}

// Ready is the file that Run writes when the fleet serves.
type Ready struct {
	DNS     string `json:"dns"`     // address:port of the DNS server
	Targets string `json:"targets"` // file: one target a line
	Root    string `json:"root"`    // file: PEM
	Truth   string `json:"truth"`   // file: JSON array of Endpoint
	PID     int    `json:"pid"`
}

// Run serves a fleet until ctx ends, after writing what a scanner needs to
// dir: targets.txt, root.pem, truth.json and, last, ready.json.
func Run(ctx context.Context, cfg Config, dir string) error {
	f, err := Start(cfg)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.write(dir); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// write writes the files of Run.
func (f *Fleet) write(dir string) error {
	var targets strings.Builder
	for i := range f.Endpoints {
		targets.WriteString(f.Endpoints[i].Target + "\n")
	}
	r := Ready{DNS: f.DNS(), Targets: filepath.Join(dir, "targets.txt"), Root: filepath.Join(dir, "root.pem"), Truth: filepath.Join(dir, "truth.json"), PID: os.Getpid()}
	truth, err1 := json.Marshal(f.Endpoints)
	ready, err2 := json.Marshal(r)
	err := errors.Join(err1, err2, os.WriteFile(r.Targets, []byte(targets.String()), 0o644), os.WriteFile(r.Root, f.Root, 0o644), os.WriteFile(r.Truth, truth, 0o644))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ready.json"), ready, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write fleet files: %w", err)
	}
	return nil
}
