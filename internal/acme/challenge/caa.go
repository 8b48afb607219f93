package challenge

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/dns"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

const (
	// caaMaxAge is how old a DNS answer may be for a CAA check. It is enough to
	// ask a busy parent domain once, not once per order; a record that an owner
	// adds takes effect within it.
	caaMaxAge = 5 * time.Second
	// caaQueries bounds one check: a name of many labels, with aliases.
	caaQueries = 200
)

// CAAConfig tunes a CAAChecker.
type CAAConfig struct {
	Resolver *dns.Resolver    // required
	Domains  []string         // issuer domain names that mean this CA; none: every issue property refuses
	Timeout  time.Duration    // one check, 10 s if 0
	Now      func() time.Time // time.Now if nil; stamps clearances
}

// CAAChecker decides by the CAA records of a name whether this CA may issue
// (RFC 8659), to this account, after this validation method (RFC 8657).
type CAAChecker struct{ cfg CAAConfig }

// NewCAA returns a checker. It fails if a domain cannot stand in a record.
func NewCAA(c CAAConfig) (*CAAChecker, error) {
	c.Domains = slices.Clone(c.Domains)
	for i, d := range c.Domains {
		c.Domains[i] = strings.ToLower(d)
		if !isIssuerDomain(d) {
			return nil, fault.New(fault.Invalid, "CAA identity %s is not a domain name", quote(d))
		}
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &CAAChecker{c}, nil
}

// Clearance is the result of a CAA check that permits issuance. Its zero value
// permits nothing; only CAAChecker and Sealer.OpenClearance make others.
type Clearance struct{ c *clearance }

type clearance struct {
	Identifier pki.Identifier `json:"identifier"` // as in the order, with "*."
	Method     Type           `json:"method"`
	AccountURL string         `json:"account"`
	At         time.Time      `json:"checkedAt"`
	Found      string         `json:"found,omitempty"` // domain with the relevant record set
	Records    []string       `json:"records,omitempty"`

	Corroboration *Corroboration `json:"corroboration,omitempty"` // nil: no remote perspective was asked
}

// Covers reports whether c permits issuing for exactly id to this account
// after this method, and was checked at most maxAge before now.
func (c Clearance) Covers(id pki.Identifier, method Type, accountURL string, now time.Time, maxAge time.Duration) bool {
	if c.c == nil {
		return false
	}
	age := now.Sub(c.c.At)
	return c.c.Identifier == id && c.c.Method == method && c.c.AccountURL == accountURL && age >= 0 && age <= maxAge
}

// At returns when the check was made.
func (c Clearance) At() time.Time {
	if c.c == nil {
		return time.Time{}
	}
	return c.c.At
}

// Found returns the domain whose records decided, or "" if there are none.
func (c Clearance) Found() string {
	if c.c == nil {
		return ""
	}
	return c.c.Found
}

// Records returns the relevant record set, one escaped line each, for the log.
func (c Clearance) Records() []string {
	if c.c == nil {
		return nil
	}
	return c.c.Records
}

// MarshalJSON returns the clearance for a journal; the text is not evidence.
func (c Clearance) MarshalJSON() ([]byte, error) { return json.Marshal(c.c) }

// Check looks the CAA records of id up and decides. A refusal is a *fault.Error
// of code caa that names the domain and records that refuse; a failed lookup
// is one of code dns, for it never permits. Addresses have no CAA records
// (RFC 8738 section 7), and neither have devices and telephone numbers.
func (k *CAAChecker) Check(ctx context.Context, id pki.Identifier, method Type, accountURL string) (Clearance, error) {
	out := &clearance{Identifier: id, Method: method, AccountURL: accountURL, At: k.cfg.Now().UTC()}
	switch id.Type {
	case pki.IP, pki.PermanentIdentifier, pki.HardwareModule, pki.TNAuthList:
		return Clearance{out}, nil
	case pki.DNS, pki.Email:
	default:
		return Clearance{}, fault.New(fault.UnsupportedIdentifier, "CAA is not defined for identifier type %s", quote(string(id.Type)))
	}
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Timeout)
	defer cancel()
	base, wild := split(id)
	domain, property := base.Value, "issue"
	switch {
	case id.Type == pki.Email: // RFC 9495
		domain, property = id.Domain(), "issuemail"
	case wild:
		property = "issuewild"
	}
	session := k.cfg.Resolver.Session(dns.Limits{MaxAge: caaMaxAge, Queries: caaQueries})
	found, err := session.CAA(ctx, domain)
	if err != nil {
		return Clearance{}, dnsFault(err, "CAA")
	}
	out.Found, out.Records = found.Name, lines(found.Records)
	if why := refusal(found.Records, k.cfg.Domains, property, method, accountURL); why != "" {
		return Clearance{}, fault.New(fault.CAA, "the CAA records at %s do not let this CA issue for %s: %s; they are %s",
			found.Name, id.Value, why, brief(out.Records))
	}
	return Clearance{out}, nil
}

// lines renders records for people, foreign bytes escaped.
func lines(records []dns.CAARecord) []string {
	var out []string
	for _, r := range records {
		out = append(out, fmt.Sprintf("%d %s %s", r.Flags, strings.Trim(quote(r.Tag), `"`), quote(r.Value)))
	}
	return out
}

// brief joins the first few lines.
func brief(records []string) string {
	const most = 5
	if len(records) > most {
		return strings.Join(records[:most], ", ") + fmt.Sprintf(" and %d more", len(records)-most)
	}
	return strings.Join(records, ", ")
}

// refusal decides by a property (RFC 8659 section 4, RFC 9495 section 3) and
// returns why issuance is refused, or "".
func refusal(set []dns.CAARecord, domains []string, property string, method Type, accountURL string) string {
	var issue, issuewild, issuemail []string
	for _, r := range set {
		switch strings.ToLower(r.Tag) {
		case "issue":
			issue = append(issue, r.Value)
		case "issuewild":
			issuewild = append(issuewild, r.Value)
		case "issuemail":
			issuemail = append(issuemail, r.Value)
		case "iodef", "contactemail", "contactphone":
			// Understood, and without meaning for a certificate.
		default:
			if r.Critical() {
				return "a critical property is unknown to this CA"
			}
		}
	}
	relevant, tag := issue, "issue"
	switch {
	case property == "issuemail":
		relevant, tag = issuemail, property
	case property == "issuewild" && len(issuewild) > 0: // section 4.3: it takes precedence, even to refuse
		relevant, tag = issuewild, property
	}
	if len(relevant) == 0 {
		return ""
	}
	why := "no " + tag + " property names this CA"
	for _, value := range relevant {
		p, ok := parseIssue(value)
		if !ok || !slices.Contains(domains, p.domain) {
			continue
		}
		if why = p.unmet(method, accountURL); why == "" {
			return ""
		}
	}
	return why
}

// issueValue is a parsed issue or issuewild property.
type issueValue struct {
	domain string // lower case; "" permits no issuer
	params []param
}

// param is one parameter; its tag is in lower case.
type param struct{ tag, value string }

// unmet returns which parameter this issuance does not satisfy, or "" (RFC
// 8657). A parameter given twice is unsatisfiable; unknown ones are without
// meaning (RFC 8659 section 4.2).
func (v issueValue) unmet(method Type, accountURL string) string {
	accounts, methods := 0, 0
	for _, p := range v.params {
		switch p.tag {
		case "accounturi":
			if accounts++; accounts > 1 || p.value != accountURL {
				return "accounturi names another account"
			}
		case "validationmethods":
			if methods++; methods > 1 || !slices.Contains(strings.Split(p.value, ","), string(method)) {
				return "validationmethods does not list " + string(method)
			}
		}
	}
	return ""
}

// parseIssue reads a property value by the grammar of RFC 8659 section 4.2:
//
//	issue-value = *WSP [issuer-domain-name *WSP] [";" *WSP [parameters *WSP]]
//
// A value that does not follow it counts as one without a domain name: it
// permits nobody, so the caller treats !ok like a foreign domain.
func parseIssue(s string) (v issueValue, ok bool) {
	domain, rest, more := strings.Cut(s, ";")
	domain = strings.Trim(domain, wsp)
	if domain != "" && !isIssuerDomain(domain) {
		return issueValue{}, false
	}
	v.domain = strings.ToLower(domain)
	if rest = strings.Trim(rest, wsp); !more || rest == "" {
		return v, true
	}
	for one := range strings.SplitSeq(rest, ";") {
		tag, value, eq := strings.Cut(one, "=")
		tag, value = strings.ToLower(strings.Trim(tag, wsp)), strings.Trim(value, wsp)
		if !eq || !isLabel(tag) || !isParamValue(value) {
			return issueValue{}, false
		}
		v.params = append(v.params, param{tag, value})
	}
	return v, true
}

const wsp = " \t"

// isIssuerDomain reports label *("." label).
func isIssuerDomain(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel reports (ALPHA / DIGIT) *( *("-") (ALPHA / DIGIT)).
func isLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// isParamValue reports *(%x21-3A / %x3C-7E).
func isParamValue(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x21 || c > 0x7e || c == ';' {
			return false
		}
	}
	return true
}
