package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// BootstrapName is the name of the token that an installation makes for itself.
const BootstrapName = "bootstrap"

var qBootstrap = db.SQL("token.list_bootstrap", `SELECT `+columns+` FROM api_token WHERE name = $1 AND role = $2 AND revoked_at IS NULL ORDER BY id`,
	db.Scan("a few dozen rows, read at start"))

// bootstrapName is the name of the token of one data directory. Replicas on one
// PostgreSQL have a directory and a token each: that of one must not end that
// of another, and one that lost its file must end its own.
func bootstrapName(e db.Engine, path string) (string, error) {
	if e == db.SQLite {
		return BootstrapName, nil // one process, one directory
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("name admin token: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", fmt.Errorf("name admin token: %w", err)
	}
	sum := sha256.Sum256([]byte(path))
	return fmt.Sprintf("%s %.40s %x", BootstrapName, host, sum[:4]), nil
}

// EnsureAdmin makes sure that the file at path (mode 0600) holds a working
// admin token, and reports whether it wrote a new one. A file whose token works
// stays. A file that is missing, damaged or of another installation is
// replaced, and the bootstrap tokens made for it before are revoked: whoever
// holds the lost file is locked out. The token is written nowhere else.
func EnsureAdmin(ctx context.Context, d *db.DB, path string, now time.Time) (created bool, err error) {
	text, err := readSecret(path)
	if err != nil {
		return false, err
	}
	if t, err := Verify(ctx, d.Read(), text, now); err == nil && t.Role == Admin {
		return false, nil
	} else if err != nil && !fault.Is(err, fault.Unauthorized) {
		return false, err
	}
	name, err := bootstrapName(d.Engine(), path)
	if err != nil {
		return false, err
	}
	t, text := mint(Spec{Name: name, Role: Admin}, now)
	// The file comes first: should the commit fail, it holds a token that does
	// not work, and the next start repairs it.
	if err := writeSecret(path, text); err != nil {
		return false, err
	}
	err = d.Write(ctx, func(tx *db.Tx) error {
		olds, err := db.List(ctx, tx, qBootstrap, scan, name, Admin)
		if err != nil {
			return err
		}
		for _, old := range olds {
			tx.Queue(qRevoke, nil, old.ID, now)
			if err := journalRevoke(tx, old.ID, "system", now); err != nil {
				return err
			}
		}
		return t.insert(tx, "system")
	})
	if err != nil {
		return false, fmt.Errorf("store admin token: %w", err)
	}
	return true, nil
}

// readSecret returns the token in a file, or "" when there is no usable one.
// A file that others can read is refused: its token must count as known.
func readSecret(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return "", fault.New(fault.Precondition, "%s is not a regular file; move it away, and a new admin token is made", path)
	case info.Mode().Perm()&0o077 != 0:
		return "", fault.New(fault.Precondition, "%s can be read by others (mode %04o), so its token may be known; remove the file, and a new admin token is made at the next start", path, info.Mode().Perm())
	case info.Size() > 4096:
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// writeSecret replaces the file at path as a whole, with mode 0600.
func writeSecret(path, text string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write admin token: %w", err)
		}
	}()
	f, err := os.CreateTemp(filepath.Dir(path), ".admin.token-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after the rename
	_, err = f.WriteString(text + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
