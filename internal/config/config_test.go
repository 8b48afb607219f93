package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"chancery/internal/pki"
)

// write makes a configuration file and returns its path.
func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chancery.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load loads text and environ, and ends the test on any problem.
func load(t testing.TB, text string, environ ...string) *Config {
	t.Helper()
	c, err := Load(write(t, text), environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// messages loads text and returns the problems, with the directory cut off.
func messages(t testing.TB, text string, environ ...string) []string {
	t.Helper()
	path := write(t, text)
	c, err := Load(path, environ)
	var found []error
	switch many, ok := err.(interface{ Unwrap() []error }); {
	case ok:
		found = many.Unwrap()
	case err != nil:
		found = []error{err}
	default:
		found = c.Check()
	}
	out := make([]string, len(found))
	for i, e := range found {
		out[i] = strings.ReplaceAll(e.Error(), filepath.Dir(path)+"/", "")
		if strings.Contains(out[i], "\n") {
			t.Errorf("more than one line: %q", out[i])
		}
	}
	return out
}

func TestDefaultsAreSound(t *testing.T) {
	c, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if found := c.Check(); len(found) != 0 {
		t.Error(found)
	}
}

func TestEveryKindOfValue(t *testing.T) {
	c := load(t, `
[server]
listen = ":443"
url = "https://ca.example.com"
http2 = true
roles = ["acme", "ca"]
trusted_proxies = ["10.0.0.0/8", "fd00::/8"]
max_header = "32KB"
shutdown_grace = "1m30s"
[database]
url = "postgres://chancery@db/chancery"
write_batch = 512
[validation]
resolvers = ["127.0.0.1:5353", "[::1]:53"]
[limits]
orders_per_account = "10 per 1d12h burst 3"
accounts_per_ip = "unlimited"
[ca.internal]
key_type = "ml-dsa-65"
profiles = ["short"]
[profile.short]
period = "6d"
names = ["dns"]
challenges = []
ct_logs = ["oak"]
ct_scts = 1
ct_operators = 1
ct_deadline = "3s"
[ct_log.oak]
url = "https://oak.example/2027"
key = "MFkw"
kind = "static-ct"
operator = "Example"
`)
	want := Default()
	s := &want.Server
	s.Listen, s.URL, s.HTTP2, s.Roles = ":443", "https://ca.example.com", true, []Role{RoleACME, RoleCA}
	s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	s.MaxHeader, s.ShutdownGrace = 32<<10, 90*time.Second
	want.Database.URL, want.Database.WriteBatch = "postgres://chancery@db/chancery", 512
	want.Validation.Resolvers = []string{"127.0.0.1:5353", "[::1]:53"}
	want.Limits.OrdersPerAccount = Rate{Count: 10, Per: 36 * time.Hour, Burst: 3}
	want.Limits.AccountsPerIP = Rate{}
	ca, profile := DefaultCA(), DefaultProfile()
	ca.KeyType, ca.Profiles = pki.MLDSA65, []string{"short"}
	profile.Period, profile.Names, profile.Challenges = 6*day, []NameKind{"dns"}, []Challenge{}
	profile.CTLogs, profile.CTSCTs, profile.CTOperators, profile.CTDeadline = []string{"oak"}, 1, 1, 3*time.Second
	want.CTLog["oak"] = CTLog{URL: "https://oak.example/2027", Key: "MFkw", Kind: "static-ct", Begin: "end", Operator: "Example"}
	want.CA, want.Profile = map[string]CA{"internal": ca}, map[string]Profile{"default": DefaultProfile(), "short": profile}
	if diff := cmp.Diff(want, c, cmpopts.IgnoreUnexported(Config{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestMistakesAreOneClearLine(t *testing.T) {
	for _, c := range []struct {
		name, text string
		env        []string
		want       []string
	}{
		{"unknown key", "[server]\n\nlisten = \":443\"\nlisen = \":1\"\n", nil,
			[]string{`chancery.toml:4: server.lisen: unknown key; did you mean "listen"?`}},
		{"unknown section", "[sever]\nlisten = \":443\"\n", nil,
			[]string{`chancery.toml:1: sever: unknown key; did you mean "server"?`}},
		{"nothing near", "[log]\nzzzzzzzzzzzz = 1\n", nil,
			[]string{`chancery.toml:2: log.zzzzzzzzzzzz: unknown key; there are level, format`}},
		{"wrong type", "[server]\nhttp2 = \"yes\"\nlisten = 443\nroles = \"acme\"\n", nil, []string{
			`chancery.toml:2: server.http2: true or false belongs here, not the string "yes"`,
			`chancery.toml:3: server.listen: an address (host:port) belongs here, not the number 443`,
			`chancery.toml:4: server.roles: a list of any of acme, ca, status, api, renew, scan, writer, agents belongs here, not the string "acme"`,
		}},
		{"number as text", "[acme]\nmax_names = \"100\"\n", nil,
			[]string{`chancery.toml:2: acme.max_names: a number belongs here, not the string "100"`}},
		{"duration as number", "[acme]\norder_lifetime = 7\n", nil,
			[]string{`chancery.toml:2: acme.order_lifetime: a duration such as "90m" or "7d" belongs here, not the number 7`}},
		{"bad duration", "[acme]\norder_lifetime = \"7 days\"\n", nil,
			[]string{`chancery.toml:2: acme.order_lifetime: "7 days" is not a duration; write one such as "90s", "15m", "12h" or "7d"`}},
		{"zero duration", "[acme]\norder_lifetime = \"0s\"\n", nil,
			[]string{`chancery.toml:2: acme.order_lifetime: must be longer than 0`}},
		{"out of range", "[validation]\nhttp01_port = 99999\n", nil,
			[]string{`chancery.toml:2: validation.http01_port: 99999 is out of range; 1 to 65535 is allowed`}},
		{"bad choice", "[log]\nlevel = \"verbose\"\n", nil,
			[]string{`chancery.toml:2: log.level: "verbose" is none of debug, info, warn, error`}},
		{"bad network", "[validation]\nallow_targets = [\"127.0.0.1\"]\n", nil,
			[]string{`chancery.toml:2: validation.allow_targets: "127.0.0.1" is not a network; write one such as "10.0.0.0/8" or "fd00::/8"`}},
		{"bad rate", "[limits]\norders_per_account = \"300/3h\"\n", nil,
			[]string{`chancery.toml:2: limits.orders_per_account: "300/3h" is not a rate; write one such as "300 per 3h", "300 per 3h burst 50" or "unlimited"`}},
		{"unknown key in an inner section", "[keys.pkcs11]\nmodul = \"x\"\n", nil,
			[]string{`chancery.toml:2: keys.pkcs11.modul: unknown key; did you mean "module"?`}},
		{"unknown variable of an inner section", "", []string{"CHANCERY_KEYS_PKCS11_MODUL=x"},
			[]string{`$CHANCERY_KEYS_PKCS11_MODUL: keys.pkcs11.modul: unknown key; did you mean "module"?`}},
		{"inner section as value", "[keys]\npkcs11 = 1\n", nil,
			[]string{`chancery.toml:2: keys.pkcs11: this is a section; write [keys.pkcs11] on a line of its own`}},
		{"section as value", "server = 1\n", nil,
			[]string{`chancery.toml:1: server: this is a section; write [server] on a line of its own`}},
		{"table as value", "[server.listen]\nhost = \"x\"\n", nil,
			[]string{`chancery.toml:1: server.listen: a table stands where an address (host:port) belongs`}},
		{"name missing", "[ca]\nkey_type = \"p256\"\n", nil,
			[]string{`chancery.toml:2: ca.key_type: unknown key; write [ca.NAME] and put it there`}},
		{"bad name", "[ca.\"../x\"]\n", nil,
			[]string{`chancery.toml:1: ca.../x: a name is 1 to 64 lower-case letters, digits and hyphens`}},
		{"syntax", "[server]\nlisten = \n", nil,
			[]string{`chancery.toml:2: server.listen: expected value but found '\n' instead`}},
		{"twice", "[log]\nlevel = \"info\"\nlevel = \"warn\"\n", nil,
			[]string{`chancery.toml:3: log.level: Key 'log.level' has already been defined.`}},
		{"environment", "", []string{"CHANCERY_LOG_LEVLE=info", "CHANCERY_ACME_MAX_NAMES=many", "CHANCERY_CA_OTHER_KEY_TYPE=p256"}, []string{
			`$CHANCERY_ACME_MAX_NAMES: acme.max_names: a number belongs here, not "many"`,
			`$CHANCERY_CA_OTHER_KEY_TYPE: ca: names no [ca.NAME] of the file`,
			`$CHANCERY_LOG_LEVLE: log.levle: unknown key; did you mean "level"?`,
		}},
	} {
		if diff := cmp.Diff(c.want, messages(t, c.text, c.env...)); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load("/nowhere/chancery.toml", nil)
	if err == nil || err.Error() != "/nowhere/chancery.toml: no such file; `chancery config print` writes a complete one to start from" {
		t.Error(err)
	}
	if _, err := Load(t.TempDir(), nil); err == nil || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}

// logKey is a P-256 key, and oakLog a log that has it.
const (
	logKey = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEggtmoWjr0T7YhOVPGsnjFZu+XisFIP3mF0TlIspgPk5YqgEEfKhfvCQ8xuT3ti8ctMEKQHW86Pe+XB1yE3rphQ=="
	oakLog = "[ct_log.oak]\nurl = \"https://oak.example\"\nkey = \"" + logKey + "\"\n"
)

func TestCheckSaysWhatDoesNotFit(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[ca.a]\nprofiles = [\"defalt\"]\n", `chancery.toml:2: ca.a.profiles: there is no [profile.defalt]; did you mean "default"?`},
		{"[ca.a]\ndefault_profile = \"x\"\n", `chancery.toml:2: ca.a.default_profile: "x" is not in ca.a.profiles`},
		{"[server]\nurl = \"http://a\"\n", `chancery.toml:2: server.url: must begin with https:// (RFC 8555 section 6.1)`},
		{"[server]\nurl = \"https://a/\"\n", `chancery.toml:2: server.url: must have no trailing slash, query or fragment`},
		{"[server]\nhttp_url = \"https://a\"\n", `chancery.toml:2: server.http_url: must begin with http://: a client that checks revocation cannot yet check TLS`},
		{"[server]\ntls_cert_file = \"a.pem\"\n", `chancery.toml:2: server.tls_cert_file: set both tls_cert_file and tls_key_file, or neither`},
		{"[server]\nroles = []\n", `chancery.toml:2: server.roles: names no role; this process would do nothing`},
		{"[database]\nurl = \"mysql://x\"\n", `chancery.toml:2: database.url: begins with mysql://; write a file path for SQLite or postgres://...`},
		{"[acme]\nchallenge_wait = \"1h\"\n", `chancery.toml:2: acme.challenge_wait: must be at most half of server.write_timeout (1m)`},
		{"[acme]\norder_lifetime = \"1d\"\n", `default: acme.pending_lifetime: is longer than acme.order_lifetime (1d); nobody could use the result`},
		{"[acme]\ncaa_identities = [\"CA.example\"]\n", `chancery.toml:2: acme.caa_identities: "CA.example" is not a domain name`},
		{"[perspective.a]\nregion = \"eu\"\nurl = \"https://a\"\npin = \"sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"\n", `default: perspective.a: one remote perspective makes no quorum; configure at least two, or none`},
		{perspectives("eu", "eu"), `default: perspective.p0: all perspectives are in one region; a proof needs two`},
		{perspectives("eu", ""), `chancery.toml:6: perspective.p1.region: must be set; a proof needs perspectives of two regions`},
		{strings.Replace(perspectives("eu", "us"), "https://p1", "http://p1", 1), `chancery.toml:7: perspective.p1.url: must be the https:// URL of the agent`},
		{strings.Replace(perspectives("eu", "us"), "sha256/", "sha1/", 1), "chancery.toml:4: perspective.p0.pin: must be what `chancery agent key FILE` prints where the agent runs"},
		{"[ca.default]\nmin_perspectives = 1\n", `chancery.toml:2: ca.default.min_perspectives: is 1, and there are 0 [perspective.NAME] sections`},
		{"[validation]\nperspective_timeout = \"1h\"\n" + perspectives("eu", "us"), `chancery.toml:2: validation.perspective_timeout: is longer than a validation may take (30s)`},
		{"[validation]\ntimeout = \"1s\"\nconnect_timeout = \"500ms\"\n", `default: validation.dns_timeout: is longer than validation.timeout (1s)`},
		{"[profile.default]\nchallenges = [\"dns-account-01\", \"dns-01\"]\n", `chancery.toml:2: profile.default.challenges: dns-01 must stand before dns-account-01, at which some clients give up`},
		{"[profile.default]\nchallenges = [\"device-attest-01\"]\n", `chancery.toml:2: profile.default.challenges: offers device-attest-01; set attest_apple_roots, attest_tpm_roots, attest_android_roots or attest_step_roots`},
		{"[profile.default]\nnames = [\"hardware-module\"]\n", `chancery.toml:2: profile.default.names: hardware-module can be proved by device-attest-01 alone, which challenges lacks`},
		{"[profile.default]\nchallenges = [\"tkauth-01\"]\n", `chancery.toml:2: profile.default.challenges: offers tkauth-01; set token_roots`},
		{"[profile.default]\nnames = [\"dns\", \"TNAuthList\"]\n", `chancery.toml:2: profile.default.names: TNAuthList can be proved by tkauth-01 alone, which challenges lacks`},
		{"[profile.default]\nnames = [\"TNAuthList\"]\nchallenges = [\"tkauth-01\"]\ntoken_roots = \"x\"\n", `default: profile.default.lint: must be rfc5280 for names that are no hosts`},
		{"[profile.default]\nnames = [\"email\"]\n", `chancery.toml:2: profile.default.names: email can be proved by email-reply-00 alone, which challenges lacks`},
		{"[profile.default]\nchallenges = [\"email-reply-00\"]\n", `chancery.toml:2: profile.default.challenges: offers email-reply-00; set mail.server, mail.address and mail.listen`},
		{"[mail]\nserver = \"mx.test:587\"\naddress = \"acme\"\nlisten = \"127.0.0.1:24\"\n", `chancery.toml:3: mail.address: must be a bare address, such as acme@example.com`},
		{"[mail]\nserver = \"mx.test:587\"\naddress = \"a@ca.test\"\n", `default: mail.listen: must be set; replies would go nowhere`},
		{"[mail]\nserver = \"mx.test:587\"\naddress = \"a@ca.test\"\nlisten = \"127.0.0.1:24\"\nuser = \"x\"\n", `default: mail.password_file: belongs together with user`},
		{"[mail]\nserver = \"mx.test:587\"\naddress = \"a@ca.test\"\nlisten = \"127.0.0.1:24\"\ndkim_selector = \"s\"\n", `default: mail.dkim_key_file: belongs together with dkim_selector`},
		{"[profile.default]\ndeny_names = [\"a b\"]\n", `chancery.toml:2: profile.default.deny_names: "a b" is not a pattern; write example.com, *.example.com or 10.0.0.0/8`},
		{"[ct]\ndomains = [\"*.example.com\"]\n", `chancery.toml:2: ct.domains: "*.example.com" is not a domain name`},
		{"[ct]\ninterval = \"10ms\"\n", `chancery.toml:2: ct.interval: must be at least 1s`},
		{"[ct_log.x]\nurl = \"https://log.test\"\nkey = \"AAAA\"\n", `chancery.toml:3: ct_log.x.key: is not the base64 of a public key, as log lists have it`},
		{"[ca.default]\nallow_names = [\"10.0.0.1/8\"]\n", `chancery.toml:2: ca.default.allow_names: "10.0.0.1/8" is not a pattern; write example.com, *.example.com or 10.0.0.0/8`},
		{"[keys.pkcs11]\nmodule = \"lib.so\"\ntoken = \"t\"\npin_env = \"P\"\n", `chancery.toml:2: keys.pkcs11.module: must be an absolute path, so that no other library is loaded`},
		{"[keys.pkcs11]\nmodule = \"/lib.so\"\ntoken = \"pkcs11:token=t?pin-value=1\"\npin_env = \"P\"\n", `chancery.toml:3: keys.pkcs11.token: must not hold a PIN; use pin_file or pin_env`},
		{"[keys.pkcs11]\nmodule = \"/lib.so\"\ntoken = \"t\"\npin_env = \"P\"\npin_file = \"/p\"\n", `chancery.toml:5: keys.pkcs11.pin_file: set one of pin_file and pin_env`},
		{"[keys.aws_kms]\nregion = \"eu-west-1\"\nalias_prefix = \"aws/x\"\n", `chancery.toml:3: keys.aws_kms.alias_prefix: must be set, and must not begin with aws/`},
		{"[keys.azure_kms]\nvault_url = \"http://x\"\n", `chancery.toml:2: keys.azure_kms.vault_url: must be set: https://NAME.vault.azure.net`},
		{"[profile.default]\nkey_types = []\n", `chancery.toml:2: profile.default.key_types: names no key type; nothing could be issued`},
		{"[profile.default]\next_key_usages = []\n", `chancery.toml:2: profile.default.ext_key_usages: is empty; a certificate without one can be used for everything`},
		{"[profile.default]\nperiod = \"1m\"\nbackdate = \"0s\"\n", `chancery.toml:2: profile.default.period: must be at least 10m; clients could not renew in time`},
		{"[certificate.x]\nnames = [\"a b\"]\nissuer = \"i\"\n[issuer.i]\nkind = \"acme\"\n", `chancery.toml:2: certificate.x.names: "a b" is neither a DNS name nor an address`},
		{"[certificate.x]\nnames = [\"a.test\"]\nissuer = \"j\"\n[issuer.i]\nkind = \"acme\"\n", `chancery.toml:3: certificate.x.issuer: there is no [issuer.j]; did you mean "i"?`},
		{"[certificate.x]\nnames = [\"a.test\"]\ntargets = [\"web\"]\n[issuer.i]\nkind = \"acme\"\n[target.edge]\nkind = \"nginx\"\n", `chancery.toml:3: certificate.x.targets: there is no [target.web]; there are edge`},
		{"[certificate.x]\nnames = [\"a.test\"]\ntargets = [\"edge\"]\n[certificate.y]\nnames = [\"a.test\", \"b.test\"]\ntargets = [\"edge\"]\n[issuer.i]\nkind = \"acme\"\n[target.edge]\nkind = \"nginx\"\n", `chancery.toml:4: certificate.y.id: certificate x has the same files at target edge; give one of them another id`},
		{"[certificate.x]\nnames = [\"a.test\"]\nchallenge = \"dns\"\n[issuer.i]\nkind = \"acme\"\n", `chancery.toml:3: certificate.x.challenge: must be http-01, dns-01 or tls-alpn-01`},
		{"[bus]\nurl = \"http://a\"\n", `chancery.toml:2: bus.url: must begin with nats:// or tls://; leave it empty for the embedded one`},
		{"[bus]\ncredentials_file = \"a\"\n", `chancery.toml:2: bus.credentials_file: is for an external server; set bus.url`},
		{"[bus]\nprefix = \"a.b\"\n", `chancery.toml:2: bus.prefix: must be a word without dots, spaces, * and >`},
		{"[bus]\nscan_buffer = \"1KB\"\n", `chancery.toml:2: bus.scan_buffer: must be at least 1MB`},
		{"[scan]\nsite = \"a b\"\n", `chancery.toml:2: scan.site: must be one word`},
		{"[inventory]\nretention = \"1h\"\n", `chancery.toml:2: inventory.retention: must be at least 1d`},
		{"[profile.default]\nperiod = \"1h\"\n", `default: profile.default.backdate: is not shorter than period; every certificate would be expired`},
		{"[ct_log.oak]\nkey = \"" + logKey + "\"\n", `default: ct_log.oak.url: must be set`},
		{"[ct_log.oak]\nurl = \"https://oak.example\"\nkey = \"secret\"\n", `chancery.toml:3: ct_log.oak.key: is not the base64 of a public key, as log lists have it`},
		{"[profile.default]\nct_logs = [\"oka\"]\nct_scts = 1\nct_operators = 1\n" + oakLog, `chancery.toml:2: profile.default.ct_logs: there is no [ct_log.oka]; did you mean "oak"?`},
		{"[profile.default]\nct_logs = [\"oak\"]\nct_operators = 1\n" + oakLog, `default: profile.default.ct_scts: 2 timestamps cannot be had from 1 logs`},
		{"[profile.default]\nct_logs = [\"oak\", \"oak\"]\nct_operators = 1\n" + oakLog, `chancery.toml:2: profile.default.ct_logs: names oak twice`},
		{"[profile.default]\nct_logs = [\"oak\"]\nct_scts = 1\nct_operators = 2\n" + oakLog, `chancery.toml:4: profile.default.ct_operators: 2 operators cannot be had: 1 timestamps, from logs of 1`},
		{"[profile.default]\nct_logs = [\"oak\"]\nct_scts = 1\nct_operators = 1\nct_deadline = \"1m\"\n" + oakLog, `chancery.toml:5: profile.default.ct_deadline: must be at most 20s`},
	} {
		got := messages(t, c.text)
		for i := range got { // a default that no longer fits is reported at its section
			got[i] = strings.Replace(got[i], "chancery.toml:1: "+keyOf(c.want), "default: "+keyOf(c.want), 1)
		}
		if diff := cmp.Diff([]string{c.want}, got); diff != "" {
			t.Errorf("%s\n%s", c.text, diff)
		}
	}
}

// perspectives is a file with a perspective in each region.
func perspectives(regions ...string) string {
	var b strings.Builder
	for i, r := range regions {
		fmt.Fprintf(&b, "[perspective.p%d]\nregion = %q\nurl = \"https://p%d\"\npin = \"sha256/47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU\"\n", i, r, i)
	}
	return b.String()
}

// keyOf is the key of a problem line.
func keyOf(line string) string {
	parts := strings.SplitN(line, ": ", 3)
	return parts[1]
}

func TestEnvironmentWinsOverTheFile(t *testing.T) {
	c := load(t, "[log]\nlevel = \"warn\"\n[profile.short-lived]\nperiod = \"6d\"\n[ca.default]\nprofiles = [\"short-lived\"]\n",
		"CHANCERY_LOG_LEVEL=debug", "CHANCERY_SERVER_ROLES=acme, ca", "CHANCERY_PROFILE_SHORT_LIVED_PERIOD=7d", "CHANCERY_SERVER_HTTP2=true",
		"CHANCERY_VALIDATION_ALLOW_TARGETS=127.0.0.0/8,::1/128", "CHANCERY_LIMITS_ORDERS_PER_ACCOUNT=5 per 1h", "CHANCERY_ACME_MAX_BODY=128KB",
		"CHANCERY_KEYS_PKCS11_MODULE=/lib.so", "CHANCERY_KEYS_PKCS11_SESSIONS=3", "CHANCERY_KEYS_AWS_KMS_REGION=eu-west-1", "CHANCERY_KEYS_STORE=pkcs11",
		"CHANCERY_DATABASE_URL=", "PATH=/bin", "CHANCERY_CONFIG=x.toml")
	if c.Log.Level != "debug" || !reflect.DeepEqual(c.Server.Roles, []Role{RoleACME, RoleCA}) || c.Profile["short-lived"].Period != 7*day || !c.Server.HTTP2 ||
		len(c.Validation.AllowTargets) != 2 || c.Limits.OrdersPerAccount.Count != 5 || c.ACME.MaxBody != 128<<10 {
		t.Errorf("%+v", c)
	}
	if k := c.Keys; k.Store != StorePKCS11 || k.PKCS11.Module != "/lib.so" || k.PKCS11.Sessions != 3 || k.AWS.Region != "eu-west-1" {
		t.Errorf("%+v", k)
	}
	if got := c.Source("keys.pkcs11.module").String(); got != "$CHANCERY_KEYS_PKCS11_MODULE" {
		t.Errorf("source %s", got)
	}
	if got := c.Source("log.level").String(); got != "$CHANCERY_LOG_LEVEL" {
		t.Errorf("source %s", got)
	}
	if got := c.Source("profile.short-lived.period").String(); got != "$CHANCERY_PROFILE_SHORT_LIVED_PERIOD" {
		t.Errorf("source %s", got)
	}
}

// TestKubernetesServiceVariables: a Service called chancery-ca puts these
// into every pod of its namespace, and must not stop the start.
func TestKubernetesServiceVariables(t *testing.T) {
	_, err := Load("", []string{
		"CHANCERY_CA_SERVICE_HOST=10.0.0.1", "CHANCERY_CA_SERVICE_PORT=443", "CHANCERY_CA_SERVICE_PORT_HTTPS=443", "CHANCERY_CA_PORT=tcp://10.0.0.1:443",
		"CHANCERY_ACME_PORT_443_TCP=tcp://10.0.0.1:443", "CHANCERY_ACME_PORT_443_TCP_ADDR=10.0.0.1", "CHANCERY_SERVICE_HOST=10.0.0.1", "CHANCERY_PORT=tcp://10.0.0.1:1",
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPrintReadsBackAndHidesSecrets(t *testing.T) {
	c := load(t, "[database]\nurl = \"postgres://u:hunter2@db/x?sslmode=require\"\n[profile.a]\ndescription = \"say \\\"hi\\\"\\t\\\\\"\n[limits]\naccounts_per_ip = \"7 per 1d\"\n[keys.pkcs11]\nsessions = 7\n[ca.default]\nprofiles = [\"a\"]\n"+oakLog,
		"CHANCERY_LOG_LEVEL=error")
	var b strings.Builder
	if err := c.Print(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	if strings.Contains(text, "hunter2") {
		t.Error("the password is printed")
	}
	for _, want := range []string{`level = "error" # $CHANCERY_LOG_LEVEL`, `accounts_per_ip = "7 per 1d" # `, `period = "47d"` + "\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing from:\n%s", want, text)
		}
	}
	back := load(t, text)
	back.Database.URL = c.Database.URL
	if diff := cmp.Diff(c, back, cmpopts.IgnoreUnexported(Config{}), cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u:p@h/d":              "postgres://u:xxxxx@h/d",
		"postgres://h/d?password=p&x=1":   "postgres://h/d?password=xxxxx&x=1",
		"postgres://u:p%zz@h/d":           "xxxxx",
		"/var/lib/chancery/chancery.db":   "/var/lib/chancery/chancery.db",
		"postgres://u@h/d?sslmode=prefer": "postgres://u@h/d?sslmode=prefer",
	} {
		if got := redact("database", in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := redact("bus", "nats://u:p@a:4222,tls://b:4222"); got != "nats://u:xxxxx@a:4222,tls://b:4222" {
		t.Errorf("bus: %s", got)
	}
}

func TestManualIsFresh(t *testing.T) {
	want, err := Manual()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/config.md")
	if err != nil || string(got) != want {
		t.Errorf("docs/config.md is stale; run go generate ./internal/config (%v)", err)
	}
	if strings.Contains(want, "\n\n\n\n") || strings.Contains(want, "(MISSING)") {
		t.Error("a field has no comment")
	}
}

func TestEveryFieldHasAKeyAndAComment(t *testing.T) {
	docs, err := fieldDocs()
	if err != nil {
		t.Fatal(err)
	}
	var walk func(reflect.Type)
	walk = func(st reflect.Type) {
		for f := range st.Fields() {
			if !f.IsExported() {
				continue
			}
			if f.Tag.Get("toml") == "" || docs[st.Name()+"."+f.Name] == "" {
				t.Errorf("%s.%s has no key or no comment", st.Name(), f.Name)
			}
			switch {
			case isMap(f.Type):
				walk(f.Type.Elem())
			case isSection(f.Type):
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90m": 90 * time.Minute, "7d": 7 * day, "1d12h": 36 * time.Hour, "0s": 0, "1.5h": 90 * time.Minute, "106751d": 106751 * day} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %s %v", text, got, err)
		}
	}
	for _, text := range []string{"", "7", "d", "-1d", "-5m", "1d-1h", "999999999999d", "106752d", "1.5d", "1d1d", "7 d"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q gave %s", text, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 90 * time.Minute: "1h30m", 36 * time.Hour: "1d12h", 47 * day: "47d", 10 * time.Minute: "10m", 1500 * time.Millisecond: "1.5s", time.Hour: "1h", 20 * time.Second: "20s"} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"512": 512, "64KB": 64 << 10, "10 MiB": 10 << 20, "1gb": 1 << 30, "7B": 7} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %d %v", text, got, err)
		}
	}
	for _, text := range []string{"", "KB", "-1", "1.5MB", "99999999999GB", "1TB", "1 2"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q gave %d", text, got)
		}
	}
}

func FuzzDuration(f *testing.F) {
	f.Add("1d12h")
	f.Add("106751d23h47m16.854775807s")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err != nil {
			return
		}
		if back, err := ParseDuration(FormatDuration(d)); err != nil || back != d {
			t.Errorf("%q = %d, written %q, read back %d %v", s, d, FormatDuration(d), back, err)
		}
	})
}

func FuzzLoad(f *testing.F) {
	f.Add("[server]\nlisten = \":443\"\n")
	f.Add("[profile.\"a.b\"]\nperiod = 1\n[[ca]]\n[ca.x]\nprofiles = [[1]]\nserver = {listen = {a = 1}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		b := &binder{sources: c.sources}
		b.file(c, "f", text)
		for _, err := range b.problems {
			var p *Problem
			if !errors.As(err, &p) || p.Source.File != "f" {
				t.Errorf("a problem without a place: %v", err)
			}
		}
		if len(b.problems) == 0 {
			c.Check()
		}
	})
}
