// Package takeover reads the directories of other ACME clients, certbot and
// lego, so that an agent goes on with their accounts and certificates.
//
// It only reads them: what it finds becomes a configuration file and a state
// directory of an agent, and the other program can be gone back to.
package takeover

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/acme/client"
	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/fleet/alone"
	"chancery/internal/issuer/acme"
	"chancery/internal/pki"
)

// maxFile bounds a file of another program.
const maxFile = 1 << 20

// Account is an account at a CA.
type Account struct {
	Directory string // URL
	URL       string
	Contact   []string // mail addresses
	Key       crypto.Signer
}

// Certificate is one that the other program kept.
type Certificate struct {
	Name        string // what the other program calls it
	Directory   string // URL of its CA
	Item        deploy.Item
	KeyType     pki.KeyType
	ReuseKey    bool
	Chain       string // common name that its chain shall end in
	Challenge   string // "dns-01", or "" for whatever is configured
	RenewBefore time.Duration
}

// Found is what a directory holds.
type Found struct {
	Program      string
	Accounts     []Account
	Certificates []Certificate
	Target       string            // kind of target: "nginx", "apache", or "" for files
	HTTP01Listen string            // address
	Webroot      string            // directory
	ALPNListen   string            // address
	DNS          map[string]string // kind of provider -> TOML of its keys
	Secrets      map[string][]byte // files of those keys, by name
	Notes        []string          // what a person must look at
}

// note adds something that a person must look at.
func (f *Found) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(f.Notes, text) {
		f.Notes = append(f.Notes, text)
	}
}

// read reads a file within the bound.
func read(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fault.New(fault.Invalid, "%s is no file, or larger than %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

// pair reads a certificate with its key.
func (c *Certificate) pair(chainFile, keyFile string) error {
	chain, err := read(chainFile)
	if err != nil {
		return err
	}
	key, err := read(keyFile)
	if err != nil {
		return err
	}
	if c.Item, err = deploy.ReadPair(chain, key); err != nil {
		return fmt.Errorf("%s: %w", chainFile, err)
	}
	leaf, err := x509.ParseCertificate(c.Item.Chain[0])
	if err != nil {
		return fmt.Errorf("%s: %w", chainFile, err)
	}
	if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(c.Item.Key.Public()) {
		return fault.New(fault.Invalid, "the key in %s is not that of the certificate in %s", keyFile, chainFile)
	}
	c.KeyType, err = pki.KeyTypeOf(c.Item.Key.Public())
	return err
}

// Options say where an import goes.
type Options struct {
	Config, State string // file and directory
	Target        string // kind of the target; "": what was found, else files
	Live          string // directory of its files; "": STATE/live
	Probe         []string
	RootsFile     string // roots that a CA of your own chains to; "": the system's
	HTTP01Listen  string // in place of what was found
	Webroot       string
}

// Write makes the agent's configuration and state. It overwrites nothing.
func (f *Found) Write(ctx context.Context, o Options) error {
	if _, err := os.Lstat(o.Config); err == nil {
		return fault.New(fault.Conflict, "%s exists; nothing was written. Import into a new file", o.Config)
	}
	if len(f.Certificates) == 0 {
		return fault.New(fault.NotFound, "there is no certificate to import")
	}
	text := f.text(&o)
	for name, secret := range f.Secrets {
		if err := deploy.WriteFile(filepath.Join(filepath.Dir(o.Config), name), secret, 0o600); err != nil {
			return err
		}
	}
	issuers := f.issuers()
	for i := range f.Accounts {
		a := &f.Accounts[i]
		if err := adopt(ctx, a, alone.Store{State: o.State, Issuer: issuers[a.Directory]}); err != nil {
			return err
		}
	}
	names := f.names()
	for i := range f.Certificates {
		c := &f.Certificates[i]
		key, err := x509.MarshalPKCS8PrivateKey(c.Item.Key)
		if err != nil {
			return fmt.Errorf("encode key of %s: %w", c.Name, err)
		}
		leaf, err := x509.ParseCertificate(c.Item.Chain[0])
		if err != nil {
			return fmt.Errorf("read certificate %s: %w", c.Name, err)
		}
		if err := alone.Adopt(o.State, names[i], alone.Pair{Issuer: issuers[c.Directory], Key: key, Chain: c.Item.Chain, IssuedAt: leaf.NotBefore}); err != nil {
			return err
		}
	}
	return deploy.WriteFile(o.Config, text, 0o600) // the last: with it the import is done
}

// adopt keeps an account where the issuer of kind acme looks for it.
func adopt(ctx context.Context, a *Account, store alone.Store) error {
	c, err := client.New(client.Config{Directory: a.Directory})
	if err != nil {
		return err
	}
	account, err := client.NewAccount(client.AccountConfig{Client: c, Keep: store.Keep, Kept: store.Kept})
	if err != nil {
		return err
	}
	return account.Adopt(ctx, a.Key, a.URL)
}

// section is what the name of a section may have.
var section = regexp.MustCompile(`[^a-z0-9]+`)

// sectionName makes the name of a section of text.
func sectionName(text string) string {
	s := strings.Trim(section.ReplaceAllString(strings.ToLower(text), "-"), "-")
	if s == "" {
		s = "imported"
	}
	return strings.Trim(s[:min(len(s), 60)], "-")
}

// unique makes a name that used does not have, and adds it.
func unique(name string, used map[string]bool) string {
	for n, base := 2, name; used[name]; n++ {
		name = base + "-" + strconv.Itoa(n)
	}
	used[name] = true
	return name
}

// names are the sections of the certificates.
func (f *Found) names() []string {
	out, used := make([]string, len(f.Certificates)), map[string]bool{}
	for i := range f.Certificates {
		out[i] = unique(sectionName(f.Certificates[i].Name), used)
	}
	return out
}

// issuers are the sections of the CAs, by directory.
func (f *Found) issuers() map[string]string {
	out, used := map[string]string{}, map[string]bool{}
	add := func(directory string) {
		if out[directory] != "" {
			return
		}
		name := "ca"
		if u, err := url.Parse(directory); err == nil && u.Hostname() != "" {
			name = u.Hostname()
		}
		for _, p := range acme.Presets() {
			if p.Directory == directory {
				name = p.Name
			}
		}
		out[directory] = unique(sectionName(name), used)
	}
	for i := range f.Certificates {
		add(f.Certificates[i].Directory)
	}
	for i := range f.Accounts {
		add(f.Accounts[i].Directory)
	}
	return out
}

// text is the agent's configuration.
func (f *Found) text(o *Options) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by `chancery agent import` from what %s kept. See docs/agents.md.\n", f.Program)
	for _, n := range f.Notes {
		fmt.Fprintf(&b, "# Look at this: %s\n", n)
	}
	f.writeIssuers(&b, o)
	f.writeChallenges(&b, o)
	kind := o.Target
	if kind == "" {
		kind = f.Target
	}
	if kind == "" {
		kind = "files"
	}
	live := o.Live
	if live == "" {
		live = filepath.Join(o.State, "live")
	}
	fmt.Fprintf(&b, "\n[target.host]\nkind = %q\ndir = %q\n", kind, live)
	switch {
	case len(o.Probe) > 0:
		fmt.Fprintf(&b, "probe = %s\n", list(o.Probe))
	case kind != "files":
		b.WriteString("probe = [\"127.0.0.1:443\"]\n")
	}
	f.writeCertificates(&b)
	return b.Bytes()
}

// list is a list of TOML.
func list(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func (f *Found) writeIssuers(b *bytes.Buffer, o *Options) {
	issuers := f.issuers()
	for _, directory := range slices.Sorted(maps.Keys(issuers)) {
		name, staging := issuers[directory], ""
		fmt.Fprintf(b, "\n[issuer.%s]\nkind = \"acme\"\ndirectory = %q\n", name, directory)
		for i := range f.Accounts {
			if a := &f.Accounts[i]; a.Directory == directory && len(a.Contact) > 0 {
				fmt.Fprintf(b, "contact = %s\n", list(a.Contact))
			}
		}
		if chain := f.chainOf(directory); chain != "" {
			fmt.Fprintf(b, "preferred_chain = %q\n", chain)
		}
		preset := func(n string) (acme.Preset, bool) {
			i := slices.IndexFunc(acme.Presets(), func(p acme.Preset) bool { return p.Name == n })
			if i < 0 {
				return acme.Preset{}, false
			}
			return acme.Presets()[i], true
		}
		if p, ok := preset(name); !ok && o.RootsFile != "" {
			fmt.Fprintf(b, "roots_file = %q\n", o.RootsFile)
		} else if s, has := preset(p.Name + "-staging"); ok && has && !s.EAB && issuers[s.Directory] == "" {
			staging = s.Name
			fmt.Fprintf(b, "staging = %q\n", staging)
		}
		if staging != "" {
			fmt.Fprintf(b, "\n[issuer.%s]\nkind = \"acme\"\ndirectory = %q\n", staging, staging)
		}
	}
}

// chainOf is the chain that the certificates of a CA have in common.
func (f *Found) chainOf(directory string) (chain string) {
	for i := range f.Certificates {
		c := &f.Certificates[i]
		if c.Directory != directory || c.Chain == "" {
			continue
		}
		if chain != "" && chain != c.Chain {
			return ""
		}
		chain = c.Chain
	}
	return chain
}

func (f *Found) writeChallenges(b *bytes.Buffer, o *Options) {
	listen, root := f.HTTP01Listen, f.Webroot
	if o.HTTP01Listen != "" || o.Webroot != "" {
		listen, root = o.HTTP01Listen, o.Webroot
	}
	if listen != "" || root != "" || f.ALPNListen != "" {
		b.WriteString("\n[challenges]\n")
	}
	for _, kv := range [][2]string{{"http01_listen", listen}, {"http01_webroot", root}, {"tlsalpn01_listen", f.ALPNListen}} {
		if kv[1] != "" {
			fmt.Fprintf(b, "%s = %q\n", kv[0], kv[1])
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(f.DNS)) {
		fmt.Fprintf(b, "\n[dns.%s]\nkind = %q\n%s", kind, kind, strings.ReplaceAll(f.DNS[kind], "{dir}", filepath.Dir(o.Config)))
	}
}

func (f *Found) writeCertificates(b *bytes.Buffer) {
	issuers, names := f.issuers(), f.names()
	for i := range f.Certificates {
		c := &f.Certificates[i]
		fmt.Fprintf(b, "\n[certificate.%s]\nnames = %s\nissuer = %q\ntargets = [\"host\"]\n", names[i], list(c.Item.Names), issuers[c.Directory])
		if id := strings.NewReplacer("*", "_", ":", "-").Replace(c.Name); id != c.Item.ID && deploy.ValidID(id) {
			fmt.Fprintf(b, "id = %q\n", id)
		}
		if c.KeyType != pki.P256 {
			fmt.Fprintf(b, "key_type = %q\n", c.KeyType)
		}
		if c.ReuseKey {
			b.WriteString("reuse_key = true\n")
		}
		if c.Challenge != "" {
			fmt.Fprintf(b, "challenge = %q\n", c.Challenge)
		}
		if c.RenewBefore > 0 {
			fmt.Fprintf(b, "renew_before = \"%dh\"\n", int(c.RenewBefore.Hours()))
		}
	}
}

// errNoAccount is an account that lacks what makes it one.
var errNoAccount = errors.New("it has no key or no URL")
