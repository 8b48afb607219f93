package pki

import (
	"net/netip"
	"slices"
	"strings"

	"chancery/internal/fault"
)

// Pattern is a rule about identifiers, in one of three forms:
//
//	example.com    exactly this name
//	*.example.com  every name below it, at any depth, wildcards included
//	10.0.0.0/8     every address of this network
//
// The zero Pattern matches nothing.
type Pattern struct {
	name  string // lower case; without "*." if below is set
	below bool
	net   netip.Prefix
}

// ParsePattern reads a pattern. Names are read as identifiers are, so that a
// pattern can only say what an identifier could be.
func ParsePattern(s string) (Pattern, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return Pattern{}, fault.New(fault.Invalid, "pattern %.80q is not a network such as 10.0.0.0/8 or fd00::/8", s)
		}
		return Pattern{net: p}, nil
	}
	rest, below := strings.CutPrefix(s, "*.")
	id, err := ParseIdentifier(DNS, rest)
	if err != nil || id.Wildcard() {
		return Pattern{}, fault.New(fault.Invalid, "pattern %.80q is not a name such as example.com or *.example.com, nor a network", s)
	}
	return Pattern{name: id.Value, below: below}, nil
}

// ParsePatterns reads several patterns. The result is nil only if list is nil.
func ParsePatterns(list []string) ([]Pattern, error) {
	if list == nil {
		return nil, nil
	}
	out := make([]Pattern, len(list))
	for i, s := range list {
		var err error
		if out[i], err = ParsePattern(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// String returns the pattern as ParsePattern reads it.
func (p Pattern) String() string {
	switch {
	case p.net.IsValid():
		return p.net.String()
	case p.below:
		return "*." + p.name
	}
	return p.name
}

// Match reports whether p is about id. A wildcard is matched by patterns of
// what is below its domain, never by a pattern of that domain alone.
func (p Pattern) Match(id Identifier) bool {
	switch {
	case id.Type == IP:
		return p.net.IsValid() && p.net.Contains(id.Addr())
	case id.Type != DNS || p.name == "":
		return false
	case p.below:
		return strings.HasSuffix(id.Value, "."+p.name)
	}
	return id.Value == p.name
}

// MatchAny reports whether one of list is about id.
func MatchAny(list []Pattern, id Identifier) bool {
	return slices.ContainsFunc(list, func(p Pattern) bool { return p.Match(id) })
}
