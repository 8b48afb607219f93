package config

import (
	"maps"
	"slices"
	"strings"
	"time"

	"chancery/internal/pki"
)

// Certificate is one [certificate.NAME] section: what an agent keeps in service
// on its host without a server (see docs/agents.md). Servers have
// `chancery order` instead, and refuse such a section.
type Certificate struct {
	// DNS names and addresses of the certificate.
	Names []string `toml:"names"`

	// The [issuer.NAME] it comes from. Empty: the only one there is.
	Issuer string `toml:"issuer"`

	// The [target.NAME]s that serve it.
	Targets []string `toml:"targets"`

	// Name of its files at targets. Empty: its first name, with "_" for an
	// asterisk.
	ID string `toml:"id"`

	// Type of its key.
	KeyType pki.KeyType `toml:"key_type"`

	// Keep the key when the certificate is renewed.
	ReuseKey bool `toml:"reuse_key"`

	// The only type of challenge that its names are proved by: http-01,
	// dns-01, tls-alpn-01. Empty: the first that works.
	Challenge string `toml:"challenge"`

	// Profile or product at the issuer. Empty: the issuer's default.
	Profile string `toml:"profile"`

	// Renew at least so long before the end. 0: when the issuer says, or after
	// two thirds of the life.
	RenewBefore time.Duration `toml:"renew_before" zero:"ok"`
}

// DefaultCertificate returns the values of a certificate that sets nothing.
func DefaultCertificate() Certificate {
	return Certificate{Names: []string{}, Targets: []string{}, KeyType: pki.P256}
}

// FileID is the name of its files at targets.
func (c *Certificate) FileID() string {
	if c.ID != "" || len(c.Names) == 0 {
		return c.ID
	}
	return strings.NewReplacer("*", "_", ":", "-").Replace(c.Names[0])
}

// certificates checks the [certificate.NAME] sections.
func (k *checker) certificates() {
	served := map[string]string{} // by target and name of the files
	for _, name := range slices.Sorted(maps.Keys(k.c.Certificate)) {
		c, key := k.c.Certificate[name], "certificate."+name
		for _, n := range c.Names {
			_, err := pki.ParseNames([]string{n})
			k.must(err == nil, key+".names", "%.80q is neither a DNS name nor an address", n)
		}
		k.must(len(c.Names) > 0, key+".names", "must name at least one DNS name or address")
		known := slices.Sorted(maps.Keys(k.c.Issuer))
		_, ok := k.c.Issuer[c.Issuer]
		k.must(ok || c.Issuer != "" || len(known) == 1, key+".issuer", "must say which of the issuers: %s", strings.Join(known, ", "))
		k.must(ok || c.Issuer == "", key+".issuer", "there is no [issuer.%s]%s", c.Issuer, hint(c.Issuer, known))
		k.must(c.KeyType.Valid(), key+".key_type", "%q is not one of %v", c.KeyType, pki.KeyTypes)
		k.must(slices.Contains([]string{"", "http-01", "dns-01", "tls-alpn-01"}, c.Challenge), key+".challenge", "must be http-01, dns-01 or tls-alpn-01")
		k.must(c.RenewBefore >= 0, key+".renew_before", "must not be negative")
		for _, t := range c.Targets {
			_, ok := k.c.Target[t]
			k.must(ok, key+".targets", "there is no [target.%s]%s", t, hint(t, slices.Sorted(maps.Keys(k.c.Target))))
			place := t + "/" + c.FileID()
			k.must(served[place] == "", key+".id", "certificate %s has the same files at target %s; give one of them another id", served[place], t)
			served[place] = name
		}
	}
}
