package keys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"chancery/internal/fault"
)

// openDir makes dir when it is missing, and refuses one that others can use.
func openDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(err, fault.Invalid, "the key store directory %s cannot be made", dir)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("open key store: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fault.New(fault.Invalid, "the key store directory %s can be used by other users (mode %04o); run: chmod 700 %s", dir, perm, dir)
	}
	return nil
}

// readPrivate reads a small regular file that only its owner can use. The
// check is made on the open file, so that it cannot be swapped in between.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fault.New(fault.Invalid, "%s can be used by other users (mode %04o); run: chmod 600 %s, and think of the key as leaked if others had access", path, perm, path)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fault.New(fault.Invalid, "%s is not a regular file of at most %d bytes", path, maxKeyFile)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	return text, nil
}

// writeNew durably makes the file name in dir with mode 0600. The file appears
// whole or not at all, and one that exists is never replaced (fs.ErrExist):
// it is written and synced under a temporary name and then linked.
func writeNew(dir, name string, text []byte) (err error) {
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	defer func() {
		err = errors.Join(err, removeTemp(f.Name()))
	}()
	if err := writeSync(f, text); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	if err := os.Link(f.Name(), filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("write key file: %w", err)
	}
	return syncDir(dir)
}

// removeTemp removes the temporary name; the file lives on under its own.
func removeTemp(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove temporary key file: %w", err)
	}
	return nil
}

// writeSync writes text, brings it to the disk and closes f.
func writeSync(f *os.File, text []byte) error {
	_, err := f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes new names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	err = errors.Join(d.Sync(), d.Close())
	if err != nil {
		return fmt.Errorf("sync key directory: %w", err)
	}
	return nil
}
