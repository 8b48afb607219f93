package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"chancery/internal/pki"
)

// Check returns what does not fit together, each a *Problem in one line. It
// opens nothing: whether files exist and addresses are free is for the start.
func (c *Config) Check() []error {
	k := &checker{c: c}
	k.server()
	k.database()
	k.keys()
	k.acme()
	k.validation()
	k.mail()
	k.perspectives()
	k.status()
	k.bus()
	k.must(c.Trace.Endpoint != "" || c.Trace.HeadersFile == "", "trace.headers_file", "is for a collector; set trace.endpoint")
	k.scan()
	k.plugins()
	k.dns()
	k.certificates()
	k.alertChannels()
	k.agents()
	k.cloudSources()
	k.followed()
	for _, name := range slices.Sorted(maps.Keys(c.CA)) {
		k.ca("ca."+name, c.CA[name])
	}
	k.ctLogs()
	for _, name := range slices.Sorted(maps.Keys(c.Profile)) {
		k.profile("profile."+name, c.Profile[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.OIDC)) {
		k.oidc("oidc."+name, c.OIDC[name])
	}
	return k.problems
}

// Source returns where the value of a dotted key came from.
func (c *Config) Source(key string) Source { return c.sources[key] }

// checker collects problems.
type checker struct {
	c        *Config
	problems []error
}

// must records a problem with key unless ok.
func (k *checker) must(ok bool, key, format string, args ...any) {
	if ok {
		return
	}
	src := k.c.sources[key]
	for up := key; src == (Source{}) && strings.Contains(up, "."); { // the nearest line there is
		up = up[:strings.LastIndexByte(up, '.')]
		src = k.c.sources[up]
	}
	k.problems = append(k.problems, &Problem{src, key, fmt.Sprintf(format, args...)})
}

// server checks [server].
func (k *checker) server() {
	s := &k.c.Server
	k.must(s.Listen != "", "server.listen", "must be set; ACME, API and UI are served there")
	k.must(len(s.Roles) > 0, "server.roles", "names no role; this process would do nothing")
	k.must(s.Data != "", "server.data", "must be set")
	k.must((s.TLSCertFile == "") == (s.TLSKeyFile == ""), "server.tls_cert_file", "set both tls_cert_file and tls_key_file, or neither")
	k.must(strings.HasPrefix(s.URL, "https://"), "server.url", "must begin with https:// (RFC 8555 section 6.1)")
	k.must(strings.HasPrefix(s.HTTPURL, "http://"), "server.http_url", "must begin with http://: a client that checks revocation cannot yet check TLS")
	k.bare("server.url", s.URL)
	k.bare("server.http_url", s.HTTPURL)
	k.must(s.HTTPListen != s.Listen || s.Listen == "", "server.http_listen", "is the same as server.listen")
	k.must(s.DebugListen == "" || (s.DebugListen != s.Listen && s.DebugListen != s.HTTPListen), "server.debug_listen", "is the same as another listener")
}

// bare checks that paths can be appended to a URL.
func (k *checker) bare(key, s string) {
	u, err := url.Parse(s)
	k.must(err == nil && !strings.HasSuffix(s, "/") && u.RawQuery == "" && u.Fragment == "",
		key, "must have no trailing slash, query or fragment")
}

// database checks [database].
func (k *checker) database() {
	u := k.c.Database.URL
	scheme, _, isURL := strings.Cut(u, "://")
	k.must(!isURL || scheme == "postgres" || scheme == "postgresql", "database.url",
		"begins with %s://; write a file path for SQLite or postgres://...", scheme)
	if isURL {
		_, err := url.Parse(u)
		k.must(err == nil, "database.url", "is not a well-formed URL")
	}
}

// acme checks [acme].
func (k *checker) acme() {
	a := &k.c.ACME
	k.must(a.ChallengeWait <= k.c.Server.WriteTimeout/2, "acme.challenge_wait", "must be at most half of server.write_timeout (%s)", FormatDuration(k.c.Server.WriteTimeout))
	k.must(a.PendingLifetime <= a.OrderLifetime, "acme.pending_lifetime", "is longer than acme.order_lifetime (%s); nobody could use the result", FormatDuration(a.OrderLifetime))
	k.must(a.MaxBody >= 4<<10, "acme.max_body", "is smaller than 4KB; no RSA certificate request fits")
	for _, id := range a.CAAIdentities {
		k.must(isDomain(id), "acme.caa_identities", "%q is not a domain name", id)
	}
}

// validation checks [validation].
func (k *checker) validation() {
	v := &k.c.Validation
	k.must(v.ConnectTimeout <= v.Timeout, "validation.connect_timeout", "is longer than validation.timeout (%s)", FormatDuration(v.Timeout))
	k.must(v.DNSTimeout <= v.Timeout, "validation.dns_timeout", "is longer than validation.timeout (%s)", FormatDuration(v.Timeout))
}

// ca checks one [ca.NAME].
func (k *checker) ca(key string, ca CA) {
	k.must(len(ca.Profiles) > 0, key+".profiles", "names no profile; nothing could be issued")
	for _, p := range ca.Profiles {
		_, ok := k.c.Profile[p]
		k.must(ok, key+".profiles", "there is no [profile.%s]%s", p, hint(p, slices.Sorted(maps.Keys(k.c.Profile))))
	}
	k.must(ca.DefaultProfile == "" || slices.Contains(ca.Profiles, ca.DefaultProfile), key+".default_profile", "%q is not in %s.profiles", ca.DefaultProfile, key)
	k.names(key, map[string][]string{"allow_names": ca.AllowNames, "deny_names": ca.DenyNames})
	k.must(ca.Organization != "" && len(ca.Organization) <= 64, key+".organization", "must have 1 to 64 characters (RFC 5280 ub-organization-name)")
}

// names checks the patterns of a section.
func (k *checker) names(key string, lists map[string][]string) {
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		for _, s := range lists[name] {
			_, err := pki.ParsePattern(s)
			k.must(err == nil, key+"."+name, "%q is not a pattern; write example.com, *.example.com or 10.0.0.0/8", s)
		}
	}
}

// profile checks one [profile.NAME].
func (k *checker) profile(key string, p Profile) {
	k.must(p.Period >= 10*time.Minute, key+".period", "must be at least 10m; clients could not renew in time")
	k.must(p.Backdate < p.Period, key+".backdate", "is not shorter than period; every certificate would be expired")
	k.must(len(p.KeyTypes) > 0, key+".key_types", "names no key type; nothing could be issued")
	k.must(len(p.KeyUsages) > 0, key+".key_usages", "is empty; a certificate without key usages can be used for nothing")
	phones := slices.Equal(p.Names, []NameKind{"TNAuthList"})
	k.must(len(p.ExtKeyUsages) > 0 || phones, key+".ext_key_usages", "is empty; a certificate without one can be used for everything")
	k.must(len(p.Names) > 0, key+".names", "is empty; nothing could be issued")
	k.must(len(p.Challenges) > 0, key+".challenges", "is empty; nobody could prove control of a name")
	k.names(key, map[string][]string{"allow_names": p.AllowNames, "deny_names": p.DenyNames})
	k.ct(key, p)
	for i, c := range p.Challenges {
		k.must(i == 0 || c.late() || !p.Challenges[i-1].late(), key+".challenges", "%s must stand before %s, at which some clients give up", c, p.Challenges[max(i-1, 0)])
	}
	attests := slices.Contains(p.Challenges, "device-attest-01")
	k.must(!attests || p.AttestAppleRoots+p.AttestTPMRoots+p.AttestAndroidRoots+p.AttestStepRoots != "", key+".challenges",
		"offers device-attest-01; set attest_apple_roots, attest_tpm_roots, attest_android_roots or attest_step_roots")
	k.must(!phones || p.Lint == "rfc5280", key+".lint", "must be rfc5280 for names that are no hosts")
	tokens := slices.Contains(p.Challenges, "tkauth-01")
	k.must(!tokens || p.TokenRoots != "", key+".challenges", "offers tkauth-01; set token_roots")
	k.must(tokens || !slices.Contains(p.Names, "TNAuthList"), key+".names", "TNAuthList can be proved by tkauth-01 alone, which challenges lacks")
	k.must(slices.Contains(p.Challenges, "email-reply-00") || !slices.Contains(p.Names, "email"), key+".names", "email can be proved by email-reply-00 alone, which challenges lacks")
	for _, n := range p.Names {
		k.must(!n.device() || attests, key+".names", "%s can be proved by device-attest-01 alone, which challenges lacks", n)
	}
	for _, d := range append(slices.Clone(p.PermittedDomains), p.ExcludedDomains...) {
		k.must(isDomain(d), key+".permitted_domains", "%q is not a domain name", d)
	}
}

// isDomain accepts lower-case host names without a trailing dot.
func isDomain(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !namePattern.MatchString(label) {
			return false
		}
	}
	return true
}
