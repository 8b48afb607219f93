package inventory

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Bounds of what one certificate or sighting may bring along. Foreign
// certificates are hostile; whatever is cut is counted (NameCount) or refused
// with a reason, never dropped in silence.
const (
	MaxBatch = 5000      // observations in one Put
	MaxDER   = 128 << 10 // bytes of a certificate
	MaxNames = 2000      // names of a certificate that can be searched for
	maxName  = 253       // bytes of a name; longer ones are no DNS names and cannot be searched for
	maxShown = 1000      // bytes of names kept in the row for lists and free text
	maxText  = 255       // bytes of owner, team, environment, common name, issuer label
	maxTags  = 32        // tags of one observation
	maxToken = 64        // bytes of a tag name, probe, failure class or problem
)

// Observation is one thing that was learnt: that a certificate exists, that an
// endpoint serves it, or that an endpoint could not be asked. Exactly one of
// DER, Metadata and Fingerprint names the certificate; none of them means that
// the endpoint gave none.
type Observation struct {
	// ID is the id that a new certificate gets; "": one is made. It must be
	// unique: use the id of the row that the certificate comes from.
	ID string

	// DER is the certificate.
	DER []byte
	// Metadata describes a certificate whose bytes are not at hand; its
	// Fingerprint must be set.
	Metadata *pki.Metadata
	// Fingerprint is the SHA-256 of a certificate that is known already, in
	// lower-case hexadecimal: a prober that remembers what it has sent need
	// not send it again. An unknown one is refused.
	Fingerprint string

	Source Source
	SeenAt time.Time

	// Owner, Team and Environment are taken over where the certificate has
	// none yet; they never overwrite (that is what Edit is for).
	Owner, Team, Environment string
	// Tags are added as name and value.
	Tags map[string]string
	// Managed marks a certificate that the renewal engine looks after.
	Managed bool
	// RevokedAt is when its CA revoked it; zero = not known to be revoked.
	RevokedAt time.Time

	// Endpoint is where it was seen, or nil.
	Endpoint *Sighting
}

// Sighting is what a probe found at an endpoint.
type Sighting struct {
	Host    string // DNS name or IP address that was probed
	Port    int    // 1 to 65535
	SNI     string // server name sent, "" for none
	Address string // IP address that answered, "" when not known
	Probe   string // kind of probe, such as "observe" or "starttls-smtp"
	// Problems are the verdicts against what was served ("hostname",
	// "untrusted-mozilla"), empty when all is well.
	Problems []string
	// Failure is the class of a failed probe ("refused", "timeout-tls"), ""
	// for a good one.
	Failure string
}

// record is an observation after all checks.
type record struct {
	index       int    // in the batch
	id          string // for a new certificate, "" = make one
	fingerprint string
	der         []byte
	meta        *pki.Metadata // nil: known by fingerprint only
	issuer      issuer
	names       []string // at most MaxNames
	shown       string
	tags        []string // "name=value", sorted
	lineage     int64    // 0: none
	source      Source
	seenAt      int64
	owner       string
	team        string
	environment string
	managed     bool
	revokedAt   int64
}

// ItemError is why one item of a batch was refused; the others were stored.
type ItemError struct {
	Index int    // position in the batch
	Item  string // what a user would call it: a file, a line, an alias; may be ""
	Err   error  // *fault.Error
}

// newRecord checks o and takes out what is stored. A nil record without an
// error is a sighting without a certificate.
func newRecord(index int, o *Observation, known map[int64]issuer) (*record, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &record{index: index, id: o.ID, source: o.Source, seenAt: o.SeenAt.UnixMilli(),
		owner: o.Owner, team: o.Team, environment: o.Environment, managed: o.Managed}
	if !o.RevokedAt.IsZero() {
		r.revokedAt = o.RevokedAt.UnixMilli()
	}
	for name, value := range o.Tags {
		r.tags = append(r.tags, name+"="+value)
	}
	slices.Sort(r.tags)
	switch {
	case o.DER != nil:
		return r, r.parse(o.DER, known)
	case o.Metadata != nil:
		if o.Metadata.Fingerprint == [32]byte{} {
			return nil, fault.New(fault.Invalid, "the description of the certificate has no SHA-256 fingerprint")
		}
		r.describe(o.Metadata, known)
		return r, nil
	case o.Fingerprint != "":
		r.fingerprint = o.Fingerprint
		return r, nil
	}
	return nil, nil
}

// check refuses what no caller may send.
func (o *Observation) check() error {
	given := 0
	for _, is := range []bool{o.DER != nil, o.Metadata != nil, o.Fingerprint != ""} {
		if is {
			given++
		}
	}
	switch {
	case o.ID != "" && !db.ValidID(o.ID):
		return fault.New(fault.Invalid, "%.80q is not an id", o.ID)
	case given > 1:
		return fault.New(fault.Invalid, "give one of DER, metadata and fingerprint")
	case given == 0 && o.Endpoint == nil:
		return fault.New(fault.Invalid, "the observation has neither a certificate nor an endpoint")
	case o.Fingerprint != "" && !ValidFingerprint(o.Fingerprint):
		return fault.New(fault.Invalid, "a fingerprint is 64 lower-case hexadecimal digits (SHA-256)")
	case !o.Source.Valid() || o.Source&(o.Source-1) != 0:
		return fault.New(fault.Invalid, "an observation has one source")
	case o.SeenAt.IsZero():
		return fault.New(fault.Invalid, "the observation does not say when it was made")
	case len(o.Tags) > maxTags:
		return fault.New(fault.TooLarge, "an observation may bring at most %d tags", maxTags)
	}
	if err := checkOwnership(o.Owner, o.Team, o.Environment); err != nil {
		return err
	}
	for name, value := range o.Tags {
		if err := checkTag(name, value); err != nil {
			return err
		}
	}
	if o.Endpoint != nil {
		return o.Endpoint.check(given == 0)
	}
	return nil
}

// checkOwnership checks the three texts that people give to certificates.
func checkOwnership(texts ...string) error {
	for i, what := range []string{"owner", "team", "environment"} {
		if err := checkText(what, texts[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkText(what, text string) error {
	switch {
	case len(text) > maxText:
		return fault.New(fault.Invalid, "the %s is longer than %d bytes", what, maxText)
	case text != clean(text, maxText) || strings.TrimSpace(text) != text:
		return fault.New(fault.Invalid, "the %s has control characters, is not UTF-8, or begins or ends with a space", what)
	case text == none:
		return fault.New(fault.Invalid, "%q means that there is no %s; choose another word", none, what)
	}
	return nil
}

// checkTag checks a tag; its name is a token, so that "name=value" has one
// reading.
func checkTag(name, value string) error {
	if !token(name) {
		return fault.New(fault.Invalid, "tag name %.80q: use 1 to %d of a-z, 0-9, '-', '_', '.' and '/'", name, maxToken)
	}
	if len(value) > maxText || value != clean(value, maxText) {
		return fault.New(fault.Invalid, "the value of tag %s is longer than %d bytes, has control characters or is not UTF-8", name, maxText)
	}
	return nil
}

// token reports whether s is a short word without spaces or "=".
func token(s string) bool {
	if s == "" || len(s) > maxToken {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("-_./", c) >= 0) {
			return false
		}
	}
	return true
}

func (g *Sighting) check(alone bool) error {
	switch {
	case !validHost(g.Host):
		return fault.New(fault.Invalid, "endpoint host %.80q is neither a DNS name nor an IP address", g.Host)
	case g.Port < 1 || g.Port > 65535:
		return fault.New(fault.Invalid, "endpoint port %d is not from 1 to 65535", g.Port)
	case g.SNI != "" && !validHost(g.SNI):
		return fault.New(fault.Invalid, "server name %.80q is not a DNS name", g.SNI)
	case !token(g.Probe):
		return fault.New(fault.Invalid, "the sighting does not say by which kind of probe")
	case g.Failure != "" && !token(g.Failure):
		return fault.New(fault.Invalid, "failure class %.80q is not a short lower-case word", g.Failure)
	case alone && g.Failure == "":
		return fault.New(fault.Invalid, "a sighting without a certificate needs a failure class")
	case len(g.Problems) > maxTags:
		return fault.New(fault.TooLarge, "a sighting has at most %d problems", maxTags)
	}
	for _, p := range g.Problems {
		if !token(p) {
			return fault.New(fault.Invalid, "problem %.80q is not a short lower-case word", p)
		}
	}
	if _, err := netip.ParseAddr(g.Address); g.Address != "" && err != nil {
		return fault.New(fault.Invalid, "endpoint address %.80q is not an IP address", g.Address)
	}
	return nil
}

// validHost accepts DNS names as people run them, underscores included.
func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if host == "" || len(host) > maxName {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// parse fills r from a certificate's bytes.
func (r *record) parse(der []byte, known map[int64]issuer) error {
	if len(der) > MaxDER {
		return fault.New(fault.TooLarge, "the certificate is longer than %d bytes", MaxDER)
	}
	if r.source == FromCA && r.quick(der, known) {
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "not a readable X.509 certificate: %s", clean(err.Error(), maxText))
	}
	meta := pki.BriefMetadataOf(cert)
	r.der = der
	r.issuer = issuerOf(&meta, cert.RawIssuer, known, func() string { return cert.Issuer.String() })
	r.describeAs(&meta)
	return nil
}

// quick is parse for a certificate of our own, if it is of a usual kind and not
// the first of its issuer: parsing costs more than all else that is done for one
// before it is stored.
func (r *record) quick(der []byte, known map[int64]issuer) (ok bool) {
	meta, name, ok := pki.QuickMetadata(der)
	if !ok || meta.SelfIssued {
		return false
	}
	if r.issuer, ok = known[issuerID(&meta, name)]; ok {
		r.der = der
		r.describeAs(&meta)
	}
	return ok
}

// describe fills r from a description without the bytes.
func (r *record) describe(meta *pki.Metadata, known map[int64]issuer) {
	r.issuer = issuerOf(meta, []byte(meta.Issuer), known, func() string { return meta.Issuer })
	r.describeAs(meta)
}

func (r *record) describeAs(meta *pki.Metadata) {
	r.meta = meta
	r.fingerprint = hex.EncodeToString(meta.Fingerprint[:])
	shown := 0
	for _, name := range meta.Names {
		name = clean(name, maxName+1)
		if name == "" || len(name) > maxName {
			continue
		}
		if len(r.names) < MaxNames {
			r.names = append(r.names, name)
		}
		if shown += len(name) + 1; shown <= maxShown {
			r.shown += name + " "
		}
	}
	r.shown = strings.TrimSuffix(r.shown, " ")
	slices.Sort(r.names)
	r.names = slices.Compact(r.names)
	r.lineage = lineageOf(meta)
}

// clean makes foreign text storable on both engines and harmless on a screen:
// valid UTF-8 without control characters, at most limit bytes.
func clean(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

// ValidFingerprint reports whether s is a SHA-256 in lower-case hexadecimal.
func ValidFingerprint(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if !('0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f') {
			return false
		}
	}
	return true
}

// reversed is the form under which names are indexed: the labels of a DNS name
// in reverse, an address as it is.
func reversed(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return name
	}
	return pki.ReverseName(name)
}

// sum64 is the first 64 bits of the SHA-256 of parts, each with its length.
func sum64(parts ...string) int64 {
	var small [256]byte
	b := small[:0]
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint64(b, uint64(len(p))), p...)
	}
	sum := sha256.Sum256(b)
	return prefix64(sum[:])
}

// prefix64 is the first 64 bits of a hash.
func prefix64(hash []byte) int64 { return int64(binary.BigEndian.Uint64(hash)) }

// serialKey is what serials are looked up by: the first 32 bits of the number, so
// that those that begin with the time, as ours do, are together in the index, and
// 32 bits of a hash of it all, for those with a long common beginning.
func serialKey(serial string) int64 {
	digits := strings.TrimLeft(serial, "-")
	lead, err := strconv.ParseUint((digits + "00000000")[:8], 16, 32)
	if err != nil {
		lead = 0 // not a number in hexadecimal: then it is not stored either
	}
	return int64(lead<<32 | uint64(sum64(serial))>>32)
}

// serialKeys are what a serial may be stored under: its key, or what rows have that
// were written before serials led with the time, a hash of it all.
func serialKeys(serial string) []int64 { return []int64{serialKey(serial), sum64(serial)} }

// lineageOf numbers the certificates that may succeed each other: those with
// the same names and the same kind of key (a server may present an RSA and an
// ECDSA certificate side by side). Self-signed ones are a lineage of their
// own, or anybody could supersede a certificate by presenting its names.
func lineageOf(meta *pki.Metadata) int64 {
	if len(meta.Names) == 0 || meta.CA {
		return 0
	}
	family := strings.TrimRight(meta.Key, "0123456789")
	self := ""
	if meta.SelfIssued {
		self = "self"
	}
	n := sum64(strings.Join(meta.Names, "\n"), family, self)
	if n == 0 {
		return 1
	}
	return n
}
