package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"chancery/internal/fault"
)

// Bounds of a watched directory.
const (
	maxFiles  = 20000
	maxLevels = 8
)

// settled is how old a file must be before a failure to read it counts: it may
// still be in the writing.
const settled = 5 * time.Second

// watched are the names of files that a Watch reads.
var watched = []string{".pem", ".crt", ".cer", ".der", ".p12", ".pfx", ".jks", ".keystore", ".truststore"}

// Watch finds the certificate files of a directory that are new or changed. It
// polls times and sizes, which works on every file system, network ones
// included. It follows no link out of the directory. Not for concurrent use.
type Watch struct {
	root  *os.Root
	known map[string]stamp
}

// stamp is what changes when a file does.
type stamp struct {
	at   int64 // Unix nanoseconds
	size int64
}

// NewWatch opens a directory. Close it in the end.
func NewWatch(dir string) (*Watch, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("watch directory: %w", err)
	}
	return &Watch{root: root, known: map[string]stamp{}}, nil
}

// Close ends the watch.
func (w *Watch) Close() error { return w.root.Close() }

// Poll calls read for every file that is new or has changed since the last
// Poll. A file that read refuses with a *fault.Error is not offered again
// until it changes, unless it was written within the last seconds; any other
// error ends the Poll, and the file is offered again. The joined errors of
// files that cannot be opened or are refused are returned with the count of
// files that were read.
func (w *Watch) Poll(ctx context.Context, now time.Time, read func(name string, data []byte) error) (n int, err error) {
	changed, err := w.changed(ctx)
	if err != nil {
		return 0, err
	}
	var refused []error
	for _, name := range changed {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		data, st, err := w.load(name)
		if err == nil {
			err = read(name, data)
		}
		var fe *fault.Error
		switch {
		case err == nil:
			n++
			w.known[name] = st
		case errors.As(err, &fe) && fe.Code != fault.Unavailable || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission):
			refused = append(refused, fmt.Errorf("%s: %w", name, err))
			if now.Sub(time.Unix(0, st.at)) > settled {
				w.known[name] = st
			}
		default:
			return n, fmt.Errorf("%s: %w", name, err)
		}
	}
	return n, errors.Join(refused...)
}

// changed lists the files to read, and forgets those that are gone.
func (w *Watch) changed(ctx context.Context) ([]string, error) {
	var out []string
	there, files := map[string]bool{}, 0
	err := fs.WalkDir(w.root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil && name != ".":
			return nil // unreadable or just deleted: its files are not offered
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case e.IsDir() && strings.Count(name, "/") >= maxLevels:
			return fs.SkipDir
		case !e.Type().IsRegular() || !slices.Contains(watched, strings.ToLower(path.Ext(name))):
			return nil
		}
		if files++; files > maxFiles {
			return fault.New(fault.TooLarge, "the directory has more than %d certificate files", maxFiles)
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		there[name] = true
		if w.known[name] != (stamp{info.ModTime().UnixNano(), info.Size()}) {
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("watch directory: %w", err)
	}
	for name := range w.known {
		if !there[name] {
			delete(w.known, name)
		}
	}
	return out, nil
}

// load reads a file whole, with the stamp that it had before.
func (w *Watch) load(name string) ([]byte, stamp, error) {
	f, err := w.root.Open(name)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	return data, stamp{info.ModTime().UnixNano(), info.Size()}, err
}
