// Package solver presents the responses to ACME challenges of many orders
// together: one change set and one wait per DNS zone, one responder for all of
// HTTP. It implements issuer.Solver.
//
// A kind of DNS provider is a folder below this one that exports a Kind and one
// line in internal/app/kinds.go.
package solver

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// Record is one TXT record.
type Record struct {
	Name  string        // full name, lower case, without the final dot
	Value string        // one value, not quoted; at most 255 octets
	TTL   time.Duration // for providers that set one
}

// Provider changes the TXT records of the zones of one account. It is safe for
// concurrent use; calls for one zone are made one after the other.
type Provider interface {
	// Apply makes the zone have the records of add and not those of remove, in
	// as few requests as the provider allows. Other values of the same names
	// stay. What is there already is no error, nor is what is gone already. An
	// error means that some of it may be done; the same call may be repeated.
	// The class of an *issuer.Error and its RetryAfter are kept.
	Apply(ctx context.Context, zone string, add, remove []Record) error
}

// Checker is a Provider that can say, without changing anything, whether its
// configuration works.
type Checker interface {
	Check(ctx context.Context) error
}

// Kind is a plug-in: how to describe, configure and open providers of one sort.
type Kind struct {
	Name   string // as configuration writes it, e.g. "rfc2136"
	Doc    string // one sentence
	Config func() any
	// Open checks a configuration that came from Config and returns the
	// provider. It does no I/O over the network.
	Open func(env Env, config any) (Provider, error)
}

// Env is what the program gives every provider.
type Env struct {
	Name string       // of the provider in the configuration
	Log  *slog.Logger // never nil
}

// DefaultTTL is that of records whose provider's configuration says nothing.
const DefaultTTL = time.Minute

// Set is the change of one record set, for providers that replace whole sets.
type Set struct {
	Name        string
	TTL         time.Duration
	Add, Remove []string
}

// Sets groups a change by name, in the order of names.
func Sets(add, remove []Record) []Set {
	byName := map[string]*Set{}
	at := func(r Record) *Set {
		s := byName[r.Name]
		if s == nil {
			s = &Set{Name: r.Name}
			byName[r.Name] = s
		}
		s.TTL = max(s.TTL, r.TTL)
		return s
	}
	for _, r := range add {
		s := at(r)
		s.Add = append(s.Add, r.Value)
	}
	for _, r := range remove {
		s := at(r)
		s.Remove = append(s.Remove, r.Value)
	}
	var out []Set
	for _, s := range byName {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Merge returns the values that a set has after the change, sorted, and
// whether that is another set than before.
func (s Set) Merge(before []string) (after []string, changed bool) {
	for _, v := range before {
		if !slices.Contains(s.Remove, v) || slices.Contains(s.Add, v) {
			after = append(after, v)
		}
	}
	after = append(after, s.Add...)
	slices.Sort(after)
	after = slices.Compact(after)
	old := slices.Clone(before)
	slices.Sort(old)
	return after, !slices.Equal(after, slices.Compact(old))
}

// Relative returns a name as it stands in its zone: "@" for the apex.
func Relative(name, zone string) string {
	if name == zone {
		return "@"
	}
	return strings.TrimSuffix(name, "."+zone)
}

// Quote returns a value as a zone file has it: quoted, in pieces of at most 255
// octets.
func Quote(v string) string {
	var b strings.Builder
	for first := true; first || v != ""; first = false {
		if !first {
			b.WriteByte(' ')
		}
		piece := v[:min(len(v), 255)]
		v = v[len(piece):]
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(piece) + `"`)
	}
	return b.String()
}

// Unquote is the reverse of Quote; text without quotes is returned as it is.
func Unquote(text string) string {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, `"`) {
		return text
	}
	var b strings.Builder
	in := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			in = !in
		case !in:
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
