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
	// URL under which the log takes precertificates; /ct/v1/add-pre-chain is
	// appended.
	URL string `toml:"url" format:"url"`

	// Public key of the log, as log lists have it: base64 of its DER
	// SubjectPublicKeyInfo. No timestamp counts unless this key signed it.
	Key string `toml:"key"`

	// rfc6962, or static-ct for logs that are read as tiles.
	Kind CTKind `toml:"kind"`

	// Who runs the log. Empty: its name.
	Operator string `toml:"operator"`
}

// CTKind is a kind of Certificate Transparency log.
type CTKind string

// Choices returns the values a kind of log may have.
func (CTKind) Choices() []string { return []string{"rfc6962", "static-ct"} }

// DefaultCTLog returns the values of a log that sets nothing.
func DefaultCTLog() CTLog { return CTLog{Kind: "rfc6962"} }

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

// ctLogs checks [ct_log.NAME].
func (k *checker) ctLogs() {
	for _, name := range slices.Sorted(maps.Keys(k.c.CTLog)) {
		l, key := k.c.CTLog[name], "ct_log."+name
		k.must(l.URL != "", key+".url", "must be set")
		_, err := x509.ParsePKIXPublicKey(l.DER())
		k.must(err == nil, key+".key", "is not the base64 of a public key, as log lists have it")
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
