package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"chancery/internal/fault"
)

// Restore fills an empty installation from an archive, which is read twice:
// everything is verified before anything is written. The database must be
// migrated and empty; the key directory must be empty or missing, and the
// files must not exist. Where it fails, the files that it made are removed; a
// database that was partly filled is named in the error.
func Restore(ctx context.Context, archive io.ReadSeeker, to Installation) (*Manifest, error) {
	m, err := Verify(archive)
	if err != nil {
		return nil, err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read backup again: %w", err)
	}
	if err := to.requireEmpty(); err != nil {
		return nil, err
	}
	r, err := newReader(archive)
	if err != nil {
		return nil, err
	}
	s := &restorer{r: r, to: to}
	if err := s.run(ctx); err != nil {
		return nil, errors.Join(err, s.undo())
	}
	return m, nil
}

// requireEmpty refuses to write over anything.
func (to *Installation) requireEmpty() error {
	for _, path := range []string{to.SignerLog, to.Root} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return occupied(path)
		}
	}
	entries, err := os.ReadDir(to.KeyDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look into key directory: %w", err)
	}
	if len(entries) > 0 {
		return occupied(to.KeyDir)
	}
	return nil
}

func occupied(path string) error {
	return fault.New(fault.Precondition, "%s exists already; a backup is restored into an empty data directory, so move it away or name another with --data", path)
}

// restorer is a restore on its way through the archive.
type restorer struct {
	r    *reader
	to   Installation
	made []string // files and directories, to be removed on failure
	kept *tar.Header
}

func (s *restorer) run(ctx context.Context) error {
	for {
		h, err := s.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case h.Name == nameManifest:
		case strings.HasPrefix(h.Name, nameDB+"/"):
			s.kept = h
			err = s.database(ctx)
		default:
			err = s.file(h)
		}
		if err != nil {
			return err
		}
	}
}

// next returns the file that was put back, or the next one.
func (s *restorer) next() (*tar.Header, error) {
	if h := s.kept; h != nil {
		s.kept = nil
		return h, nil
	}
	return s.r.next()
}

// database restores the dump from its pieces.
func (s *restorer) database(ctx context.Context) error {
	rows, err := s.to.DB.Restore(ctx, &dumpReader{s: s})
	if err != nil && rows > 0 {
		return fmt.Errorf("restore database: %w; it is partly filled: drop it and begin with an empty one", err)
	}
	return err
}

// dumpReader joins the pieces of the dump. It stops at the first file that is
// none, and puts it back.
type dumpReader struct {
	s   *restorer
	cur io.Reader
}

// Read implements io.Reader.
func (d *dumpReader) Read(b []byte) (int, error) {
	for {
		if d.cur != nil {
			n, err := d.cur.Read(b)
			if n > 0 || err != nil && !errors.Is(err, io.EOF) {
				return n, ignoreEOF(err)
			}
			d.cur = nil
		}
		h, err := d.s.next()
		if err != nil {
			return 0, err
		}
		if !strings.HasPrefix(h.Name, nameDB+"/") {
			d.s.kept = h
			return 0, io.EOF
		}
		d.cur = d.s.r.tar
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// file writes one file, which must not exist.
func (s *restorer) file(h *tar.Header) error {
	path, mode := s.path(h.Name), fs.FileMode(0o600)
	if h.Name == nameRoot {
		mode = 0o644 // trust anchors are for everybody
	}
	if err := s.mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return occupied(path)
	}
	if err != nil {
		return fmt.Errorf("restore file: %w", err)
	}
	s.made = append(s.made, path)
	_, err = io.Copy(f, s.r.tar)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("restore %s: %w", h.Name, err)
	}
	return syncDir(filepath.Dir(path))
}

// path returns where a file of the archive belongs. Its name is valid.
func (s *restorer) path(name string) string {
	switch name {
	case nameLog:
		return s.to.SignerLog
	case nameRoot:
		return s.to.Root
	}
	return filepath.Join(s.to.KeyDir, strings.TrimPrefix(name, dirKeys))
}

// mkdir makes a directory that only its owner can use.
func (s *restorer) mkdir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore directory: %w", err)
	}
	s.made = append(s.made, dir)
	return nil
}

// undo removes what was made, the newest first.
func (s *restorer) undo() error {
	var err error
	for i := len(s.made) - 1; i >= 0; i-- {
		if e := os.Remove(s.made[i]); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("undo restore: %w", e))
		}
	}
	return err
}
