package config

import (
	"crypto/x509"
	"encoding/base64"
	"maps"
	"slices"
	"time"
)

// CTLog is one [ct_log.NAME] section.
type CTLog struct {
	// Submission URL of the log. It names the log: the checkpoints of a static
	// one carry it.
	URL string `toml:"url" format:"url"`

	// URL under which a static log is read, where it is another one. Empty: url.
	MonitorURL string `toml:"monitor_url" format:"url"`

	// Public key of the log, as log lists have it: base64 of its DER
	// SubjectPublicKeyInfo. Nothing counts unless this key signed it.
	Key string `toml:"key"`

	// rfc6962, or static-ct for logs that are read as tiles.
	Kind CTKind `toml:"kind"`

	// Who runs the log. Empty: its name.
	Operator string `toml:"operator"`

	// Follow the log, and look for our names in it.
	Watch bool `toml:"watch"`

	// Where to begin when the log is followed for the first time: end, or start
	// (all that it ever logged: hours to days for a public log).
	Begin CTBegin `toml:"begin"`

	// Requests to the log. Unlimited: 50 a second. A log that throttles gets
	// fewer.
	Rate Rate `toml:"rate"`
}

// CTKind is a kind of Certificate Transparency log.
type CTKind string

// Choices returns the values a kind of log may have.
func (CTKind) Choices() []string { return []string{"rfc6962", "static-ct"} }

// CTBegin is where following a log begins.
type CTBegin string

// Choices returns the values it may have.
func (CTBegin) Choices() []string { return []string{"end", "start"} }

// CT is the [ct] section.
type CT struct {
	// Domains that are ours, each with everything below it.
	Domains []string `toml:"domains"`

	// Also look for the registered domains of certificates in the inventory
	// that were obtained by us: issued, renewed, imported, listed in a source or
	// found by an agent.
	InventoryDomains bool `toml:"inventory_domains"`

	// Time between two looks at a log.
	Interval time.Duration `toml:"interval"`

	// How long a certificate that nobody of us knows may wait for whoever
	// obtained it to store it, before it is told of.
	Grace time.Duration `toml:"grace"`
}

// DefaultCTLog returns the values of a log that sets nothing.
func DefaultCTLog() CTLog { return CTLog{Kind: "rfc6962", Begin: "end"} }

// DER returns the key's DER, or nil when it is none.
func (l *CTLog) DER() []byte {
	der, err := base64.StdEncoding.Strict().DecodeString(l.Key)
	if err != nil {
		return nil
	}
	return der
}

// operator is who runs the log called name.
func (l CTLog) operator(name string) string {
	if l.Operator == "" {
		return name
	}
	return l.Operator
}

// followed checks [ct].
func (k *checker) followed() {
	for _, d := range k.c.CT.Domains {
		k.must(isDomain(d), "ct.domains", "%q is not a domain name", d)
	}
	k.must(k.c.CT.Interval >= time.Second, "ct.interval", "must be at least 1s")
}

// ctLogs checks [ct_log.NAME].
func (k *checker) ctLogs() {
	for _, name := range slices.Sorted(maps.Keys(k.c.CTLog)) {
		l, key := k.c.CTLog[name], "ct_log."+name
		k.must(l.URL != "", key+".url", "must be set")
		_, err := x509.ParsePKIXPublicKey(l.DER())
		k.must(err == nil, key+".key", "is not the base64 of a public key, as log lists have it")
		k.must(!l.Watch || len(k.c.CT.Domains) > 0 || k.c.CT.InventoryDomains, key+".watch", "there is nothing to look for; set ct.domains or ct.inventory_domains")
	}
}

// longestLogging leaves an order time to be finished before its claim is over.
const longestLogging = 20 * time.Second

// ct checks the keys of a profile about logs.
func (k *checker) ct(key string, p Profile) {
	if len(p.CTLogs) == 0 {
		return
	}
	operators := map[string]bool{}
	for i, name := range p.CTLogs {
		l, ok := k.c.CTLog[name]
		k.must(ok, key+".ct_logs", "there is no [ct_log.%s]%s", name, hint(name, slices.Sorted(maps.Keys(k.c.CTLog))))
		k.must(!slices.Contains(p.CTLogs[:i], name), key+".ct_logs", "names %s twice", name)
		operators[l.operator(name)] = true
	}
	k.must(p.CTSCTs <= len(p.CTLogs), key+".ct_scts", "%d timestamps cannot be had from %d logs", p.CTSCTs, len(p.CTLogs))
	k.must(p.CTOperators <= min(len(operators), p.CTSCTs), key+".ct_operators", "%d operators cannot be had: %d timestamps, from logs of %d", p.CTOperators, p.CTSCTs, len(operators))
	k.must(p.CTDeadline <= longestLogging, key+".ct_deadline", "must be at most %s", FormatDuration(longestLogging))
}
