package inventory

import (
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

// Bounds of a query text.
const (
	maxQuery = 2000 // bytes
	maxTerms = 40
	maxSet   = 20 // values of one key
	maxWords = 3  // free words
)

// keys are the words before a colon, in the order shown to users.
var keys = []string{"owner", "team", "env", "issuer", "key", "name", "status", "source", "tag", "endpoint", "seen", "expires",
	"managed", "ca", "serial", "fingerprint", "spki", "id"}

// Parse reads the query language:
//
//	owner:pay expires:<14d key:rsa-2048 name:*.pay.example.com status:active
//	issuer:"Example CA" tag:app=shop source:scan endpoint:www.example.com:443
//	seen:<7d free words
//
// Terms are separated by spaces and must all hold; a key that is given again
// adds an alternative (owner:a owner:b), except for tags and words, which must
// all hold, and for spans, whose bounds are joined. Values with spaces go in
// quotation marks. The word none means an empty owner, team or env; status:any
// includes retired certificates. Times are durations from now (12h, 14d, 8w,
// 1y; days and longer count in whole UTC days) or dates (2026-12-31, or an
// RFC 3339 instant); expires:<14d ends within that time, seen:<7d was seen
// within the last 7 days, seen:>30d was not seen for 30 days. A bare word with
// a dot is a name and everything below it; 15 or more hexadecimal digits are a
// serial number, 64 a fingerprint; any other word is looked for in the names
// and the common name. status:issued means active or superseded.
//
// The error is a *fault.Error (invalid) that names the term.
func Parse(text string, now time.Time) (Filter, error) {
	var f Filter
	terms, err := split(text)
	if err != nil {
		return f, err
	}
	for _, t := range terms {
		if err := f.add(t, now); err != nil {
			return Filter{}, fault.New(fault.Invalid, "query, at %.80q: %s", t.text, fault.As(err).Detail)
		}
	}
	if lo, hi := f.Expires.millis(); lo > hi {
		return Filter{}, fault.New(fault.Invalid, "query: the span of expires: ends before it begins")
	}
	if lo, hi := f.Seen.millis(); lo > hi {
		return Filter{}, fault.New(fault.Invalid, "query: the span of seen: ends before it begins")
	}
	return f, nil
}

// term is one word of a query.
type term struct {
	text  string // as written, for errors
	key   string // "" = free word
	value string
}

// split cuts a query into terms. A quotation mark may begin a value or a word.
func split(text string) ([]term, error) {
	if len(text) > maxQuery {
		return nil, fault.New(fault.Invalid, "the query is longer than %d bytes", maxQuery)
	}
	if text != clean(text, maxQuery) {
		return nil, fault.New(fault.Invalid, "the query has control characters or is not UTF-8")
	}
	var terms []term
	for rest := strings.TrimLeft(text, " "); rest != ""; rest = strings.TrimLeft(rest, " ") {
		t, n, err := next(rest)
		if err != nil {
			return nil, err
		}
		terms, rest = append(terms, t), rest[n:]
		if len(terms) > maxTerms {
			return nil, fault.New(fault.Invalid, "the query has more than %d terms", maxTerms)
		}
	}
	return terms, nil
}

// next reads the first term of text and returns its length.
func next(text string) (term, int, error) {
	key, at := "", 0
	if i := strings.IndexAny(text, ` :"`); i > 0 && text[i] == ':' {
		key, at = text[:i], i+1
		if !slices.Contains(keys, key) && !strings.Contains(text[at:], ":") && strings.Contains(key, ".") {
			return term{}, 0, fault.New(fault.Invalid, "query: for a host and port write endpoint:%.80s", text)
		}
		if !slices.Contains(keys, key) {
			return term{}, 0, fault.New(fault.Invalid, "query: unknown key %.40q; keys are: %s", key, strings.Join(keys, " "))
		}
	}
	value, n, err := value(text[at:])
	if err != nil {
		return term{}, 0, err
	}
	if end := at + n; end < len(text) && text[end] != ' ' {
		return term{}, 0, fault.New(fault.Invalid, "query: put a space after %.80q", text[:end])
	}
	t := term{text[:at+n], key, value}
	if value == "" {
		return t, 0, fault.New(fault.Invalid, "query: %.80q has no value; for an empty owner, team or env write %s", t.text, none)
	}
	return t, at + n, nil
}

// value reads a bare or quoted value and returns its length in text.
func value(text string) (string, int, error) {
	if !strings.HasPrefix(text, `"`) {
		n := strings.IndexByte(text, ' ')
		if n < 0 {
			n = len(text)
		}
		if i := strings.IndexByte(text[:n], '"'); i >= 0 {
			return "", 0, fault.New(fault.Invalid, `query: a quotation mark inside %.80q; write key:"value with spaces"`, text[:n])
		}
		return text[:n], n, nil
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), i + 1, nil
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, fault.New(fault.Invalid, "query: a quotation mark is not closed")
}

// add adds one term to f.
func (f *Filter) add(t term, now time.Time) error {
	v := t.value
	switch t.key {
	case "owner":
		return addTo(&f.Owners, v)
	case "team":
		return addTo(&f.Teams, v)
	case "env":
		return addTo(&f.Environments, v)
	case "issuer":
		return addTo(&f.Issuers, v)
	case "key":
		return f.addKey(v)
	case "status":
		return f.addStatus(v)
	case "source":
		s, err := ParseSource(v)
		f.Source |= s
		return err
	case "managed":
		return yesNo(&f.Managed, v)
	case "ca":
		return yesNo(&f.CA, v)
	case "expires":
		return addSpan(&f.Expires, v, now, 1)
	case "seen":
		return addSpan(&f.Seen, v, now, -1)
	case "tag":
		return f.addTag(v)
	}
	return f.addSingle(t)
}

// addSingle adds the terms that may be given once.
func (f *Filter) addSingle(t term) (err error) {
	switch t.key {
	case "name":
		if f.Name.Name != "" {
			return again("name")
		}
		f.Name, err = parseHost(t.value)
	case "endpoint":
		return f.addEndpoint(t.value)
	case "serial":
		if f.Serial != "" {
			return again("serial")
		}
		serial, err := pki.ParseSerial(t.value)
		if err != nil {
			return err
		}
		f.Serial = serial.Hex()
	case "fingerprint":
		return hashValue(&f.Fingerprint, t.value, "a SHA-256 fingerprint")
	case "spki":
		return hashValue(&f.SPKI, t.value, "the SHA-256 of a public key")
	case "id":
		if f.ID != "" {
			return again("id")
		}
		if !db.ValidID(t.value) {
			return fault.New(fault.Invalid, "this is not the id of a certificate")
		}
		f.ID = t.value
	default:
		return f.addWord(t.value)
	}
	return err
}

func again(key string) error {
	return fault.New(fault.Invalid, "%s: may be given once", key)
}

func addTo(set *[]string, v string) error {
	if len(v) > maxText {
		return fault.New(fault.Invalid, "the value is longer than %d bytes", maxText)
	}
	if !slices.Contains(*set, v) {
		*set = append(*set, v)
	}
	if len(*set) > maxSet {
		return fault.New(fault.Invalid, "more than %d values of one key", maxSet)
	}
	return nil
}

var reKey = regexp.MustCompile(`^(rsa|p|ed|ml-dsa-)?[a-z0-9]{1,12}$`)

// addKey accepts the usual spellings: rsa-2048, RSA2048, P-256.
func (f *Filter) addKey(v string) error {
	v = lower(v)
	if keyGroups[v] != nil {
		return addTo(&f.Keys, v)
	}
	for _, family := range []string{"rsa", "p", "ed"} {
		if rest, ok := strings.CutPrefix(v, family+"-"); ok {
			v = family + rest
		}
	}
	if !reKey.MatchString(v) {
		return fault.New(fault.Invalid, "not a kind of key; examples: rsa2048 p256 ed25519 ml-dsa-65, or weak, classical, post-quantum")
	}
	return addTo(&f.Keys, v)
}

func (f *Filter) addStatus(v string) error {
	if v == "any" {
		f.Statuses = slices.Clone(Statuses)
		return nil
	}
	if v == "issued" { // the word of the CA's own books
		if err := f.addStatus(string(Active)); err != nil {
			return err
		}
		v = string(Superseded)
	}
	if !Status(v).Valid() {
		return fault.New(fault.Invalid, "statuses are: active superseded expired revoked retired any")
	}
	if !slices.Contains(f.Statuses, Status(v)) {
		f.Statuses = append(f.Statuses, Status(v))
	}
	return nil
}

func yesNo(into **bool, v string) error {
	if *into != nil {
		return fault.New(fault.Invalid, "this key may be given once")
	}
	if v != "yes" && v != "no" {
		return fault.New(fault.Invalid, "the value is yes or no")
	}
	*into = new(v == "yes")
	return nil
}

func (f *Filter) addTag(v string) error {
	name, value, ok := strings.Cut(v, "=")
	if !ok {
		return fault.New(fault.Invalid, "a tag is name=value")
	}
	if err := checkTag(name, value); err != nil {
		return err
	}
	return addTo(&f.Tags, v)
}

// addEndpoint reads host, host:port, [address]:port or *.suffix:port.
func (f *Filter) addEndpoint(v string) (err error) {
	if f.Endpoint.Name != "" {
		return again("endpoint")
	}
	host, port := v, ""
	if _, addrErr := netip.ParseAddr(v); addrErr != nil {
		if i := strings.LastIndexByte(v, ':'); i >= 0 {
			host, port = strings.TrimSuffix(strings.TrimPrefix(v[:i], "["), "]"), v[i+1:]
		}
	}
	if f.Endpoint, err = parseHost(host); err != nil {
		return err
	}
	if port == "" && host == v {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fault.New(fault.Invalid, "the port is not from 1 to 65535")
	}
	f.Port = int(n)
	return nil
}

// hashValue accepts colons and capitals, as other tools print them.
func hashValue(into *string, v, what string) error {
	v = lower(strings.ReplaceAll(v, ":", ""))
	if *into != "" {
		return fault.New(fault.Invalid, "%s may be given once", what)
	}
	if !ValidFingerprint(v) {
		return fault.New(fault.Invalid, "%s is written in 64 hexadecimal digits", what)
	}
	*into = v
	return nil
}

// addWord adds a free word.
func (f *Filter) addWord(v string) error {
	if pki.LongHex(v) {
		return f.addSingle(term{text: v, key: map[bool]string{true: "fingerprint", false: "serial"}[len(v) == 64], value: v})
	}
	h, err := parseHost(strings.TrimPrefix(v, "*."))
	if err == nil && strings.Contains(v, ".") && f.Name.Name == "" {
		h.Below, h.Exact = true, !strings.HasPrefix(v, "*.")
		f.Name = h
		return nil
	}
	if len(v) < 2 {
		return fault.New(fault.Invalid, "a word to look for has at least 2 characters")
	}
	if !slices.Contains(f.Words, lower(v)) {
		f.Words = append(f.Words, lower(v))
	}
	if len(f.Words) > maxWords {
		return fault.New(fault.Invalid, "at most %d words to look for", maxWords)
	}
	return nil
}

// addSpan reads <x, <=x, >x, >=x and x..y, and joins it to r. sign is 1 for
// instants ahead of now, -1 for instants in the past: there "<7d" means after
// seven days ago.
func addSpan(r *Range, v string, now time.Time, sign int) error {
	if from, to, ok := strings.Cut(v, ".."); ok {
		if err := bound(r, ">=", from, now, sign); err != nil {
			return err
		}
		return bound(r, "<=", to, now, sign)
	}
	op := v[:len(v)-len(strings.TrimLeft(v, "<>="))]
	if !slices.Contains([]string{"<", "<=", ">", ">="}, op) {
		return fault.New(fault.Invalid, "write <14d, >30d, <2026-12-31 or 2026-12-01..2026-12-31")
	}
	return bound(r, op, v[len(op):], now, sign)
}

// bound narrows r by one comparison.
func bound(r *Range, op, text string, now time.Time, sign int) error {
	start, end, ago, err := point(text, now, sign)
	if err != nil {
		return err
	}
	if ago { // an age: younger than x lies after that instant
		op = map[string]string{"<": ">=", "<=": ">=", ">": "<", ">=": "<"}[op]
	}
	switch op {
	case "<":
		r.To = earlier(r.To, start)
	case "<=":
		r.To = earlier(r.To, end)
	case ">":
		r.From = later(r.From, end)
	case ">=":
		r.From = later(r.From, start)
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.IsZero() || b.After(a) {
		return b
	}
	return a
}

// maxSpan bounds durations: 100 years.
const maxSpan = 100 * 365 * 24 * time.Hour

// point reads a time. A date covers its whole day, from start to end; so does
// the day in which a duration of days ends, all of which counts as within it.
// ago is true for a duration into the past.
func point(text string, now time.Time, sign int) (start, end time.Time, ago bool, err error) {
	if d, e := time.Parse(time.DateOnly, text); e == nil && d.Year() >= 1970 {
		return d, d.AddDate(0, 0, 1), false, nil
	}
	if t, e := time.Parse(time.RFC3339, text); e == nil && t.Year() >= 1970 {
		return t.UTC(), t.UTC(), false, nil
	}
	d, whole, err := duration(text)
	if err != nil {
		return start, end, false, err
	}
	at := now.Add(time.Duration(sign) * d).UTC()
	if whole {
		at = at.Truncate(24 * time.Hour)
		if sign > 0 {
			at = at.Add(24 * time.Hour) // the whole last day counts
		}
	}
	return at, at, sign < 0, nil
}

// duration reads 12h, 14d, 8w or 1y; whole is true for days and longer.
func duration(text string) (d time.Duration, whole bool, err error) {
	units := map[string]time.Duration{"h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "y": 365 * 24 * time.Hour}
	if len(text) < 2 {
		return 0, false, badTime(text)
	}
	unit, ok := units[text[len(text)-1:]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	if !ok || err != nil || time.Duration(n) > maxSpan/unit {
		return 0, false, badTime(text)
	}
	return time.Duration(n) * unit, unit > time.Hour, nil
}

func badTime(text string) error {
	return fault.New(fault.Invalid, "%.40q is neither a duration (12h, 14d, 8w, 1y) nor a date (2026-12-31)", text)
}
