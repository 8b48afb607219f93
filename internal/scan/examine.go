package scan

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"chancery/internal/dns"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// resolve finds the address of j: one query when the preferred family has
// addresses. A deadline is the resolver's own.
func (r *run) resolve(j *job) *probe.Failure {
	began := time.Now()
	first, second := r.cfg.Resolver.IPv4, r.cfg.Resolver.IPv6
	if r.cfg.PreferIPv6 {
		first, second = second, first
	}
	answer, err := first(r.ctx, j.target.Host)
	if dns.ClassOf(err) == dns.NoData {
		answer, err = second(r.ctx, j.target.Host)
	}
	j.lookup += time.Since(began)
	if err != nil {
		return lookupFailure(err)
	}
	// Servers rotate the addresses of a name; a monitor should look at the
	// same one each time.
	j.addr = slices.MinFunc(answer.Addrs, netip.Addr.Compare).Unmap()
	j.ttl, j.resolvedAt = answer.TTL, r.cfg.Now()
	return nil
}

// lookupFailure classifies a DNS error.
func lookupFailure(err error) *probe.Failure {
	switch class := dns.ClassOf(err); class {
	case dns.NXDomain, dns.BadName:
		return &probe.Failure{Class: probe.DNSNX, Reason: string(class)}
	case dns.NoData:
		return &probe.Failure{Class: probe.DNSNX, Reason: "the name has no address"}
	case dns.Canceled:
		return &probe.Failure{Class: probe.Canceled}
	default:
		return &probe.Failure{Class: probe.DNSFail, Reason: string(class)}
	}
}

// minTTL is how long any address is believed: a TTL of 0 asks for one use, and
// the wait for admission is part of it.
const minTTL = time.Second

// refresh resolves the name of j again if its address is no longer good. The
// new address is not admitted again: for the time of a probe the lane of the
// old one stands for it.
func (r *run) refresh(j *job) *probe.Failure {
	if j.target.Host == "" || r.cfg.Now().Sub(j.resolvedAt) < max(j.ttl, minTTL) {
		return nil
	}
	return r.resolve(j)
}

// examine probes one target.
func (r *run) examine(j *job) Result {
	res := Result{At: r.cfg.Now()}
	f := r.refresh(j)
	if f == nil {
		res.Addr = netip.AddrPortFrom(j.addr, j.target.Port)
		e := examination{run: r, res: &res, target: j.target, dialer: r.dialer}
		if e.last = j.attempts > 1; e.last {
			e.dialer = r.again
		}
		f = r.probe(&e)
	}
	res.Class = probe.OK
	if f != nil {
		res.Class, res.Alert, res.Reason = f.Class, f.Alert, f.Reason
	}
	return res
}

// examination is one target under probe.
type examination struct {
	*run
	res    *Result
	target Target
	dialer *probe.Dialer
	last   bool // attempt
}

// open connects and brings the connection to where TLS begins.
func (e *examination) open() (*probe.Conn, *probe.Failure) {
	began := time.Now()
	c, f := e.dialer.Dial(e.ctx, e.res.Addr)
	e.res.Times.TCP = time.Since(began)
	if f != nil {
		return nil, f
	}
	if f := probe.StartTLS(c, e.target.Protocol, e.target.ServerName()); f != nil {
		c.Close()
		return nil, f
	}
	return c, nil
}

// probe does what the configured kind asks for.
func (r *run) probe(e *examination) *probe.Failure {
	p, f := e.first()
	if p != nil {
		e.revocation(p)
	}
	if f != nil || r.cfg.Probe == Observe || r.cfg.Probe == Fetch {
		return f
	}
	times := e.res.Times
	f = e.more()
	e.res.Times = times
	if f == nil || f.Class.Suspect() && !e.last || f.Class == probe.Canceled {
		return f
	}
	// The endpoint answered, so it is not down; only the rest is not known.
	e.res.Reason = string(r.cfg.Probe) + " probe: " + f.Error()
	return nil
}

// more makes the further connections of a dual or features probe.
func (e *examination) more() *probe.Failure {
	name := e.target.ServerName()
	if e.cfg.Probe == Features {
		support, f := probe.Features(e.open, name)
		if f == nil {
			e.res.Support = &support
		}
		return f
	}
	duals, f := probe.Dual(e.open, name)
	if f == nil {
		e.res.Dual = &duals
		e.others(duals)
	}
	return f
}

// first makes the main connection.
func (e *examination) first() (*probe.Peer, *probe.Failure) {
	if e.cfg.Probe != Fetch {
		return e.connection(e.observer.Observe)
	}
	p, f := e.connection(probe.Fetch)
	if f.NeedsAny() {
		p, f = e.connection(probe.FetchAny)
	}
	return p, f
}

// connection opens a connection, runs a probe on it and judges the chain while
// it still holds its CPU token.
func (e *examination) connection(run func(*probe.Conn, string) (*probe.Peer, *probe.Failure)) (*probe.Peer, *probe.Failure) {
	began := time.Now()
	c, f := e.open()
	connected := e.res.Times.TCP
	if f != nil {
		e.res.Times.TLS = max(time.Since(began)-connected, 0)
		return nil, f
	}
	defer c.Close()
	p, f := run(c, e.target.ServerName())
	e.res.Times.TLS, e.res.Times.Wait = time.Since(began)-connected, c.Waited()
	if p == nil {
		return nil, f
	}
	began = time.Now()
	defer func() { e.res.Times.Parse = time.Since(began) }()
	if p.Raw != nil {
		certs, err := e.cfg.Judge.Parse(p.Raw)
		if err != nil {
			return nil, &probe.Failure{Class: probe.BadTLS, Reason: "its certificate cannot be parsed"}
		}
		p.Certs = certs
	}
	if len(p.Certs) == 0 {
		return nil, f
	}
	e.judge(p, f)
	return p, f
}

// judge fills the result with what p showed.
func (e *examination) judge(p *probe.Peer, f *probe.Failure) {
	res := e.res
	res.Version, res.Cipher, res.Group = p.Version, p.Cipher, p.Group
	res.Proven, res.ClientAuth, res.Chain = p.Proven, p.ClientAuth, p.Certs
	res.Verdict = e.cfg.Judge.Judge(p.Certs, e.target.ServerName(), e.cfg.Warn, e.cfg.Now())
	if e.cfg.Probe != Fetch && f != nil && f.Class == probe.BadTLS && !p.Proven {
		res.Verdict.Add(verdict.Unproven)
	}
}

// others judges the certificates of a dual endpoint that the first connection
// did not show: any of them reaches some client.
func (e *examination) others(d probe.Duals) {
	for _, raw := range [][][]byte{d.ECDSA, d.RSA} {
		if len(raw) == 0 || bytes.Equal(raw[0], e.res.Leaf().Raw) {
			continue
		}
		chain, err := e.cfg.Judge.Parse(raw)
		if err != nil {
			continue
		}
		v := e.cfg.Judge.Judge(chain, e.target.ServerName(), e.cfg.Warn, e.cfg.Now())
		for _, p := range v.Problems {
			e.res.Verdict.Add(p)
		}
	}
}

// revocation looks the leaf up, if that is wanted and the chain is trusted:
// addresses in other certificates are not ours to visit.
func (e *examination) revocation(p *probe.Peer) {
	issuer := e.res.Verdict.Issuer
	if e.cfg.Revocation == nil || issuer == nil || !e.res.Verdict.Trusted() {
		return
	}
	status, err := e.cfg.Revocation.Check(e.ctx, p.Certs[0], issuer, p.Staple, e.cfg.Now())
	e.res.Revocation = status
	if err != nil && e.res.Reason == "" {
		e.res.Reason = "revocation unknown"
	}
	if status == verdict.StatusRevoked {
		e.res.Verdict.Add(verdict.Revoked)
	}
}
