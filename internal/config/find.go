package config

import (
	"strings"
	"time"
)

// Bus is the [bus] section.
type Bus struct {
	// NATS server, or several of one cluster with commas in between:
	// nats://user:password@host:4222, tls://host. Several processes on one
	// database need it; losing it costs them latency only. Empty: one is
	// embedded in this process and listens on nothing.
	URL string `toml:"url" format:"bus"`

	// NATS credentials file (user JWT and seed) of an external server. Empty:
	// none.
	CredentialsFile string `toml:"credentials_file"`

	// PEM file with the roots that a tls:// server must chain to. Empty: the
	// system's.
	CAFile string `toml:"ca_file"`

	// First part of the names of all streams and subjects, so that several
	// installations may share a server.
	Prefix string `toml:"prefix"`

	// How many servers of a cluster keep each stream. 0: three in a cluster,
	// one otherwise.
	Replicas int `toml:"replicas" min:"0" max:"5"`

	// Most scan results that may wait for the writer, in bytes. When they are
	// more, scanners slow down; nothing is dropped.
	ScanBuffer int64 `toml:"scan_buffer" format:"size"`
}

// Scan is the [scan] section.
type Scan struct {
	// Place of this process in the network. It runs the schedules of this site
	// and no others. Empty: those without a site.
	Site string `toml:"site"`

	// DNS servers, host:port. Empty: those of validation.resolvers, or of
	// /etc/resolv.conf.
	Resolvers []string `toml:"resolvers" format:"addr"`

	// PEM files with CA certificates that scans trust besides the system's and
	// those of this installation.
	Roots []string `toml:"roots"`

	// Most connections to one address at once.
	PerAddress int `toml:"per_address" min:"1" max:"1000"`

	// Most connections to one address in a second.
	AddressRate int `toml:"address_rate" min:"1" max:"100000"`

	// Most targets in flight in this process.
	MaxInFlight int `toml:"max_in_flight" min:"64" max:"8000"`

	// Longest time to connect, and the longest that a handshake may wait.
	Timeout time.Duration `toml:"timeout"`

	// How long before its end a served certificate counts as a problem. 0: at
	// its end.
	Warn time.Duration `toml:"warn" zero:"ok"`

	// Most targets of one pass of a schedule.
	MaxTargets int `toml:"max_targets" min:"1" max:"10000000"`
}

// Inventory is the [inventory] section.
type Inventory struct {
	// Directories whose certificate files (PEM, DER, PKCS#7, and key stores
	// without a password) are imported when they appear or change.
	Watch []string `toml:"watch"`

	// How often the directories are looked at.
	WatchInterval time.Duration `toml:"watch_interval"`

	// How long a certificate is kept after it ended, or was retired, if nothing
	// serves it.
	Retention time.Duration `toml:"retention"`
}

// bus checks [bus].
func (k *checker) bus() {
	b := &k.c.Bus
	for u := range strings.SplitSeq(b.URL, ",") {
		k.must(b.URL == "" || strings.HasPrefix(u, "nats://") || strings.HasPrefix(u, "tls://"), "bus.url",
			"must begin with nats:// or tls://; leave it empty for the embedded one")
	}
	k.must(b.URL != "" || b.CredentialsFile == "", "bus.credentials_file", "is for an external server; set bus.url")
	k.must(b.URL != "" || b.CAFile == "", "bus.ca_file", "is for an external server; set bus.url")
	k.must(b.Prefix != "" && !strings.ContainsAny(b.Prefix, ". *>\t"), "bus.prefix", "must be a word without dots, spaces, * and >")
	k.must(b.ScanBuffer >= 1<<20, "bus.scan_buffer", "must be at least 1MB")
}

// scan checks [scan] and [inventory].
func (k *checker) scan() {
	k.must(!strings.ContainsAny(k.c.Scan.Site, " \t\n"), "scan.site", "must be one word")
	k.must(k.c.Inventory.Retention >= day, "inventory.retention", "must be at least 1d")
	k.must(k.c.Inventory.WatchInterval >= time.Second, "inventory.watch_interval", "must be at least 1s")
}
