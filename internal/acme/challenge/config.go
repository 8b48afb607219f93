package challenge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Config is what all validators of one perspective share.
type Config struct {
	Resolver      *dns.Resolver    // required
	Policy        Policy           // which addresses may be contacted
	HTTP01Port    uint16           // where http-01 asks, 80 if 0; another port is for development only
	HTTPSPort     uint16           // where redirects to https go, 443 if 0
	TLSALPN01Port uint16           // where tls-alpn-01 connects, 443 if 0
	Perspective   string           // where this process runs, "local" if empty
	UserAgent     string           // of http-01 requests, one line; "chancery" if empty
	Timeout       time.Duration    // one validation in all, 10 s if 0
	StepTimeout   time.Duration    // one connection, handshake or response, 5 s if 0
	MaxQueries    int              // DNS queries of one validation, 60 if 0
	Now           func() time.Time // time.Now if nil; stamps proofs
}

// addrMaxAge is how old an address may be: enough that a redirect to the same
// host needs no second look-up, and no more.
const addrMaxAge = time.Second

// maxRecorded is how many addresses of one name a validation record lists.
const maxRecorded = 16

// prover is what the validators have in common.
type prover struct{ cfg Config }

func newProver(c Config) prover {
	if c.HTTP01Port == 0 {
		c.HTTP01Port = 80
	}
	if c.HTTPSPort == 0 {
		c.HTTPSPort = 443
	}
	if c.TLSALPN01Port == 0 {
		c.TLSALPN01Port = 443
	}
	if c.Perspective == "" {
		c.Perspective = "local"
	}
	if c.UserAgent == "" || strings.ContainsAny(c.UserAgent, "\r\n") {
		c.UserAgent = "chancery"
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.StepTimeout <= 0 {
		c.StepTimeout = 5 * time.Second
	}
	if c.MaxQueries <= 0 {
		c.MaxQueries = 60
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return prover{c}
}

// check refuses a request that no network should see: an identifier the method
// cannot prove, a token that is not one (RFC 8555 section 8.3: base64url, at
// least 128 bits), or a key authorization of something else.
func check(v Validator, req Request) error {
	if !v.Supports(req.Identifier) {
		return fault.New(fault.Malformed, "%s cannot validate the identifier %s", v.Type(), quote(req.Identifier.Value))
	}
	if base, _ := split(req.Identifier); base.Type == pki.DNS && !isHostName(base.Value) {
		return fault.New(fault.Malformed, "the identifier %s is not a DNS name in lower case", quote(base.Value))
	}
	if req.Subdomains && (!v.Type().Zone() || req.Identifier.Wildcard()) {
		return fault.New(fault.Malformed, "%s cannot prove what is below %s", v.Type(), quote(req.Identifier.Value))
	}
	if req.AccountURL == "" {
		return fault.New(fault.Malformed, "a validation needs the account it is for")
	}
	if len(req.Token) < 22 || len(req.Token) > 128 || !isBase64URL(req.Token) {
		return fault.New(fault.Malformed, "the challenge token is not base64url of at least 128 bits")
	}
	thumbprint, ok := strings.CutPrefix(req.KeyAuthorization, req.Token+".")
	if !ok || len(thumbprint) != 43 || !isBase64URL(thumbprint) {
		return fault.New(fault.Malformed, "the key authorization is not the token, a dot and a key thumbprint")
	}
	return nil
}

func isBase64URL(s string) bool {
	for _, c := range []byte(s) {
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// prove makes the proof of a validation that succeeded.
func (p prover) prove(t Type, req Request, steps []Step) Proof {
	base, wild := split(req.Identifier)
	return Proof{&proof{
		Identifier: base, Wildcard: wild, Subdomains: req.Subdomains, Method: t, AccountURL: req.AccountURL,
		At: p.cfg.Now().UTC(), Perspective: p.cfg.Perspective, Steps: steps,
	}}
}

// host is where a step goes: a name to resolve, or an address.
type host struct {
	name string
	addr netip.Addr
}

// hostOf returns the host of an identifier.
func hostOf(id pki.Identifier) (host, error) {
	if id.Type != pki.IP {
		return host{name: id.Value}, nil
	}
	addr, err := netip.ParseAddr(id.Value)
	if err != nil {
		return host{}, fault.New(fault.Malformed, "the identifier %s is not an IP address", quote(id.Value))
	}
	return host{name: id.Value, addr: addr}, nil
}

// connect resolves h once, filters what it finds by the policy and dials
// exactly what is left: IPv6 first, then IPv4 once. What was done is added to
// step, which is filled on failure too.
func (p prover) connect(ctx context.Context, s *dns.Session, h host, step *Step) (net.Conn, error) {
	step.Resolved = []netip.Addr{h.addr}
	if !h.addr.IsValid() {
		found, err := s.Addrs(ctx, h.name)
		if err != nil {
			return nil, dnsFault(err, "A or AAAA")
		}
		step.Resolved, step.Chain = found.Addrs, found.Chain
	}
	candidates, why := p.cfg.Policy.pick(step.Resolved)
	step.Resolved = step.Resolved[:min(len(step.Resolved), maxRecorded)]
	if len(candidates) == 0 {
		return nil, fault.New(fault.Connection, "%s has no address that this server may contact: %s; publish a public address, or ask the operator to allow this network as a target", h.name, why)
	}
	var last error
	for _, addr := range candidates {
		conn, err := p.dial(ctx, netip.AddrPortFrom(addr, step.Port))
		if err == nil {
			step.Used = addr
			return conn, nil
		}
		step.Tried, last = append(step.Tried, addr), err
	}
	return nil, fault.Wrap(last, fault.Connection, "%s port %d: %s; tried %s", h.name, step.Port, reason(last), list(step.Tried))
}

func (p prover) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: p.cfg.StepTimeout, KeepAlive: -1}
	conn, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, to)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// guard sets the deadline of a step on conn and ends it early if ctx ends. The
// caller calls the returned function when the connection is done with.
func (p prover) guard(ctx context.Context, conn net.Conn) (done func()) {
	deadline := time.Now().Add(p.cfg.StepTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop(); conn.Close() }
}

// unknownReason stands for every error that has no better name.
const unknownReason = "the connection failed"

// reason is the public face of a network error: never its text, which may name
// our own addresses.
func reason(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "the validation was interrupted"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return "no route to the host"
	default:
		return unknownReason
	}
}

// list renders addresses for a message.
func list(addrs []netip.Addr) string {
	var b strings.Builder
	for i, a := range addrs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}

// dnsFault turns a failed lookup into the applicant's error.
func dnsFault(err error, what string) error {
	var e *dns.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("look up %s: %w", what, err)
	}
	return fault.Wrap(err, fault.DNS, "DNS %s for %s: %s", what, e.Name, explain(e))
}

// explain says what a class of failure means to the owner of the name.
func explain(e *dns.Error) string {
	switch e.Class {
	case dns.NXDomain:
		return "the name does not exist (NXDOMAIN)"
	case dns.NoData:
		return "the name has no such record"
	case dns.ServFail:
		return "the DNS server failed (SERVFAIL); check the zone's name servers and DNSSEC"
	case dns.Refused:
		return "the DNS server refused the query"
	case dns.Timeout:
		return "no DNS answer in time"
	case dns.Malformed:
		return "the DNS answer is unusable: " + cmp.Or(e.Reason, "malformed")
	case dns.BadName:
		return "not a host name"
	case dns.Exhausted:
		return "it takes too many DNS queries to find out; shorten the chain of aliases"
	}
	if errors.Is(e, context.DeadlineExceeded) {
		return "no DNS answer in time"
	}
	return "the lookup was interrupted"
}
