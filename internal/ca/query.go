package ca

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Status is what people ask of a certificate: its State, and what has happened
// to it since.
type Status string

// Statuses. A certificate has the first that fits, from the bottom up.
const (
	StatusIssued    Status = "issued"    // usable, as far as its issuer is concerned
	StatusExpired   Status = "expired"   // its notAfter has passed
	StatusRevoked   Status = "revoked"   //
	StatusIntent    Status = "intent"    // no certificate yet: a signature is under way
	StatusAbandoned Status = "abandoned" // no certificate, and there will be none
	StatusDamaged   Status = "damaged"   // the row does not parse; see `chancery doctor issuance`
)

// Statuses lists what a query may ask for.
var Statuses = []Status{StatusIssued, StatusExpired, StatusRevoked, StatusIntent, StatusAbandoned}

// Status returns where c stands at now.
func (c *Certificate) Status(now time.Time) Status {
	switch {
	case c.State != StateIssued:
		return Status(c.State) // the names are the same
	case !c.RevokedAt.IsZero():
		return StatusRevoked
	case now.After(c.NotAfter):
		return StatusExpired
	}
	return StatusIssued
}

// Query says which certificates Find returns: all that fit every term. See
// ParseQuery. The zero value means all.
type Query struct {
	text   string // normalized
	now    time.Time
	fields map[string]string // plain terms by key
	serial pki.Serial
	spki   []byte
	name   span // of reversed names
	// expires and issued are half-open: from <= t < to; zero = no bound.
	expires, issued period
}

// span is a range of reversed names: from <= rname < to.
type span struct{ from, to string }

func (s span) holds(rname string) bool { return s.from <= rname && rname < s.to }

// period is a range of instants.
type period struct{ from, to time.Time }

func (p period) holds(t time.Time) bool {
	return (p.from.IsZero() || !t.Before(p.from)) && (p.to.IsZero() || t.Before(p.to))
}

func (p period) set() bool { return p != period{} }

// QueryKeys lists the keys that ParseQuery knows.
var QueryKeys = []string{"name", "serial", "status", "ca", "authority", "profile", "key", "spki", "account", "order", "expires", "issued"}

// maxQuery bounds a query, in octets.
const maxQuery = 1024

// ParseQuery reads a query: terms separated by spaces, all of which must fit.
//
//	NAME, name:NAME     a certificate for exactly that host name or address
//	*.SUFFIX            a certificate for any name below SUFFIX
//	serial:HEX          as OpenSSL prints it, with colons or without
//	status:STATUS       issued, expired, revoked, intent or abandoned
//	ca: profile: key:   exact; key types as in "p256", "rsa2048"
//	account: order:     exact ids
//	authority:          exact id of what signed it
//	spki:HEX            SHA-256 of the SubjectPublicKeyInfo: a key wherever it is used
//	expires:<14d        ends within 14 days from now; units m, h, d, w
//	expires:>90d        ends later than that
//	expires:<DATE       ends before a date (2027-01-31, or RFC 3339); > = at or after
//	issued:<7d          was issued within the last 7 days; > = before that
//	issued:<DATE        was issued before a date; > = at or after
//
// The error is a *fault.Error (invalid) that names the term.
func ParseQuery(text string, now time.Time) (Query, error) {
	if len(text) > maxQuery {
		return Query{}, fault.New(fault.Invalid, "the query is longer than %d characters", maxQuery)
	}
	terms := strings.Fields(text)
	q := Query{text: strings.Join(terms, " "), now: now, fields: map[string]string{}}
	for _, term := range terms {
		key, value := cutTerm(term)
		if err := q.add(key, value); err != nil {
			return Query{}, err
		}
	}
	return q, nil
}

var longPairs = regexp.MustCompile(`^([0-9a-fA-F]{2}:){7,}[0-9a-fA-F]{2}$`)

// cutTerm returns the key and the value of a term, guessing the key when there
// is none: long hexadecimal is a serial number, all else a name.
func cutTerm(term string) (key, value string) {
	key, value, ok := strings.Cut(term, ":")
	switch {
	case ok && slices.Contains(QueryKeys, key):
		return key, value
	case pki.LongHex(term), longPairs.MatchString(term):
		return "serial", term
	case !ok || isAddr(term): // an IPv6 address has colons
		return "name", term
	}
	return key, value
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// add adds one term.
func (q *Query) add(key, value string) error {
	if !slices.Contains(QueryKeys, key) {
		return fault.New(fault.Invalid, "the query has an unknown key %.32q; known are: %s", key, strings.Join(QueryKeys, ", "))
	}
	if value == "" {
		return fault.New(fault.Invalid, "the query's term %s: has no value; write %s:VALUE without a space", key, key)
	}
	if key == "expires" {
		return q.bound(&q.expires, key, value)
	}
	if key == "issued" {
		return q.bound(&q.issued, key, value)
	}
	if _, twice := q.fields[key]; twice {
		return fault.New(fault.Invalid, "the query has %s: twice; a certificate would have to fit both", key)
	}
	value, err := q.check(key, value)
	q.fields[key] = value
	return err
}

// check returns the normal form of the value of a plain term.
func (q *Query) check(key, value string) (string, error) {
	switch key {
	case "name":
		q.name = nameSpan(value)
	case "serial":
		var err error
		q.serial, err = pki.ParseSerial(value)
		return value, err
	case "status":
		if !slices.Contains(Statuses, Status(value)) {
			return "", fault.New(fault.Invalid, "status %.32q is unknown; choose one of %v", value, Statuses)
		}
	case "key":
		if rest, ok := strings.CutPrefix(value, "rsa-"); ok {
			value = "rsa" + rest
		}
		if !pki.KeyType(value).Valid() {
			return "", fault.New(fault.Invalid, "key type %.32q is unknown; choose one of %v", value, pki.KeyTypes)
		}
	case "spki":
		raw, err := hex.DecodeString(value)
		if err != nil || len(raw) != sha256.Size {
			return "", fault.New(fault.Invalid, "spki:%.72s is not a SHA-256 hash in hexadecimal", value)
		}
		q.spki = raw
	case "account", "order", "authority":
		if !db.ValidID(value) {
			return "", fault.New(fault.Invalid, "%s:%.64s is not an id: 26 digits and lower-case letters", key, value)
		}
	}
	return value, nil
}

// nameSpan is the range of reversed names that a name or "*.SUFFIX" stands for.
func nameSpan(name string) span {
	if ip, err := netip.ParseAddr(name); err == nil {
		name = ip.Unmap().String()
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if suffix, ok := strings.CutPrefix(name, "*."); ok {
		r := pki.ReverseName(suffix)
		return span{r + ".", r + "/"} // '/' follows '.'
	}
	r := pki.ReverseName(name)
	return span{r, r + "\x01"} // nothing that is a name lies between
}

// bound narrows a period by "<WHEN" or ">WHEN".
func (q *Query) bound(p *period, key, value string) error {
	op, when := value[0], value[1:]
	at, age, err := parseWhen(when, q.now)
	if err != nil || op != '<' && op != '>' {
		return fault.New(fault.Invalid, "%s:%.64s is not understood; write %s:<14d, %s:>90d or %s:<2027-01-31", key, value, key, key, key)
	}
	before := op == '<'
	if age != 0 && key == "issued" { // an age looks back: issued:<7d is not before 7 days ago
		at, before = q.now.Add(-age), !before
	}
	switch {
	case before && p.to.IsZero():
		p.to = at
	case !before && p.from.IsZero():
		p.from = at
	default:
		return fault.New(fault.Invalid, "the query bounds %s: twice on the same side", key)
	}
	if age != 0 && key == "expires" && before && p.from.IsZero() {
		p.from = q.now // what has ended already is status:expired
	}
	return nil
}

// parseWhen reads a duration from now ("14d"; age is then not 0) or a date.
func parseWhen(s string, now time.Time) (at time.Time, age time.Duration, err error) {
	if s == "" {
		return at, 0, strconv.ErrSyntax
	}
	unit := map[byte]time.Duration{'m': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[s[len(s)-1]]
	if unit != 0 {
		n, err := strconv.ParseUint(s[:len(s)-1], 10, 16)
		if err != nil || n == 0 {
			return at, 0, strconv.ErrRange
		}
		age = time.Duration(n) * unit
		return now.Add(age), age, nil
	}
	if at, err = time.Parse(time.DateOnly, s); err != nil {
		at, err = time.Parse(time.RFC3339, s)
	}
	return at, 0, err
}

// matches reports whether c fits every term.
func (q *Query) matches(c *Certificate) bool {
	for key, want := range q.fields {
		if !q.fits(c, key, want) {
			return false
		}
	}
	if q.expires.set() && (c.State != StateIssued || !q.expires.holds(c.NotAfter)) {
		return false
	}
	return !q.issued.set() || !c.IssuedAt.IsZero() && q.issued.holds(c.IssuedAt)
}

// fits reports whether c fits one plain term.
func (q *Query) fits(c *Certificate, key, want string) bool {
	switch key {
	case "name":
		return q.firstName(c) != ""
	case "serial":
		return c.Serial == q.serial
	case "status":
		return c.Status(q.now) == Status(want)
	case "ca":
		return c.CA == want
	case "authority":
		return c.AuthorityID == want
	case "spki":
		return true // rows are found by it
	case "profile":
		return c.Profile == want
	case "key":
		return string(c.KeyType) == want
	case "account":
		return c.AccountID == want
	case "order":
		return c.OrderID == want
	}
	return false
}

// firstName returns the first reversed name of c in the asked range, or "". A
// certificate with many names below a suffix is listed there, and only there.
func (q *Query) firstName(c *Certificate) string {
	var first string
	for _, n := range c.Names {
		if r := pki.ReverseName(n); q.name.holds(r) && (first == "" || r < first) {
			first = r
		}
	}
	return first
}

// path returns the best way to the certificates that fit.
func (q *Query) path() path {
	status := Status(q.fields["status"])
	switch {
	case q.serial != "":
		return pathSerial
	case q.fields["order"] != "":
		return pathOrder
	case q.spki != nil:
		return pathKey
	case q.fields["name"] != "":
		return pathName
	case status == StatusIntent:
		return pathIntent
	case status == StatusRevoked || status == StatusAbandoned:
		return pathRevoked
	case q.expires.set() || status == StatusExpired:
		return pathExpiry
	case q.fields["account"] != "":
		return pathAccount
	}
	return pathNewest
}

// hash ties a cursor to its query.
func (q *Query) hash() uint32 {
	h := fnv.New32a()
	h.Write([]byte(q.text)) // cannot fail
	return h.Sum32()
}
