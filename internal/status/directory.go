package status

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"chancery/internal/loop"
)

// writeFiles is a tick that brings Config.Directory up to date: AUTHORITY/N.crl
// for each CRL, below it, replaced by a rename so that no reader ever sees half
// a list. A file's time is the list's thisUpdate, so that a web server gives it
// the right Last-Modified and a process that is behind does not replace a newer
// list.
func (s *Service) writeFiles(context.Context) (n loop.Count, err error) {
	if !s.loaded.Load() {
		return n, nil
	}
	var errs []error
	for _, b := range *s.books.Load() {
		for _, c := range b.crls {
			p := c.published.Load()
			if p == nil || c.written == p.number {
				continue
			}
			n.Claimed++
			if err := p.write(filepath.Join(s.cfg.Directory, b.id), strconv.Itoa(c.shard)+".crl"); err != nil {
				n.Failed++
				errs = append(errs, err)
				continue
			}
			n.Done++
			c.written = p.number
		}
	}
	return n, errors.Join(errs...)
}

// write puts a list into a file, unless a newer one is there.
func (p *publishedCRL) write(dir, name string) (err error) {
	path := filepath.Join(dir, name)
	if info, err := os.Stat(path); err == nil && info.ModTime().After(p.thisUpdate) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write CRL: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("write CRL: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write CRL: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(p.der)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Chtimes(f.Name(), p.thisUpdate, p.thisUpdate); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
