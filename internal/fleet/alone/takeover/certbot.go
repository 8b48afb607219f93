package takeover

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/fault"
)

// lineage is a file renewal/NAME.conf: what certbot knows of a certificate.
type lineage struct {
	top, params, webroots map[string]string
}

// parseLineage reads the form that certbot writes: "key = value" below
// [section] and [[subsection]].
func parseLineage(text []byte) lineage {
	l := lineage{map[string]string{}, map[string]string{}, map[string]string{}}
	into := l.top
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
			continue
		case line == "[renewalparams]":
			into = l.params
			continue
		case line == "[[webroot_map]]":
			into = l.webroots
			continue
		case line[0] == '[':
			into = map[string]string{} // something that means nothing here
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok {
			into[strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return l
}

// Certbot reads certbot's configuration directory, such as /etc/letsencrypt.
func Certbot(dir string) (*Found, error) {
	f := &Found{Program: "certbot", DNS: map[string]string{}, Secrets: map[string][]byte{}}
	files, err := filepath.Glob(filepath.Join(dir, "renewal", "*.conf"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fault.New(fault.NotFound, "%s is not a directory of certbot: it has no renewal/*.conf", dir)
	}
	accounts, roots := map[string]string{}, map[string]bool{} // account by directory URL
	for _, path := range files {
		text, err := read(path)
		if err != nil {
			return nil, err
		}
		l := parseLineage(text)
		name := strings.TrimSuffix(filepath.Base(path), ".conf")
		c, err := l.certificate(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			f.note("%s has no certificate or no key in live/, and was left out", name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		f.Certificates = append(f.Certificates, c)
		if old := accounts[c.Directory]; old != "" && old != l.params["account"] {
			f.note("several accounts at %s; that of %s is used", c.Directory, f.Certificates[0].Name)
		} else if old == "" {
			accounts[c.Directory] = l.params["account"]
		}
		f.challenges(&l, name, roots)
		f.installer(&l)
	}
	for _, directory := range slices.Sorted(maps.Keys(accounts)) {
		a, err := certbotAccount(dir, directory, accounts[directory])
		if err != nil {
			f.note("the account at %s cannot be read (%v); a new one will be opened", directory, err)
			continue
		}
		f.Accounts = append(f.Accounts, a)
	}
	switch len(roots) {
	case 0:
	case 1:
		for root := range roots {
			f.Webroot = root
		}
	default:
		f.note("names are proved below several web roots (%s); there can be one: point /.well-known/acme-challenge/ of every server to it, and set challenges.http01_webroot", strings.Join(slices.Sorted(maps.Keys(roots)), ", "))
	}
	return f, nil
}

// certificate is what a lineage says about its certificate.
func (l *lineage) certificate(dir, name string) (c Certificate, err error) {
	c.Name, c.Directory = name, l.params["server"]
	if !strings.Contains(c.Directory, "://") {
		return c, fault.New(fault.Invalid, "it names no server")
	}
	if err := c.pair(l.file("fullchain", dir, name), l.file("privkey", dir, name)); err != nil {
		return c, err
	}
	c.ReuseKey = strings.EqualFold(l.params["reuse_key"], "true")
	c.Chain = l.params["preferred_chain"]
	if c.Chain == "None" {
		c.Chain = ""
	}
	if strings.HasPrefix(l.params["authenticator"], "dns-") || strings.HasPrefix(l.params["pref_challs"], "dns-01") {
		c.Challenge = "dns-01"
	}
	c.RenewBefore = days(l.top["renew_before_expiry"])
	return c, nil
}

// file is a path of the lineage; a directory that was copied elsewhere has it
// below its own live/.
func (l *lineage) file(kind, dir, name string) string {
	here := filepath.Join(dir, "live", name, kind+".pem")
	if _, err := read(here); err == nil {
		return here
	}
	return cmp.Or(l.top[kind], here)
}

// days reads "30 days".
func days(s string) time.Duration {
	number, unit, _ := strings.Cut(s, " ")
	n, err := strconv.Atoi(number)
	if err != nil || n < 0 || n > 3650 {
		return 0
	}
	switch strings.TrimSuffix(strings.TrimSpace(unit), "s") {
	case "day":
		return time.Duration(n) * 24 * time.Hour
	case "week":
		return time.Duration(n) * 7 * 24 * time.Hour
	}
	return 0
}

// installer is the server whose configuration certbot edits.
func (f *Found) installer(l *lineage) {
	kind := l.params["installer"]
	if kind != "nginx" && kind != "apache" {
		return
	}
	if f.Target != "" && f.Target != kind {
		f.note("certificates are installed into nginx and into apache; give each its own [target.NAME]")
		return
	}
	f.Target = kind
}

// challenges is how a lineage proves its names.
func (f *Found) challenges(l *lineage, name string, roots map[string]bool) {
	how := l.params["authenticator"]
	switch how {
	case "standalone":
		f.HTTP01Listen = net.JoinHostPort(l.params["http01_address"], cmp.Or(l.params["http01_port"], "80"))
	case "webroot":
		for _, root := range l.webroots {
			roots[root] = true
		}
		for root := range strings.SplitSeq(l.params["webroot_path"], ",") {
			if root = strings.TrimSpace(root); root != "" && len(l.webroots) == 0 {
				roots[root] = true
			}
		}
	case "nginx", "apache":
		f.note("%s is proved through %s, whose configuration certbot edits for a moment. Here that server needs one line for good, such as `location /.well-known/acme-challenge/ { root /var/www/acme; }` for nginx, and challenges.http01_webroot names the same directory", name, how)
	default:
		f.dns(l, name, how)
	}
}

// dns takes over an account at a DNS provider.
func (f *Found) dns(l *lineage, name, how string) {
	kind := strings.TrimPrefix(how, "dns-")
	key := "dns_" + kind + "_credentials"
	conf := map[string]string{}
	if path := l.params[key]; path != "" {
		text, err := read(path)
		if err != nil {
			f.note("%s is proved by DNS, and the credentials in %s cannot be read; write a [dns.NAME] section", name, path)
			return
		}
		conf = parseLineage(text).top
	}
	get := func(k string) string { return conf["dns_"+kind+"_"+k] }
	secret := func(key, file, value string) string {
		f.Secrets[file] = []byte(value + "\n")
		return fmt.Sprintf("%s = \"{dir}/%s\"\n", key, file)
	}
	switch {
	case kind == "rfc2136" && get("secret") != "":
		algorithm := strings.ToLower(cmp.Or(get("algorithm"), "HMAC-MD5"))
		f.DNS[kind] = fmt.Sprintf("server = %q\n", net.JoinHostPort(get("server"), cmp.Or(get("port"), "53"))) +
			secret("key_file", "rfc2136.key", fmt.Sprintf("key %q {\n\talgorithm %s;\n\tsecret %q;\n};", get("name"), algorithm, get("secret")))
	case kind == "cloudflare" && get("api_token") != "":
		f.DNS[kind] = secret("token_file", "cloudflare.token", get("api_token"))
	case kind == "digitalocean" && get("token") != "":
		f.DNS[kind] = secret("token_file", "digitalocean.token", get("token"))
	case kind == "route53":
		f.DNS[kind] = ""
	case kind == "google" && l.params[key] != "":
		f.DNS[kind] = fmt.Sprintf("key_file = %q\n", l.params[key])
		f.note("the project of the Google Cloud DNS zones is not in certbot's files; add it to [dns.google]")
	default:
		f.note("%s is proved by %q, which was not taken over; see docs/issuers.md for [challenges] and [dns.NAME]", name, how)
	}
}

// certbotAccount reads accounts/SERVER/DIRECTORY/ID.
func certbotAccount(dir, directory, id string) (a Account, err error) {
	a.Directory = directory
	path := directory[strings.Index(directory, "://")+3:]
	if id == "" || id != filepath.Base(id) {
		return a, errNoAccount
	}
	base := filepath.Join(dir, "accounts", filepath.Clean("/"+path), id)
	var reg struct {
		URI  string `json:"uri"`
		Body struct {
			Contact []string `json:"contact"`
		} `json:"body"`
	}
	text, err := read(filepath.Join(base, "regr.json"))
	if err == nil {
		err = json.Unmarshal(text, &reg)
	}
	if err != nil {
		return a, err
	}
	if a.URL = reg.URI; a.URL == "" {
		return a, errNoAccount
	}
	for _, c := range reg.Body.Contact {
		if mail, ok := strings.CutPrefix(c, "mailto:"); ok {
			a.Contact = append(a.Contact, mail)
		}
	}
	if text, err = read(filepath.Join(base, "private_key.json")); err != nil {
		return a, err
	}
	a.Key, err = parseKey(text)
	return a, err
}

// jwk is a private key as certbot keeps it (RFC 7518 sections 6.2 and 6.3).
type jwk struct {
	Type  string `json:"kty"`
	Curve string `json:"crv"`
	D     b64    `json:"d"`
	N     b64    `json:"n"`
	E     b64    `json:"e"`
	P     b64    `json:"p"`
	Q     b64    `json:"q"`
}

// b64 is base64url without padding.
type b64 []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *b64) UnmarshalText(text []byte) error {
	out, err := base64.RawURLEncoding.DecodeString(string(bytes.TrimRight(text, "=")))
	*b = out
	return err
}

// parseKey reads a private key in JWK form.
func parseKey(text []byte) (crypto.Signer, error) {
	var k jwk
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, errors.New("the account key is not a JWK")
	}
	switch k.Type {
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Curve]
		if curve == nil {
			return nil, fmt.Errorf("the account key has the curve %.20q", k.Curve)
		}
		d := make([]byte, (curve.Params().BitSize+7)/8)
		if len(k.D) > len(d) {
			return nil, errors.New("the account key is damaged")
		}
		copy(d[len(d)-len(k.D):], k.D)
		return ecdsa.ParseRawPrivateKey(curve, d)
	case "RSA":
		const most = 8192 / 8
		e := new(big.Int).SetBytes(k.E)
		if len(k.N) > most || len(k.P) > most || len(k.Q) > most || len(k.D) > most || !e.IsInt64() || e.Int64() > 1<<31-1 {
			return nil, errors.New("the account key is damaged")
		}
		key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).SetBytes(k.N), E: int(e.Int64())}, D: new(big.Int).SetBytes(k.D),
			Primes: []*big.Int{new(big.Int).SetBytes(k.P), new(big.Int).SetBytes(k.Q)}}
		if err := key.Validate(); err != nil {
			return nil, errors.New("the account key is damaged")
		}
		key.Precompute()
		return key, nil
	}
	return nil, fmt.Errorf("the account key has the type %.20q", k.Type)
}
