package scan

import (
	"bufio"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"

	"chancery/internal/fault"
	"chancery/internal/scan/probe"
)

// Target is one endpoint to examine. It is comparable.
type Target struct {
	Host     string     // host name: lower case, ASCII, without the final dot; "" if Addr is set
	Addr     netip.Addr // address, when no name is to be resolved
	Port     uint16
	Name     string // server name to ask for, when it is not Host
	Protocol probe.Protocol
}

// ServerName is the name that the endpoint is asked for and judged by, or ""
// for a bare address: nobody said which names it should serve.
func (t Target) ServerName() string {
	if t.Name != "" {
		return t.Name
	}
	return t.Host
}

// String returns t in the form that Parse reads: scheme only when it is not
// TLS, port always.
func (t Target) String() string {
	host := t.Host
	if host == "" {
		if host = t.Addr.String(); t.Addr.Is6() {
			host = "[" + host + "]"
		}
	}
	s := host + ":" + strconv.Itoa(int(t.Port))
	if t.Protocol != probe.TLS {
		s = string(t.Protocol) + "://" + s
	}
	if t.Name != "" {
		s += "/" + t.Name
	}
	return s
}

// TargetConfig says how expressions become targets.
type TargetConfig struct {
	Ports    []uint16       // for expressions without a port; empty: the default of the protocol
	Protocol probe.Protocol // for expressions without a scheme; "": guessed from the port
	Max      int            // targets in all, 1,000,000 if 0: a mistyped /8 should fail, not run for a day
}

// maxExpression bounds one expression.
const maxExpression = 1024

// Targets collects targets without duplicates.
type Targets struct {
	cfg        TargetConfig
	list       []Target
	seen       map[Target]struct{}
	duplicates int
}

// NewTargets returns an empty collection.
func NewTargets(cfg TargetConfig) *Targets {
	if cfg.Max <= 0 {
		cfg.Max = 1_000_000
	}
	return &Targets{cfg: cfg, seen: make(map[Target]struct{})}
}

// List returns the targets in the order they were added.
func (s *Targets) List() []Target { return s.list }

// Duplicates returns how often a target was added again.
func (s *Targets) Duplicates() int { return s.duplicates }

// Read adds one expression a line. Empty lines and what follows "#" are
// skipped.
func (s *Targets) Read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if err := s.Add(text); err != nil {
			return fault.Wrap(err, fault.Invalid, "line %d: %s", n, fault.As(err).Detail)
		}
	}
	if err := lines.Err(); err != nil {
		return fault.Wrap(err, fault.Invalid, "the target list cannot be read")
	}
	return nil
}

// Add adds the targets of one expression:
//
//	[SCHEME://]HOST[:PORTS][/NAME]
//
// HOST is a host name, an IPv4 address, an IPv6 address (in brackets when a
// port follows), a prefix (192.0.2.0/24) or a range (192.0.2.1-192.0.2.9,
// 192.0.2.1-9). PORTS is a list such as 443,8443 or 8000-8010. NAME is the
// server name to ask for. SCHEME is tls, https, a STARTTLS protocol (smtp,
// imap, pop3, ftp, ldap, xmpp, postgres, mysql) or one of smtps, imaps, pop3s,
// ftps, ldaps, xmpps; the path of an https address is ignored. The error is a
// *fault.Error (invalid).
func (s *Targets) Add(expression string) error {
	e, err := s.parse(expression)
	if err != nil {
		return err
	}
	for _, port := range e.ports {
		t := Target{Host: e.host, Port: port, Name: e.name, Protocol: e.protocol}
		if t.Protocol == "" {
			t.Protocol = probe.ProtocolOf(port)
		}
		if e.host != "" {
			if err := s.add(t); err != nil {
				return err
			}
			continue
		}
		for t.Addr = e.first; ; t.Addr = t.Addr.Next() {
			if err := s.add(t); err != nil {
				return err
			}
			if t.Addr == e.last {
				break
			}
		}
	}
	return nil
}

// add adds one target.
func (s *Targets) add(t Target) error {
	if t.Name == t.Host {
		t.Name = ""
	}
	if _, ok := s.seen[t]; ok {
		s.duplicates++
		return nil
	}
	if len(s.list) >= s.cfg.Max {
		return invalid("more than %d targets; raise the bound if that is meant", s.cfg.Max)
	}
	s.seen[t] = struct{}{}
	s.list = append(s.list, t)
	return nil
}

func invalid(format string, args ...any) error { return fault.New(fault.Invalid, format, args...) }

// expression is a parsed expression: a host, or the addresses from first to
// last.
type expression struct {
	protocol    probe.Protocol
	host, name  string
	first, last netip.Addr
	ports       []uint16
}

// direct are schemes for TLS from the first octet, with their port.
func direct(scheme string) (uint16, bool) {
	switch scheme {
	case "tls", "https":
		return 443, true
	case "smtps":
		return 465, true
	case "imaps":
		return 993, true
	case "pop3s":
		return 995, true
	case "ftps":
		return 990, true
	case "ldaps":
		return 636, true
	case "xmpps":
		return 5223, true
	}
	return 0, false
}

// parse reads an expression.
func (s *Targets) parse(text string) (e expression, err error) {
	if len(text) > maxExpression {
		return e, invalid("a target is longer than %d characters", maxExpression)
	}
	scheme, rest, has := strings.Cut(text, "://")
	if !has {
		scheme, rest = "", text
	}
	scheme = strings.ToLower(scheme)
	e.ports, e.protocol = s.cfg.Ports, s.cfg.Protocol
	if port, ok := direct(scheme); ok {
		e.ports, e.protocol = []uint16{port}, probe.TLS
	} else if scheme != "" {
		if e.protocol = probe.Protocol(scheme); !e.protocol.Valid() {
			return e, invalid("%q: the scheme is none of tls, https, smtp, imap, pop3, ftp, ldap, xmpp, postgres, mysql or the s forms", text)
		}
		e.ports = []uint16{e.protocol.DefaultPort()}
	}
	if scheme == "https" {
		rest, _, _ = strings.Cut(rest, "/")
	}
	if len(e.ports) == 0 {
		e.ports = []uint16{e.protocol.DefaultPort()} // 443 when the protocol is to be guessed
	}
	if why := e.place(rest); why != "" {
		return e, invalid("%q: %s", text, why)
	}
	return e, nil
}

// place reads HOST[:PORTS][/NAME] and says what is wrong with it.
func (e *expression) place(text string) (why string) {
	left, right, slash := strings.Cut(text, "/")
	host, ports, why := splitPorts(left)
	if why != "" {
		return why
	}
	addr, addrErr := netip.ParseAddr(host)
	isPrefix := slash && addrErr == nil && right != "" && right[0] >= '0' && right[0] <= '9' && !strings.Contains(right, ".")
	switch {
	case isPrefix:
		bits, after, _ := strings.Cut(right, ":")
		if ports != "" || strings.Contains(host, "%") {
			return "write the port after the prefix length"
		}
		if why := e.prefix(addr, bits); why != "" {
			return why
		}
		ports = after
	case slash:
		if e.name = hostName(right); e.name == "" {
			return "what follows the slash is not a server name"
		}
	}
	if !isPrefix {
		if why := e.hosts(host, addr, addrErr == nil); why != "" {
			return why
		}
	}
	if ports != "" {
		list, err := ParsePorts(ports)
		if err != nil {
			return fault.As(err).Detail
		}
		e.ports = list
	}
	return ""
}

// splitPorts splits HOST[:PORTS]. An IPv6 address with a port is in brackets.
func splitPorts(text string) (host, ports, why string) {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		host, after, ok := strings.Cut(inner, "]")
		if !ok || after != "" && after[0] != ':' || after == ":" {
			return "", "", "an address in brackets is followed by nothing or by a port"
		}
		return host, strings.TrimPrefix(after, ":"), ""
	}
	if strings.Count(text, ":") != 1 {
		return text, "", ""
	}
	host, ports, _ = strings.Cut(text, ":")
	if ports == "" {
		return "", "", "a port is missing after the colon"
	}
	return host, ports, ""
}

// prefix sets the addresses of a prefix.
func (e *expression) prefix(addr netip.Addr, bits string) (why string) {
	n, err := strconv.Atoi(bits)
	if err != nil || n < 0 || n > addr.BitLen() {
		return "the prefix length is not valid"
	}
	p, err := addr.Prefix(n)
	if err != nil {
		return "the prefix length is not valid"
	}
	last := p.Addr().AsSlice()
	for i := n; i < addr.BitLen(); i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	e.first = p.Addr()
	e.last, _ = netip.AddrFromSlice(last)
	if e.first.Is4() && n < 31 { // network and broadcast address are nobody's
		e.first, e.last = e.first.Next(), e.last.Prev()
	}
	return ""
}

// hosts sets a name, an address or a range.
func (e *expression) hosts(host string, addr netip.Addr, isAddr bool) (why string) {
	if isAddr {
		e.first, e.last = addr.Unmap(), addr.Unmap()
		return ""
	}
	if from, to, ok := strings.Cut(host, "-"); ok {
		if first, err := netip.ParseAddr(from); err == nil {
			return e.between(first, to)
		}
	}
	if strings.HasPrefix(host, "*.") {
		return "a wildcard cannot be connected to; name a host"
	}
	if e.host = hostName(host); e.host == "" {
		return "neither a host name nor an address"
	}
	return ""
}

// between sets a range from first to an address or a last number.
func (e *expression) between(first netip.Addr, to string) (why string) {
	last, err := netip.ParseAddr(to)
	if n, bad := strconv.ParseUint(to, 10, 8); bad == nil && first.Is4() {
		b := first.As4()
		b[3] = byte(n)
		last, err = netip.AddrFrom4(b), nil
	}
	if err != nil || last.BitLen() != first.BitLen() || last.Less(first) {
		return "the end of the range is not an address after its begin"
	}
	e.first, e.last = first, last
	return ""
}

// hostName returns the ASCII form of a host name, or "" if it is none.
func hostName(text string) string {
	text = strings.TrimSuffix(text, ".")
	name, err := idna.Lookup.ToASCII(text)
	if err != nil { // the profile refuses underscores, which some hosts have
		name = strings.ToLower(text)
	}
	if name == "" || len(name) > 253 {
		return ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return ""
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return ""
			}
		}
	}
	if top := name[strings.LastIndexByte(name, '.')+1:]; strings.Trim(top, "0123456789") == "" {
		return "" // 192.0.2.300 is a mistake, not a name
	}
	return name
}

// ParsePorts reads a list such as "443,8443,9000-9010". The error is a
// *fault.Error (invalid).
func ParsePorts(text string) ([]uint16, error) {
	var out []uint16
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || first == 0 || last < first {
			return nil, invalid("%q is not a list of ports from 1 to 65535", text)
		}
		for p := first; p <= last; p++ {
			if len(out) >= 1<<16 {
				return nil, invalid("%q has more ports than there are", text)
			}
			out = append(out, uint16(p))
		}
	}
	return out, nil
}
