package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"chancery/internal/deploy"
	"chancery/internal/fault"
	"chancery/internal/issuer/acme"
)

// legoAccount is accounts/SERVER/EMAIL/account.json.
type legoAccount struct {
	Email        string `json:"email"`
	Registration struct {
		URI string `json:"uri"`
	} `json:"registration"`
}

// legoResource is certificates/NAME.json.
type legoResource struct {
	Domain  string `json:"domain"`
	CertURL string `json:"certUrl"`
}

// Lego reads the directory of lego (its --path). server is the directory URL of
// the CA, for CAs that are not known by name: lego stores only the host. How
// names are proved is on lego's command line, not in its files.
func Lego(dir, server string) (*Found, error) {
	f := &Found{Program: "lego"}
	accounts, err := filepath.Glob(filepath.Join(dir, "accounts", "*", "*", "account.json"))
	if err != nil {
		return nil, err
	}
	for _, path := range accounts {
		a, err := legoReadAccount(path, server)
		if err != nil {
			return nil, fmt.Errorf("read account %s: %w", path, err)
		}
		if slices.ContainsFunc(f.Accounts, func(b Account) bool { return b.Directory == a.Directory }) {
			f.note("several accounts at %s; the first is used", a.Directory)
			continue
		}
		f.Accounts = append(f.Accounts, a)
	}
	certs, err := filepath.Glob(filepath.Join(dir, "certificates", "*.json"))
	if err != nil {
		return nil, err
	}
	for _, path := range certs {
		c, err := legoReadCertificate(path, server)
		if errors.Is(err, fs.ErrNotExist) {
			f.note("%s has no certificate or no key beside it, and was left out", path)
			continue
		}
		if err != nil {
			return nil, err
		}
		f.Certificates = append(f.Certificates, c)
	}
	if len(certs) == 0 && len(accounts) == 0 {
		return nil, fault.New(fault.NotFound, "%s is not a directory of lego: it has neither accounts nor certificates", dir)
	}
	return f, nil
}

// directoryOf finds the directory URL of a CA from any of its URLs.
func directoryOf(server, anyURL string) (string, error) {
	u, err := url.Parse(anyURL)
	if err != nil || u.Host == "" {
		return "", fault.New(fault.Invalid, "%.200q is not a URL of a CA", anyURL)
	}
	if s, err := url.Parse(server); err == nil && server != "" && s.Host == u.Host {
		return server, nil
	}
	for _, p := range acme.Presets() {
		if known, err := url.Parse(p.Directory); err == nil && known.Host == u.Host {
			return p.Directory, nil
		}
	}
	return "", fault.New(fault.Invalid, "the directory of the CA at %s is not known; give it with --server URL", u.Host)
}

func legoReadAccount(path, server string) (a Account, err error) {
	text, err := read(path)
	if err != nil {
		return a, err
	}
	var in legoAccount
	if err := json.Unmarshal(text, &in); err != nil {
		return a, err
	}
	if a.URL = in.Registration.URI; a.URL == "" {
		return a, errNoAccount
	}
	if a.Directory, err = directoryOf(server, a.URL); err != nil {
		return a, err
	}
	if strings.Contains(in.Email, "@") {
		a.Contact = []string{in.Email}
	}
	keys, err := filepath.Glob(filepath.Join(filepath.Dir(path), "keys", "*.key"))
	if err != nil || len(keys) != 1 {
		return a, errNoAccount
	}
	if text, err = read(keys[0]); err != nil {
		return a, err
	}
	a.Key, err = deploy.ReadKey(text)
	return a, err
}

func legoReadCertificate(path, server string) (c Certificate, err error) {
	text, err := read(path)
	if err != nil {
		return c, err
	}
	var in legoResource
	if err := json.Unmarshal(text, &in); err != nil {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	if c.Directory, err = directoryOf(server, in.CertURL); err != nil {
		return c, err
	}
	base := strings.TrimSuffix(path, ".json")
	c.Name = in.Domain
	if _, err := os.Stat(base + ".crt"); err != nil {
		return c, err
	}
	return c, c.pair(base+".crt", base+".key")
}
