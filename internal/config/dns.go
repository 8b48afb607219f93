package config

import (
	"maps"
	"slices"
	"time"
)

// DNSProvider is one [dns.NAME] section. The keys below hold for every kind;
// each kind has further ones (see docs/issuers.md).
type DNSProvider struct {
	// Kind of the provider, such as rfc2136 or route53.
	Kind string `toml:"kind"`

	// Names below which the account may change records. Empty: all that no other
	// provider has.
	Zones []string `toml:"zones"`

	// Servers (address:port) that are asked whether a change has arrived, in
	// place of those that the zone names.
	Nameservers []string `toml:"nameservers" format:"addr"`

	// How long a change may take to reach all servers.
	Wait time.Duration `toml:"wait"`

	// Time to live of the records.
	TTL time.Duration `toml:"ttl"`

	settings settings // the keys of its kind
}

func (d *DNSProvider) more() *settings { return &d.settings }

// Bind is Issuer.Bind for a DNS provider.
func (d *DNSProvider) Bind(name string, into any) error { return d.settings.bind("dns."+name, into) }

// DefaultDNSProvider returns the values of a provider that sets nothing.
func DefaultDNSProvider() DNSProvider {
	return DNSProvider{Zones: []string{}, Nameservers: []string{}, Wait: 90 * time.Second, TTL: time.Minute}
}

// Challenges is the [challenges] section.
type Challenges struct {
	// Address that answers http-01 challenges, such as ":80". Empty: none.
	HTTP01Listen string `toml:"http01_listen" format:"addr"`

	// Directory of a web server whose /.well-known/acme-challenge/ gets the
	// answers to http-01 challenges. Empty: none.
	HTTP01Webroot string `toml:"http01_webroot"`

	// Address that answers tls-alpn-01 challenges, such as ":443". Empty: none.
	TLSALPN01Listen string `toml:"tlsalpn01_listen" format:"addr"`

	// Names, as in allow_names, that have dns-persist-01 records already.
	PersistNames []string `toml:"persist_names"`
}

// dns checks [dns.NAME] as far as it needs no kind.
func (k *checker) dns() {
	for _, name := range slices.Sorted(maps.Keys(k.c.DNS)) {
		k.must(k.c.DNS[name].Kind != "", "dns."+name+".kind", "must be set; docs/issuers.md has an example for each kind")
	}
	k.names("challenges", map[string][]string{"persist_names": k.c.Challenges.PersistNames})
}
