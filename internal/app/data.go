package app

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
)

// paths are the files of a data directory.
type paths struct{ dir string }

func (p paths) in(name string) string { return filepath.Join(p.dir, name) }

func (p paths) lock() string       { return p.in("lock") }
func (p paths) root() string       { return p.in("root.pem") }
func (p paths) adminToken() string { return p.in("admin.token") }
func (p paths) signerLog() string  { return p.in("signer.log") }
func (p paths) tlsCert() string    { return p.in("tls.crt") }
func (p paths) tlsKey() string     { return p.in("tls.key") }
func (p paths) ready() string      { return p.in("ready.json") }

// perspectiveKey is the key by which remote perspectives know this server.
func (p paths) perspectiveKey() string { return p.in("perspective.key") }

// openData makes the data directory and takes its lock, so that two processes
// never share one SQLite file and one signer log.
func openData(dir string) (paths, *os.File, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return paths{}, nil, err
	}
	p := paths{abs}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return p, nil, fault.Wrap(err, fault.Invalid, "the data directory %s cannot be made; choose another with --data", abs)
	}
	f, err := os.OpenFile(p.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return p, nil, fault.Wrap(err, fault.Invalid, "the data directory %s cannot be written; mend its permissions or choose another with --data", abs)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return p, nil, errors.Join(fault.Wrap(err, fault.Conflict, "another chancery uses the data directory %s; stop it, or choose another with --data", abs), f.Close())
	}
	return p, f, nil
}

// databaseURL returns where the database is.
func databaseURL(cfg *config.Config, p paths) string {
	if cfg.Database.URL != "" {
		return cfg.Database.URL
	}
	return p.in("chancery.db")
}

// keyDir returns where the private keys are.
func keyDir(cfg *config.Config, p paths) string {
	if cfg.Keys.Dir != "" {
		return cfg.Keys.Dir
	}
	return p.in("keys")
}

// openKeys opens the key store. Without a configured passphrase file one is
// made beside the keys.
func openKeys(cfg *config.Config, p paths) (*keys.FileStore, error) {
	dir, file := keyDir(cfg, p), cfg.Keys.PassphraseFile
	if file == "" {
		file = filepath.Join(dir, "passphrase")
		if err := makePassphrase(dir, file); err != nil {
			return nil, err
		}
	}
	pass, err := keys.PassphraseFromFile(file)
	if err != nil {
		return nil, err
	}
	return keys.OpenFileStore(dir, pass)
}

// makePassphrase writes a random passphrase unless there is one.
func makePassphrase(dir, file string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make key directory: %w", err)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make passphrase: %w", err)
	}
	_, err = f.WriteString(base64.RawURLEncoding.EncodeToString(secret) + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}

// writeFile replaces a file atomically: readers see the old or the new text.
func writeFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
	}
	return nil
}

// dbConfig translates the [database] section.
func dbConfig(cfg *config.Config, p paths) db.Config {
	pool := cfg.Database.ReadPool
	url := databaseURL(cfg, p)
	if db.IsPostgresURL(url) {
		pool = cfg.Database.WritePool
	}
	return db.Config{URL: url, ReadPool: pool, WriteBatch: cfg.Database.WriteBatch}
}
