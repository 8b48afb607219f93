// Package rfc2136 changes zones by DNS UPDATE (RFC 2136) with TSIG (RFC 8945):
// BIND, Knot, PowerDNS, Microsoft DNS and others. A whole batch is one message.
package rfc2136

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"chancery/internal/acme/solver"
)

// Config is the configuration of a provider.
type Config struct {
	Server    string        `toml:"server" doc:"The primary server, host:port; port 53 if none is given."`
	KeyName   string        `toml:"key_name" doc:"Name of the TSIG key. Empty: the one in key_file; updates are not signed when there is none."`
	KeyFile   string        `toml:"key_file" doc:"File with the TSIG key: what tsig-keygen writes, or the secret in base64 on its first line."`
	Algorithm string        `toml:"algorithm" doc:"hmac-sha256, hmac-sha384, hmac-sha512 or hmac-sha1. Empty: that of key_file, or hmac-sha256."`
	Timeout   time.Duration `toml:"timeout" doc:"Longest time for one message."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "rfc2136",
	Doc:    "DNS UPDATE (RFC 2136), signed by TSIG: BIND, Knot, PowerDNS and others.",
	Config: func() any { return &Config{Timeout: 20 * time.Second} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

// maxChanges bounds the records of one message: 64 KiB over TCP, and a record
// of a long name takes about 350 octets without compression.
const maxChanges = 150

type provider struct {
	server, key, algorithm, secret string
	timeout                        time.Duration
}

func open(c *Config) (*provider, error) {
	p := &provider{server: c.Server, timeout: c.Timeout}
	if c.Server == "" {
		return nil, errors.New("server: must be set")
	}
	if _, _, err := net.SplitHostPort(c.Server); err != nil {
		p.server = net.JoinHostPort(strings.Trim(c.Server, "[]"), "53")
	}
	if c.KeyFile == "" {
		if c.KeyName != "" {
			return nil, errors.New("key_file: must be set with key_name")
		}
		return p, nil
	}
	text, err := os.ReadFile(c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	name, algorithm, secret := parseKey(string(text))
	if c.KeyName != "" {
		name = c.KeyName
	}
	if c.Algorithm != "" {
		algorithm = c.Algorithm
	}
	if name == "" {
		return nil, errors.New("key_name: must be set; key_file does not name the key")
	}
	if _, err := base64.StdEncoding.DecodeString(secret); err != nil || secret == "" {
		return nil, errors.New("key_file: its secret is not base64")
	}
	p.key, p.algorithm, p.secret = dns.Fqdn(strings.ToLower(name)), dns.Fqdn(strings.ToLower(algorithm)), secret
	if !slices.Contains([]string{dns.HmacSHA1, dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512}, p.algorithm) {
		return nil, fmt.Errorf("algorithm: %q is not hmac-sha256, hmac-sha384, hmac-sha512 or hmac-sha1", algorithm)
	}
	return p, nil
}

var (
	keyName      = regexp.MustCompile(`(?m)^\s*key\s+"?([^"\s{;]+)"?\s*\{`)
	keyAlgorithm = regexp.MustCompile(`\balgorithm\s+"?([a-zA-Z0-9.-]+?)"?\s*;`)
	keySecret    = regexp.MustCompile(`\bsecret\s+"?([A-Za-z0-9+/=]+)"?\s*;`)
)

// parseKey reads a key as BIND writes it, or the bare secret.
func parseKey(text string) (name, algorithm, secret string) {
	algorithm = "hmac-sha256"
	m := keySecret.FindStringSubmatch(text)
	if m == nil {
		line, _, _ := strings.Cut(text, "\n")
		return "", algorithm, strings.TrimSpace(line)
	}
	secret = m[1]
	if m := keyName.FindStringSubmatch(text); m != nil {
		name = m[1]
	}
	if m := keyAlgorithm.FindStringSubmatch(text); m != nil {
		algorithm = m[1]
	}
	return name, algorithm, secret
}

// Apply implements solver.Provider. One message is one transaction at the
// server (RFC 2136 section 3).
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	var changes []func(*dns.Msg)
	for _, r := range remove {
		changes = append(changes, func(m *dns.Msg) { m.Remove([]dns.RR{record(r)}) })
	}
	for _, r := range add {
		changes = append(changes, func(m *dns.Msg) { m.Insert([]dns.RR{record(r)}) })
	}
	for part := range slices.Chunk(changes, maxChanges) {
		m := new(dns.Msg).SetUpdate(dns.Fqdn(zone))
		for _, f := range part {
			f(m)
		}
		if err := p.send(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func record(r solver.Record) dns.RR {
	ttl := r.TTL
	if ttl <= 0 {
		ttl = solver.DefaultTTL
	}
	return &dns.TXT{Hdr: dns.RR_Header{Name: dns.Fqdn(r.Name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}, Txt: []string{r.Value}}
}

func (p *provider) send(ctx context.Context, m *dns.Msg) error {
	c := dns.Client{Net: "tcp", Timeout: p.timeout}
	if p.key != "" {
		m.SetTsig(p.key, p.algorithm, 300, time.Now().Unix())
		c.TsigSecret = map[string]string{p.key: p.secret}
	}
	res, _, err := c.ExchangeContext(ctx, m, p.server)
	if err != nil {
		return fmt.Errorf("update %s: %w", p.server, err)
	}
	if res.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("update %s: the server answers %s%s", p.server, dns.RcodeToString[res.Rcode], hint(res.Rcode))
	}
	return nil
}

// hint says what most often is wrong.
func hint(rcode int) string {
	switch rcode {
	case dns.RcodeNotAuth, dns.RcodeBadSig, dns.RcodeBadKey:
		return "; compare name, algorithm and secret of the TSIG key, and whether the server has the zone"
	case dns.RcodeBadTime:
		return "; compare the clocks"
	case dns.RcodeRefused:
		return "; the key may not change this zone"
	case dns.RcodeNotZone:
		return "; the name is not in the zone"
	}
	return ""
}
