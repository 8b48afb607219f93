package config

import (
	"time"

	"chancery/internal/pki"
)

// day is what "1d" means. Certificates count days of 86,400 seconds.
const day = 24 * time.Hour

// Default returns the configuration without any file or environment.
func Default() *Config {
	return &Config{
		Server: Server{
			Listen:        "127.0.0.1:8443",
			HTTPListen:    "127.0.0.1:8080",
			DebugListen:   "127.0.0.1:8081",
			URL:           "https://localhost:8443",
			HTTPURL:       "http://localhost:8080",
			Data:          ".chancery",
			Roles:         append([]Role(nil), Roles...),
			ReadTimeout:   15 * time.Second,
			WriteTimeout:  time.Minute,
			IdleTimeout:   2 * time.Minute,
			MaxHeader:     16 << 10,
			ShutdownGrace: 15 * time.Second,
		},
		Database: Database{ReadPool: 4, WritePool: 16, WriteBatch: 256},
		Keys:     defaultKeys(),
		ACME: ACME{
			MaxNames:              100,
			MaxBody:               64 << 10,
			OrderLifetime:         7 * day,
			PendingLifetime:       7 * day,
			AuthorizationLifetime: 30 * day,
			Retention:             30 * day,
			ChallengeWait:         time.Second,
			RenewalPoll:           6 * time.Hour,
			DNSPersistJustInTime:  "known",
			DNSPersistAccountURL:  true,
		},
		Mail: Mail{TLS: "starttls", Protocol: "lmtp"},
		Validation: Validation{
			HTTP01Port:     80,
			TLSALPN01Port:  443,
			DNSTimeout:     10 * time.Second,
			ConnectTimeout: 5 * time.Second,
			Timeout:        20 * time.Second,
			Workers:        256,

			PerspectiveTimeout: 15 * time.Second,
		},
		Perspective: map[string]Perspective{},
		CA:          map[string]CA{"default": DefaultCA()},
		Profile:     map[string]Profile{"default": DefaultProfile()},
		CTLog:       map[string]CTLog{},
		Limits: Limits{
			Enabled:                true,
			AccountsPerIP:          Rate{Count: 50, Per: 3 * time.Hour},
			AccountsPerNet:         Rate{Count: 500, Per: 3 * time.Hour},
			OrdersPerAccount:       Rate{Count: 3000, Per: 3 * time.Hour},
			FailuresPerName:        Rate{Count: 5, Per: time.Hour},
			CertificatesPerDomain:  Rate{Count: 10000, Per: 7 * day},
			CertificatesPerNameSet: Rate{Count: 25, Per: 7 * day},
			LookupsPerName:         Rate{Count: 60, Per: time.Hour},
			VerificationsPerIP:     Rate{Count: 30000, Per: time.Minute, Burst: 10000},
			PendingOrders:          1000,
			API:                    Rate{Count: 10000, Per: time.Second},
		},
		SignIn:       SignIn{Life: 12 * time.Hour, Idle: time.Hour},
		OIDC:         map[string]OIDC{},
		Approval:     Approval{Operations: []string{}, Expires: 3 * day},
		AlertChannel: map[string]AlertChannel{},
		Issuer:       map[string]Issuer{},
		Target:       map[string]Target{},
		Certificate:  map[string]Certificate{},
		Renew:        Renew{Lease: 5 * time.Minute, CheckWorkers: 64},
		Status: Status{
			OCSPValidity: 4 * day,
			OCSPLiveRate: 200,
			CRLValidity:  4 * day,
			CRLRefresh:   6 * time.Hour,
			CheckRate:    50,
		},
		Bus: Bus{Prefix: "chancery", ScanBuffer: 64 << 20},
		Scan: Scan{
			PerAddress:  4,
			AddressRate: 20,
			MaxInFlight: 8000,
			Timeout:     3 * time.Second,
			MaxTargets:  1_000_000,
		},
		CT:          CT{Domains: []string{}, InventoryDomains: true, Interval: 30 * time.Second, Grace: 10 * time.Minute},
		CloudSource: map[string]CloudSource{},
		DNS:         map[string]DNSProvider{},
		Challenges:  Challenges{PersistNames: []string{}},
		Agents:      Agents{MaxParked: 50_000},
		Inventory:   Inventory{WatchInterval: time.Minute, Retention: 400 * day},
		Alert:       Alert{GroupWait: 30 * time.Second, GiveUp: day, Keep: 90 * day},
		Log:         Log{Level: "info", Format: "auto"},
		Trace:       Trace{SamplePercent: 10},
		sources:     map[string]Source{},
	}
}

// DefaultCA returns the values of an authority that sets nothing.
func DefaultCA() CA {
	return CA{
		Organization: "Chancery",
		KeyType:      pki.P256,
		Trust:        Private,
		Profiles:     []string{"default"},
		CRLShards:    16,
	}
}

// DefaultProfile returns the values of a profile that sets nothing: a server
// certificate as public authorities would issue it, for 47 days.
func DefaultProfile() Profile {
	return Profile{
		Period:       47 * day,
		Backdate:     time.Hour,
		KeyTypes:     append([]pki.KeyType(nil), pki.KeyTypes...),
		KeyUsages:    []KeyUsage{"digital-signature", "key-encipherment"},
		ExtKeyUsages: []ExtKeyUsage{"server-auth"},
		Names:        []NameKind{"dns", "wildcard", "ip"},
		CommonName:   "requested",
		CRL:          true,
		OCSP:         true,
		Lint:         "private",
		CTSCTs:       2,
		CTOperators:  2,
		CTDeadline:   10 * time.Second,
		Challenges:   []Challenge{"http-01", "dns-01", "tls-alpn-01"},
	}
}
