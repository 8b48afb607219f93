package config

import (
	"net/netip"
	"time"

	"chancery/internal/pki"
)

// Config is everything an operator can set. The comments of its fields are
// the manual: docs/config.md and `chancery config doc` are made from them.
//
// The zero configuration (no file, no environment) is what `chancery dev`
// runs with.
type Config struct {
	// Listeners, addresses under which clients reach them, and start and stop.
	Server Server `toml:"server"`

	// Where the truth is kept.
	Database Database `toml:"database"`

	// Where the private keys of the authorities are kept.
	Keys Keys `toml:"keys"`

	// The ACME protocol (RFC 8555), for every directory alike.
	ACME ACME `toml:"acme"`

	// How the control of an identifier is checked.
	Validation Validation `toml:"validation"`

	// How mailboxes are validated, by messages and replies.
	Mail Mail `toml:"mail"`

	// One table per remote network perspective, which confirms what this server
	// sees of an identifier (see docs/perspectives.md). Without any such table
	// nobody is asked.
	Perspective map[string]Perspective `toml:"perspective"`

	// One table per certificate authority. NAME appears in its ACME directory,
	// /acme/NAME/directory. Without any such table there is one, "default".
	CA map[string]CA `toml:"ca"`

	// One table per certificate profile: what a certificate looks like. There
	// is always one, "default", which such a table may change. An order keeps
	// the profile it was made with, so that a change never alters it half way.
	Profile map[string]Profile `toml:"profile"`

	// One table per Certificate Transparency log (RFC 6962) that profiles name in
	// ct_logs. There is none by default.
	CTLog map[string]CTLog `toml:"ct_log"`

	// Rate limits. A limit reads "300 per 3h", "300 per 3h burst 50", or
	// "unlimited". What exceeds one is refused with 429 and Retry-After.
	Limits Limits `toml:"limits"`

	// One table per issuer that certificates are obtained from. NAME is what
	// managed certificates call it.
	Issuer map[string]Issuer `toml:"issuer"`

	// One table per account at a DNS provider that answers dns-01 challenges of
	// other CAs.
	DNS map[string]DNSProvider `toml:"dns"`

	// How other challenges of other CAs are answered.
	Challenges Challenges `toml:"challenges"`

	// One table per place that certificates are deployed to. NAME is what
	// managed certificates call it.
	Target map[string]Target `toml:"target"`

	// One table per certificate that an agent keeps in service by itself, from
	// an issuer and at targets of the same file (see docs/agents.md). For agents
	// only: a server refuses it.
	Certificate map[string]Certificate `toml:"certificate"`

	// How certificates are renewed.
	Renew Renew `toml:"renew"`

	// How long people stay signed in.
	SignIn SignIn `toml:"sign_in"`

	// One table per OpenID provider that people may sign in through.
	OIDC map[string]OIDC `toml:"oidc"`

	// What needs a second person.
	Approval Approval `toml:"approval"`

	// OCSP, CRLs, and where they go.
	Status Status `toml:"status"`

	// How the parts and the replicas of the program tell each other what is new.
	Bus Bus `toml:"bus"`

	// Scheduled scans, run by processes with the role scan.
	Scan Scan `toml:"scan"`

	// Programs on hosts that keep certificates in service there, and ask the
	// processes with the role agents what to do.
	Agents Agents `toml:"agents"`

	// One table per place that keeps certificates: a cloud's store, a cluster, a
	// secret manager. Processes with the role scan list them into the inventory.
	CloudSource map[string]CloudSource `toml:"source"`

	// What is looked for in Certificate Transparency logs.
	CT CT `toml:"ct"`

	// The list of every known certificate.
	Inventory Inventory `toml:"inventory"`

	// Log lines, on standard error.
	Log Log `toml:"log"`

	// Traces of requests and of work in the background, for a collector that
	// takes OTLP over HTTP: docs/observe.md. Off by default.
	Trace Trace `toml:"trace"`

	// Alerts: which there are, and who is told, are rules in the database:
	// docs/alerts.md.
	Alert Alert `toml:"alert"`

	// One table per place where people are told of alerts. Each has a kind, and
	// the keys of its kind: docs/alerts.md.
	AlertChannel map[string]AlertChannel `toml:"alert_channel"`

	sources map[string]Source // dotted key -> where its value came from; absent = default
}

// Server is the [server] section.
type Server struct {
	// HTTPS address, host:port: ACME, API and UI.
	Listen string `toml:"listen" format:"addr"`

	// Plain HTTP address, host:port: OCSP, CRLs and CA certificates, which
	// must not need TLS to be checked. Empty: not served.
	HTTPListen string `toml:"http_listen" format:"addr"`

	// Private address for /metrics, /livez, /readyz and profiles: host:port,
	// or unix:/path for a socket of mode 0600. Profiles answer callers on the
	// same host only. Empty: not served.
	DebugListen string `toml:"debug_listen"`

	// URL under which clients reach the HTTPS listener, without a trailing
	// slash. It is part of every ACME URL, so it must be stable; a proxy may
	// stand in front.
	URL string `toml:"url" format:"url"`

	// URL under which clients reach the HTTP listener. It is written into
	// every certificate (OCSP, CRL, issuer), so it must stay valid for as long
	// as the longest-lived of them.
	HTTPURL string `toml:"http_url" format:"url"`

	// Directory of all files that Chancery itself writes: keys, the SQLite
	// database, root.pem, admin.token. Made with mode 0700.
	Data string `toml:"data"`

	// What this process does. All of it by default; name roles to spread them
	// over several processes on one PostgreSQL.
	Roles []Role `toml:"roles"`

	// Certificate chain (PEM) of the HTTPS listener. Empty: one is issued by
	// the first authority and renewed before it expires. Read again when the
	// file changes.
	TLSCertFile string `toml:"tls_cert_file"`

	// Private key (PEM) that belongs to tls_cert_file.
	TLSKeyFile string `toml:"tls_key_file"`

	// Also offer HTTP/2. Browsers gain; ACME clients cost the server twice the
	// CPU per request.
	HTTP2 bool `toml:"http2"`

	// Peers whose X-Forwarded-For header is believed. Empty: the peer's own
	// address is the client's.
	TrustedProxies []netip.Prefix `toml:"trusted_proxies"`

	// Longest time to receive one request, header and body.
	ReadTimeout time.Duration `toml:"read_timeout"`

	// Longest time to handle one request and send its answer.
	WriteTimeout time.Duration `toml:"write_timeout"`

	// How long a connection that is kept alive may stay idle.
	IdleTimeout time.Duration `toml:"idle_timeout"`

	// Largest request header.
	MaxHeader int64 `toml:"max_header" format:"size"`

	// How long requests and jobs in flight may take to finish when the process
	// is told to stop. Set the orchestrator's own grace period higher.
	ShutdownGrace time.Duration `toml:"shutdown_grace"`
}

// Role is a part of the program that a process runs.
type Role string

// Roles of a process.
const (
	RoleACME   Role = "acme"   // ACME endpoints
	RoleCA     Role = "ca"     // signing
	RoleStatus Role = "status" // OCSP and CRLs
	RoleAPI    Role = "api"    // control-plane API and UI
	RoleRenew  Role = "renew"  // renewal and deployment loops
	RoleScan   Role = "scan"   // scanner
	RoleWriter Role = "writer" // batched result writer
	RoleAgents Role = "agents" // endpoint for agents
)

// Roles lists every role, in the order shown to users.
var Roles = []Role{RoleACME, RoleCA, RoleStatus, RoleAPI, RoleRenew, RoleScan, RoleWriter, RoleAgents}

// Choices returns the values a role may have.
func (Role) Choices() []string { return texts(Roles) }

// Database is the [database] section.
type Database struct {
	// A file path for SQLite, or postgres://user@host/name for PostgreSQL.
	// Empty: chancery.db in the data directory. Prefer PGPASSFILE to a password
	// here; it is never printed or logged.
	URL string `toml:"url" format:"database"`

	// Connections that read. SQLite: readers beside the one writer, and half as
	// many more that long queries leave to short ones.
	// PostgreSQL: connections to replicas, or to the primary when there are none.
	ReadPool int `toml:"read_pool" min:"1" max:"1000"`

	// Most connections to the PostgreSQL primary. The sum over all processes,
	// plus 20, must stay below the server's max_connections.
	WritePool int `toml:"write_pool" min:"1" max:"1000"`

	// Most callbacks that share one durable commit. More gives throughput,
	// fewer gives latency under load.
	WriteBatch int `toml:"write_batch" min:"1" max:"10000"`
}

// ACME is the [acme] section.
type ACME struct {
	// Most identifiers in one order.
	MaxNames int `toml:"max_names" min:"1" max:"1000"`

	// Largest request body.
	MaxBody int64 `toml:"max_body" format:"size"`

	// How long an order may take from new-order to finalize.
	OrderLifetime time.Duration `toml:"order_lifetime"`

	// How long a pending authorization can still be proved.
	PendingLifetime time.Duration `toml:"pending_lifetime"`

	// How long a proved authorization may be used again for further orders of
	// the same account. Authorities with trust = "public-webpki" use less
	// where policy demands it.
	AuthorizationLifetime time.Duration `toml:"authorization_lifetime"`

	// How long finished orders and authorizations are kept before they are
	// deleted. Certificates and revocations are not affected.
	Retention time.Duration `toml:"retention"`

	// How long the answer to a challenge request may wait for the result of
	// the validation, which saves the client a poll. 0: answer at once.
	ChallengeWait time.Duration `toml:"challenge_wait" zero:"ok"`

	// How often a client should ask again for renewal information (RFC 9773).
	RenewalPoll time.Duration `toml:"renewal_poll"`

	// Files with RSA keys that are refused, in certificate requests and as
	// account keys: the form of Debian's openssl-blacklist (CVE-2008-0166), 20
	// hexadecimal digits a line.
	WeakKeyFiles []string `toml:"weak_key_files"`

	// Terms of service that an account must agree to. Empty: none.
	TermsOfService string `toml:"terms_of_service" format:"url"`

	// Website shown in the directory. Empty: none.
	Website string `toml:"website" format:"url"`

	// Refuse new accounts that are not bound to an external account.
	EABRequired bool `toml:"eab_required"`

	// For whom dns-persist-01 is tried when an order is made, so that it is
	// ready at once: accounts that completed the method before (known), all, or
	// nobody (off).
	DNSPersistJustInTime JustInTime `toml:"dns_persist_just_in_time"`

	// Also take dns-persist-01 records whose accounturi is the account's URL as
	// it is: the drafts before 02, which most clients follow today. Otherwise
	// only the hashed form of draft 02, which binds the account's key, counts.
	DNSPersistAccountURL bool `toml:"dns_persist_account_url"`

	// Names under which CAA records authorise these authorities (RFC 8659).
	// They are also the issuer domain names of dns-persist-01. Empty: the host
	// of server.url.
	CAAIdentities []string `toml:"caa_identities"`
}

// Validation is the [validation] section.
type Validation struct {
	// DNS servers, host:port. Empty: those of /etc/resolv.conf. Use validating
	// resolvers of your own.
	Resolvers []string `toml:"resolvers" format:"addr"`

	// Private, loopback and other special-purpose ranges that a validation may
	// reach. Empty: public addresses only, whatever DNS says.
	AllowTargets []netip.Prefix `toml:"allow_targets"`

	// Port of http-01. Anything but 80 is for tests only.
	HTTP01Port int `toml:"http01_port" min:"1" max:"65535"`

	// Port of tls-alpn-01. Anything but 443 is for tests only.
	TLSALPN01Port int `toml:"tlsalpn01_port" min:"1" max:"65535"`

	// Longest time for one DNS question with its retries.
	DNSTimeout time.Duration `toml:"dns_timeout"`

	// Longest time to connect to one address.
	ConnectTimeout time.Duration `toml:"connect_timeout"`

	// Longest time for one whole validation attempt.
	Timeout time.Duration `toml:"timeout"`

	// Longest time for the answer of a remote perspective. One that takes longer
	// counts as one that disagrees.
	PerspectiveTimeout time.Duration `toml:"perspective_timeout"`

	// Key (PEM) by which remote perspectives know this server. Empty:
	// perspective.key in the data directory, made when it is missing. All
	// replicas share it.
	PerspectiveKeyFile string `toml:"perspective_key_file"`

	// Most validations at once. More wait; when too many wait, orders are
	// answered 503.
	Workers int `toml:"workers" min:"1" max:"10000"`
}

// Log is the [log] section.
type Log struct {
	// Least severe level written: debug, info, warn or error.
	Level Level `toml:"level"`

	// auto (text on a terminal, JSON elsewhere), json or text.
	Format Format `toml:"format"`
}

// Trace is the [trace] section.
type Trace struct {
	// URL that spans are posted to, path included, such as
	// http://127.0.0.1:4318/v1/traces. Empty: nothing is traced, and that costs
	// nothing.
	Endpoint string `toml:"endpoint" format:"url"`

	// File with "Name: value" lines, headers that the collector wants to see.
	// Empty: those of OTEL_EXPORTER_OTLP_HEADERS, as in any program.
	HeadersFile string `toml:"headers_file"`

	// Most per cent of traces that are recorded. A caller that sends a
	// traceparent may ask for less, not for more.
	SamplePercent int `toml:"sample_percent" min:"0" max:"100" zero:"ok"`
}

// Level is a log level.
type Level string

// Choices returns the values a level may have.
func (Level) Choices() []string { return []string{"debug", "info", "warn", "error"} }

// Format is a log format.
type Format string

// Choices returns the values a format may have.
func (Format) Choices() []string { return []string{"auto", "json", "text"} }

// keyTypes is every key type, as a choice list.
func keyTypes() []string { return texts(pki.KeyTypes) }

// texts converts a list of string-like values.
func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = string(v)
	}
	return out
}
