package alert

import (
	"context"
	"fmt"
	"strings"
	"time"

	"chancery/internal/db"
)

// Look is a kind of rule: where it looks, and what it can be told.
type Look struct {
	Kind string
	Doc  string
	Uses []string // of Params, as JSON names

	needs    []string
	interval time.Duration // from the end of a pass to the next
	events   bool          // what is found is an event, so that not to find it again says nothing
	page     func(context.Context, *looking) (found []Match, next string, err error)
}

// Match is a subject that a rule found.
type Match struct {
	Subject string
	Summary string
	Labels  map[string]string
	Since   time.Time // when it began; zero = now
	Sample  time.Time // of the observation, for rules that count them; zero = each pass is one
	Clear   bool      // it is over
}

// looking is one page of a pass.
type looking struct {
	db    *db.DB
	rule  *Rule
	at    string // where the pass stands, "" = its beginning
	kept  string // what outlives a pass; page may change it
	now   time.Time
	limit int
	dry   bool // a preview: look back, and keep nothing
}

// Looks returns every kind of rule.
func Looks() []Look {
	return []Look{
		{Kind: "authority-expiry", Doc: "An authority, or an OCSP signer, has at most this share of its life left.",
			Uses: []string{"share", "within"}, needs: []string{"share", "within"}, interval: 10 * time.Minute, page: authorities},
		{Kind: "certificate-expiry", Doc: "A certificate that nothing replaced has at most this share of its life left, or ended in the last seven days.",
			Uses: []string{"share", "within", "for"}, needs: []string{"share", "within"}, interval: 5 * time.Minute, page: certificates},
		{Kind: "endpoint-drift", Doc: "An endpoint serves another certificate than it should.",
			Uses: []string{"for"}, interval: time.Minute, page: drift},
		{Kind: "endpoint-failing", Doc: "Probes of an endpoint that once was good, or should serve something, fail.",
			Uses: []string{"for", "failures", "of"}, interval: time.Minute, page: failing},
		{Kind: "finding", Doc: "The background checker found something wrong with a certificate of ours.",
			interval: 5 * time.Minute, page: findings},
		{Kind: "journal-entry", Doc: "The journal has an entry of this kind; entries of others end it.",
			Uses: []string{"entries", "clears", "lasts"}, needs: []string{"entries", "lasts"}, interval: 15 * time.Second, events: true, page: entries},
		{Kind: "journal-mismatch", Doc: "The journal contradicts its chain of hashes, or a signed checkpoint.",
			interval: 5 * time.Minute, page: mismatch},
		{Kind: "scan-late", Doc: "A scan that is repeated did not begin when it was due.",
			Uses: []string{"for"}, interval: 5 * time.Minute, page: late},
		{Kind: "status-stale", Doc: "A CRL has at most this share of its life left, or a revocation has yet to reach a CRL, a cache or the bucket.",
			Uses: []string{"share", "for"}, needs: []string{"share"}, interval: time.Minute, page: stale},
		{Kind: "unknown-certificate", Doc: "A certificate for our names is in a Certificate Transparency log, and none of our own sources knows it.",
			Uses: []string{"for"}, interval: time.Minute, page: unknown},
	}
}

// Kinds returns the names of every kind of rule.
func Kinds() []string {
	var names []string
	for _, l := range Looks() {
		names = append(names, l.Kind)
	}
	return names
}

// lookOf returns the kind with a name, or nil.
func lookOf(kind string) *Look {
	for _, l := range Looks() {
		if l.Kind == kind {
			return &l
		}
	}
	return nil
}

// cursorSep separates the parts of a position.
const cursorSep = "\x1f"

func joinCursor(parts ...string) string { return strings.Join(parts, cursorSep) }

// splitCursor returns n parts, empty ones for "".
func splitCursor(s string, n int) []string {
	parts := strings.SplitN(s, cursorSep, n)
	for len(parts) < n {
		parts = append(parts, "")
	}
	return parts
}

// ending reports whether at most a share of a life is left, and no more than
// within.
func ending(begin, end, now time.Time, p *Params) bool {
	left := end.Sub(now)
	return left <= time.Duration(p.Within) && float64(left) <= p.Share*float64(end.Sub(begin))
}

// endsText says when something ends.
func endsText(end, now time.Time) string {
	day := end.Format("2006-01-02 15:04 MST")
	if !end.After(now) {
		return "ended on " + day
	}
	left := end.Sub(now)
	if days := int(left.Hours() / 24); days > 2 {
		return fmt.Sprintf("ends in %d days, on %s", days, day)
	}
	return "ends in " + left.Round(time.Minute).String() + ", on " + day
}
