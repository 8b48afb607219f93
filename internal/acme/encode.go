package acme

import (
	"encoding/json/jsontext"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"chancery/internal/pki"
)

// The encoders below write what encoding/json/v2 would, byte for byte, without
// reflection: these objects are the replies of every issuance.

// object writes the members of one JSON object.
type object struct {
	dst   []byte
	start int
}

func begin(dst []byte) object { return object{dst: append(dst, '{'), start: len(dst) + 1} }

// name writes a comma when needed, the quoted name (which is never escaped:
// names are ours), and the colon.
func (o *object) name(name string) {
	if len(o.dst) > o.start {
		o.dst = append(o.dst, ',')
	}
	o.dst = append(o.dst, '"')
	o.dst = append(o.dst, name...)
	o.dst = append(o.dst, '"', ':')
}

func (o *object) str(name, v string) {
	o.name(name)
	o.dst = appendString(o.dst, v)
}

func (o *object) strIf(name, v string) {
	if v != "" {
		o.str(name, v)
	}
}

func (o *object) strings(name string, v []string) {
	o.name(name)
	o.dst = appendList(o.dst, v, appendString)
}

func (o *object) stringsIf(name string, v []string) {
	if len(v) > 0 {
		o.strings(name, v)
	}
}

func (o *object) timeIf(name string, t Time) {
	if !t.IsZero() {
		o.name(name)
		o.dst = t.appendJSON(o.dst)
	}
}

func (o *object) intIf(name string, v int64) {
	if v != 0 {
		o.name(name)
		o.dst = strconv.AppendInt(o.dst, v, 10)
	}
}

func (o *object) trueIf(name string, v bool) {
	if v {
		o.name(name)
		o.dst = append(o.dst, "true"...)
	}
}

func (o *object) problemIf(name string, p *Problem) {
	if p != nil {
		o.name(name)
		o.dst = p.AppendJSON(o.dst)
	}
}

func (o *object) end() []byte { return append(o.dst, '}') }

func appendList[T any](dst []byte, list []T, one func([]byte, T) []byte) []byte {
	dst = append(dst, '[')
	for i, v := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, v)
	}
	return append(dst, ']')
}

// appendString appends s as a JSON string. Bad UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	if plain(s) {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	// Quoting fails on bad UTF-8 only, and that is mended first.
	if quoted, err := jsontext.AppendQuote(dst, strings.ToValidUTF8(s, "\uFFFD")); err == nil {
		return quoted
	}
	return append(dst, `""`...)
}

// plain reports whether s is ASCII that stands in a JSON string as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func (t Time) appendJSON(dst []byte) []byte {
	dst = append(dst, '"')
	dst = t.UTC().AppendFormat(dst, time.RFC3339)
	return append(dst, '"')
}

func appendIdentifier(dst []byte, id pki.Identifier) []byte {
	o := begin(dst)
	o.str("type", string(id.Type))
	o.str("value", id.Value)
	return o.end()
}

// AppendJSON appends o as JSON.
func (o *Order) AppendJSON(dst []byte) []byte {
	w := begin(dst)
	w.str("status", string(o.Status))
	w.timeIf("expires", o.Expires)
	w.name("identifiers")
	w.dst = appendList(w.dst, o.Identifiers, appendIdentifier)
	w.timeIf("notBefore", o.NotBefore)
	w.timeIf("notAfter", o.NotAfter)
	w.strIf("profile", o.Profile)
	w.strIf("replaces", o.Replaces)
	if o.AutoRenewal != nil {
		w.name("auto-renewal")
		w.dst = o.AutoRenewal.AppendJSON(w.dst)
	}
	w.strIf("delegation", o.Delegation)
	w.trueIf("allow-certificate-get", o.AllowCertificateGet)
	w.problemIf("error", o.Error)
	w.strings("authorizations", o.Authorizations)
	w.str("finalize", o.Finalize)
	w.strIf("certificate", o.Certificate)
	w.strIf("star-certificate", o.StarCertificate)
	return w.end()
}

// AppendJSON appends a as JSON.
func (a *AutoRenewal) AppendJSON(dst []byte) []byte {
	w := begin(dst)
	w.timeIf("start-date", a.StartDate)
	w.name("end-date")
	w.dst = a.EndDate.appendJSON(w.dst)
	w.name("lifetime")
	w.dst = strconv.AppendInt(w.dst, a.Lifetime, 10)
	w.intIf("lifetime-adjust", a.LifetimeAdjust)
	w.trueIf("allow-certificate-get", a.AllowCertificateGet)
	return w.end()
}

// AppendJSON appends a as JSON.
func (a *Authorization) AppendJSON(dst []byte) []byte {
	w := begin(dst)
	w.name("identifier")
	w.dst = appendIdentifier(w.dst, a.Identifier)
	w.str("status", string(a.Status))
	w.timeIf("expires", a.Expires)
	w.name("challenges")
	w.dst = append(w.dst, '[')
	for i := range a.Challenges {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.dst = a.Challenges[i].AppendJSON(w.dst)
	}
	w.dst = append(w.dst, ']')
	w.trueIf("wildcard", a.Wildcard)
	w.trueIf("subdomainAuthAllowed", a.SubdomainAuthAllowed)
	return w.end()
}

// AppendJSON appends c as JSON.
func (c *Challenge) AppendJSON(dst []byte) []byte {
	w := begin(dst)
	w.str("type", c.Type)
	w.str("url", c.URL)
	w.str("status", string(c.Status))
	w.timeIf("validated", c.Validated)
	w.problemIf("error", c.Error)
	w.strIf("token", c.Token)
	w.stringsIf("issuerDomainNames", c.IssuerDomainNames)
	w.strIf("from", c.From)
	w.strIf("tkauth-type", c.TKAuthType)
	w.strIf("token-authority", c.TokenAuthority)
	w.stringsIf("issuer-domain-names", c.IssuerDomainNamesOld)
	w.strIf("accounturi", c.AccountURI)
	return w.end()
}
