package live

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Config is what the configuration says about the files. Kinds embed it.
type Config struct {
	// Symbolic link below which the server finds DIR/ID/fullchain.pem. It must
	// not exist yet, or be a link that an earlier deployment made; the directory
	// it stands in must exist.
	Dir string `toml:"dir"`

	// Files of each certificate: fullchain.pem, privkey.pem, cert.pem,
	// chain.pem, combined.pem (key, then chain), keystore.p12; under another
	// name as "name=fullchain.pem".
	Files []string `toml:"files"`

	// User who owns the files. Empty: who runs Chancery.
	Owner string `toml:"owner"`

	// Group of the files, which may then read them (0640). Empty: only the
	// owner may (0600).
	Group string `toml:"group"`

	// Program and arguments that test the server's configuration. What it finds
	// stops a deployment; what it does not find is never trusted.
	Test []string `toml:"test"`

	// Program and arguments that reload the server, once per batch. Empty: the
	// kind's own way.
	Reload []string `toml:"reload"`

	// Program and arguments that start the server anew, tried when a reload
	// fails while a deployment is rolled back.
	Restart []string `toml:"restart"`

	// Longest time for each of these programs.
	Timeout time.Duration `toml:"timeout"`
}

// DefaultTimeout is that of Config.
const DefaultTimeout = time.Minute

// Contents are what a file can hold, by its usual name.
const (
	Fullchain = "fullchain.pem"
	Privkey   = "privkey.pem"
	Cert      = "cert.pem"
	Chain     = "chain.pem"
	Combined  = "combined.pem"
	Keystore  = "keystore.p12"
)

// filePattern is what a file of an item may be called.
var filePattern = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,127}$`)

// file is one file of each item.
type file struct{ name, content string }

// parseFiles reads the list of files.
func parseFiles(list []string) ([]file, error) {
	if len(list) == 0 {
		return nil, errors.New("files: names no file; nothing would be written")
	}
	seen := map[string]bool{}
	out := make([]file, len(list))
	for i, s := range list {
		name, content, ok := strings.Cut(s, "=")
		if !ok {
			content = name
		}
		switch content {
		case Fullchain, Privkey, Cert, Chain, Combined, Keystore:
		default:
			return nil, fmt.Errorf("files: %q is none of %s, %s, %s, %s, %s, %s", content, Fullchain, Privkey, Cert, Chain, Combined, Keystore)
		}
		if !filePattern.MatchString(name) || seen[name] {
			return nil, fmt.Errorf("files: %q cannot name a file, or does so twice", name)
		}
		seen[name] = true
		out[i] = file{name, content}
	}
	return out, nil
}

// access is who may read the files.
type access struct {
	uid, gid  int // -1 = as created
	mode, dir os.FileMode
}

// access resolves owner and group.
func (c Config) access() (access, error) {
	a := access{uid: -1, gid: -1, mode: 0o600, dir: 0o700}
	if c.Owner != "" {
		u, err := user.Lookup(c.Owner)
		if err != nil {
			return a, fmt.Errorf("owner: %w", err)
		}
		if a.uid, err = strconv.Atoi(u.Uid); err != nil {
			return a, fmt.Errorf("owner: %w", err)
		}
	}
	if c.Group != "" {
		g, err := user.LookupGroup(c.Group)
		if err != nil {
			return a, fmt.Errorf("group: %w", err)
		}
		if a.gid, err = strconv.Atoi(g.Gid); err != nil {
			return a, fmt.Errorf("group: %w", err)
		}
		a.mode, a.dir = 0o640, 0o750
	}
	return a, nil
}

// give applies owner and group to a path.
func (a access) give(path string) error {
	if a.uid < 0 && a.gid < 0 {
		return nil
	}
	if err := os.Lchown(path, a.uid, a.gid); err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	return nil
}

// checkDir checks the place of the link.
func checkDir(dir string) error {
	switch {
	case dir == "":
		return errors.New("dir: must be set")
	case !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/":
		return fmt.Errorf("dir: %q is not an absolute path without trailing slash", dir)
	}
	return nil
}
