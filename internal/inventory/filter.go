package inventory

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/fault"
)

// none is the word for "has no owner" and the like.
const none = "none"

// textEnd sorts after every text that is stored.
const textEnd = "\U0010FFFF"

// Filter is a question to the inventory. The zero Filter asks for everything
// that is not retired. Several values of one field mean any of them, several
// fields all of them.
type Filter struct {
	Owners       []string // "none" = without an owner; likewise the next two
	Teams        []string
	Environments []string
	Issuers      []string // a label, or part of an issuer's name
	Keys         []string // pki.KeyDescription, or weak, classical, post-quantum
	Statuses     []Status // empty = all but Retired
	Source       Source   // known from at least one of these; 0 = any
	Managed      *bool
	CA           *bool
	Expires      Range    // by NotAfter
	Seen         Range    // by LastSeenAt
	Name         Host     // has this name, or one below it
	Endpoint     Host     // served there
	Port         int      // of Endpoint; 0 = any
	Tags         []string // "name=value", all of them
	Serial       string   // hexadecimal
	Fingerprint  string   // of the certificate
	SPKI         string   // of its key: SHA-256, hexadecimal
	ID           string
	Words        []string // free text in the names or the common name, all of them

	// Within, if not nil, are the only owners that whoever asks may know of.
	// No part of the answer depends on certificates of others. It is not part
	// of the text of a filter.
	Within []string
}

// Host is a condition on names.
type Host struct {
	Name  string // lower case; "" = no condition
	Exact bool   // the name itself matches
	Below bool   // names below it match
}

// String is the host as Parse reads it.
func (h Host) String() string {
	if h.Below && !h.Exact {
		return "*." + h.Name
	}
	return h.Name
}

// parseHost reads "www.example.com" or "*.example.com".
func parseHost(text string) (Host, error) {
	text = lower(text)
	name, below := strings.CutPrefix(text, "*.")
	if !validHost(name) {
		return Host{}, fault.New(fault.Invalid, "%.80q is neither a name, nor an address, nor of the form *.example.com; for part of a name give the word alone", text)
	}
	return Host{Name: name, Exact: !below, Below: below}, nil
}

// bounds are the lowest reversed name that matches and the first behind all
// that do. With Exact and Below, names in between do not all match.
func (h Host) bounds() (lo, hi string) {
	r := reversed(h.Name)
	switch {
	case h.Exact && h.Below:
		return r, r + "/" // the byte after "."
	case h.Below:
		return r + ".", r + "/"
	}
	return r, r + "\x01"
}

// Range is a span of time from From (included) to To (not included); the zero
// time means no bound.
type Range struct{ From, To time.Time }

// set reports whether r bounds anything.
func (r Range) set() bool { return !r.From.IsZero() || !r.To.IsZero() }

// millis returns the bounds as Unix milliseconds.
func (r Range) millis() (lo, hi int64) {
	lo, hi = minInstant, maxInstant
	if !r.From.IsZero() {
		lo = r.From.UnixMilli()
	}
	if !r.To.IsZero() {
		hi = r.To.UnixMilli()
	}
	return lo, hi
}

const (
	minInstant = -1 << 62
	maxInstant = 1 << 62
)

// String is the filter as Parse reads it: the same questions have the same
// text. Relative times have become instants.
func (f *Filter) String() string {
	var b strings.Builder
	add := func(key string, values ...string) {
		for _, v := range values {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			if key != "" {
				b.WriteString(key + ":")
			}
			b.WriteString(quote(v, key == "" && strings.Contains(v, ":")))
		}
	}
	add("owner", sorted(f.Owners)...)
	add("team", sorted(f.Teams)...)
	add("env", sorted(f.Environments)...)
	add("issuer", sorted(f.Issuers)...)
	add("key", sorted(f.Keys)...)
	for _, s := range Statuses {
		if slices.Contains(f.Statuses, s) {
			add("status", string(s))
		}
	}
	add("source", f.Source.Names()...)
	addBool(add, "managed", f.Managed)
	addBool(add, "ca", f.CA)
	addRange(add, "expires", f.Expires)
	addRange(add, "seen", f.Seen)
	f.addHosts(add)
	add("tag", sorted(f.Tags)...)
	for _, kv := range [][2]string{{"serial", f.Serial}, {"fingerprint", f.Fingerprint}, {"spki", f.SPKI}, {"id", f.ID}} {
		if kv[1] != "" {
			add(kv[0], kv[1])
		}
	}
	add("", sorted(f.Words)...)
	return b.String()
}

func (f *Filter) addHosts(add func(string, ...string)) {
	switch {
	case f.Name.Exact && f.Name.Below:
		add("", f.Name.Name)
	case f.Name.Name != "":
		add("name", f.Name.String())
	}
	if h := f.Endpoint.String(); h != "" {
		if strings.Contains(h, ":") && f.Port > 0 {
			h = "[" + h + "]"
		}
		if f.Port > 0 {
			h += ":" + strconv.Itoa(f.Port)
		}
		add("endpoint", h)
	}
}

func addBool(add func(string, ...string), key string, v *bool) {
	if v != nil {
		add(key, map[bool]string{true: "yes", false: "no"}[*v])
	}
}

func addRange(add func(string, ...string), key string, r Range) {
	if !r.From.IsZero() {
		add(key, ">="+instantText(r.From))
	}
	if !r.To.IsZero() {
		add(key, "<"+instantText(r.To))
	}
}

// instantText is a date, or an instant where a date is not exact enough.
func instantText(t time.Time) string {
	t = t.UTC()
	if t.UnixMilli()%dayMillis == 0 {
		return t.Format(time.DateOnly)
	}
	return t.Format("2006-01-02T15:04:05.000Z")
}

func sorted(vs []string) []string {
	vs = slices.Clone(vs)
	slices.Sort(vs)
	return slices.Compact(vs)
}

// quote puts v in quotation marks where Parse needs them, or when must is set.
func quote(v string, must bool) string {
	if !must && v != "" && !strings.ContainsAny(v, " \t\n\"\\") {
		return v
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`
}

// statuses returns the statuses that f asks for.
func (f *Filter) statuses() []Status {
	if len(f.Statuses) > 0 {
		return f.Statuses
	}
	return []Status{Active, Superseded, Expired, Revoked}
}

// Limits of a page.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// checkLimit refuses a page size out of bounds instead of changing it.
func checkLimit(n int) (int, error) {
	switch {
	case n == 0:
		return DefaultLimit, nil
	case n < 0 || n > MaxLimit:
		return 0, fault.New(fault.Invalid, "limit %d is not from 1 to %d", n, MaxLimit)
	}
	return n, nil
}

// Sort is the order of a list.
type Sort string

// Orders. Names sort by reversed labels, and only with a condition on names.
const (
	SortExpires     Sort = "expires"  // soonest end first (the default)
	SortExpiresDesc Sort = "-expires" // latest end first
	SortSeen        Sort = "seen"     // longest not seen first
	SortSeenDesc    Sort = "-seen"    // last seen first
	SortAdded       Sort = "added"    // oldest in the inventory first
	SortAddedDesc   Sort = "-added"   // newest in the inventory first
	SortName        Sort = "name"     // by reversed name: lists of names below a suffix, and of many endpoints
)

// sorts lists what a caller may ask for.
var sorts = []Sort{SortExpires, SortExpiresDesc, SortSeen, SortSeenDesc, SortAdded, SortAddedDesc}

// ParseSort reads an order; "" is SortExpires.
func ParseSort(text string) (Sort, error) {
	if text == "" {
		return SortExpires, nil
	}
	if !slices.Contains(sorts, Sort(text)) {
		return "", fault.New(fault.Invalid, "sort %.32q is not known; sorts are: %s", text, fmt.Sprint(sorts))
	}
	return Sort(text), nil
}
