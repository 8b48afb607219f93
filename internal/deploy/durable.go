package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// SyncDir makes the entries of a directory durable.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// WriteFile writes a file that does not exist yet, and its bytes to the disk.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode) // whatever the umask is
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write file %s: %w", path, err)
	}
	return nil
}

// ReplaceFile puts data in the place of a file, whole or not at all.
func ReplaceFile(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old file: %w", err)
	}
	if err := WriteFile(tmp, data, mode); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("replace file: %w", err)
	}
	return SyncDir(filepath.Dir(path))
}

// journalName is the file in a target's State that says what is under way. It
// is there from before the first side effect of a batch to after its last.
const journalName = "journal.json"

// SaveJournal records what a target is about to do.
func SaveJournal(state string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	return ReplaceFile(filepath.Join(state, journalName), data, 0o600)
}

// LoadJournal reads the journal into v and reports whether there is one.
func LoadJournal(state string, v any) (bool, error) {
	data, err := os.ReadFile(filepath.Join(state, journalName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read journal: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("decode journal in %s: %w", state, err)
	}
	return true, nil
}

// DropJournal removes the journal: nothing is under way.
func DropJournal(state string) error {
	if err := os.Remove(filepath.Join(state, journalName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove journal: %w", err)
	}
	return SyncDir(state)
}

// Lock keeps other processes from deploying to the same target. The file
// system forgets it when the process dies.
type Lock struct{ f *os.File }

// TakeLock takes the lock of a State directory, or fails at once: another
// batch is under way.
func TakeLock(state string) (*Lock, error) {
	f, err := os.OpenFile(filepath.Join(state, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another process deploys to this target at the moment (%s is locked)", f.Name())
	}
	return &Lock{f}, nil
}

// Release gives the lock back; more than once is fine.
func (l *Lock) Release() {
	if l != nil && l.f != nil {
		l.f.Close()
		l.f = nil
	}
}
