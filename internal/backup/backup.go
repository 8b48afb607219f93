// Package backup writes an installation into one file and restores it: the
// database (in a form that either engine takes), the private keys, the trust
// anchors and the signer's log.
//
// # The archive
//
// A gzipped tar of regular files, in this order:
//
//	signer.log           what had been signed when the backup began
//	db/000000, ...       the dump of package db, in pieces of at most 4 MiB
//	keys/NAME            the files of the key store, its master key and
//	                     passphrase among them, if they are there
//	root.pem             the trust anchors
//	manifest.json        size and SHA-256 of all that came before
//
// The signer's log comes before the database and the keys after it: every line
// of the log then belongs to a serial of the database, and every authority of
// the database has its key, although the server goes on working meanwhile.
//
// The archive holds the private keys. Whoever has it, and the passphrase, has
// the certificate authority.
package backup

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"chancery/internal/db"
)

// Names in the archive.
const (
	nameLog      = "signer.log"
	nameRoot     = "root.pem"
	nameManifest = "manifest.json"
	nameDB       = "db" // pieces are db/000000 and so on
	dirKeys      = "keys/"
)

// format is the version of the archive's layout.
const format = 1

// pieceSize is the size of a piece of the dump, in bytes.
const pieceSize = 4 << 20

// Installation says where the parts of an installation are. A part that does
// not exist is left out.
type Installation struct {
	DB        *db.DB // migrated
	KeyDir    string // directory of the key store
	SignerLog string // file
	Root      string // file
}

// Manifest describes an archive. It is its last file.
type Manifest struct {
	Format int       `json:"chancery_backup"`
	MadeAt time.Time `json:"made_at"`
	MadeBy string    `json:"made_by"` // version of the program
	Engine db.Engine `json:"engine"`
	Schema int64     `json:"schema"`
	Rows   int64     `json:"rows"`
	Files  []File    `json:"files"` // in the order of the archive; the pieces of the dump count as one
}

// File is one file of an archive.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// Write writes a backup of in to w, while the installation may be in use, and
// returns what it holds. madeBy is the version of the program.
func Write(ctx context.Context, w io.Writer, in Installation, madeBy string, now time.Time) (*Manifest, error) {
	m := &Manifest{Format: format, MadeAt: now.UTC().Truncate(time.Second), MadeBy: madeBy, Engine: in.DB.Engine()}
	var err error
	if m.Schema, err = in.DB.Version(ctx); err != nil {
		return nil, err
	}
	gz, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	a := &archive{tar: tar.NewWriter(gz), manifest: m, at: m.MadeAt}
	for _, step := range []func() error{
		func() error { return a.addFile(nameLog, in.SignerLog) },
		func() error { return a.addDump(ctx, in.DB) },
		func() error { return a.addKeys(in.KeyDir) },
		func() error { return a.addFile(nameRoot, in.Root) },
		a.addManifest, a.tar.Close, gz.Close,
	} {
		if err := errors.Join(ctx.Err(), step()); err != nil {
			return nil, fmt.Errorf("write backup: %w", err)
		}
	}
	return m, nil
}

// archive is a backup that is being written.
type archive struct {
	tar      *tar.Writer
	manifest *Manifest
	at       time.Time
}

func (a *archive) header(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: a.at, Format: tar.FormatPAX})
}

// addFile adds a file as long as it is now: a log may grow meanwhile.
func (a *archive) addFile(name, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || path == "" {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := a.header(name, info.Size()); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(a.tar, sum), f, info.Size()); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	a.record(name, info.Size(), sum)
	return nil
}

func (a *archive) record(name string, size int64, sum hash.Hash) {
	a.manifest.Files = append(a.manifest.Files, File{Name: name, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))})
}

// addKeys adds the files of the key store. What is not a plain file with a
// plain name was not put there by the store.
func (a *archive) addKeys(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || dir == "" {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := dirKeys + e.Name()
		if !e.Type().IsRegular() || !validName(name) {
			continue
		}
		if err := a.addFile(name, filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// addDump adds the dump in pieces: a tar needs to know sizes in advance, and
// a piece fits in memory.
func (a *archive) addDump(ctx context.Context, d *db.DB) (err error) {
	p := &pieces{a: a, sum: sha256.New(), buf: make([]byte, 0, pieceSize)}
	if a.manifest.Rows, err = d.Dump(ctx, p); err != nil {
		return err
	}
	if err := p.flush(); err != nil {
		return err
	}
	a.record(nameDB, p.size, p.sum)
	return nil
}

// pieces cuts a stream into files of the archive.
type pieces struct {
	a    *archive
	sum  hash.Hash
	buf  []byte
	n    int
	size int64
}

// Write implements io.Writer.
func (p *pieces) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		n := min(len(b), pieceSize-len(p.buf))
		p.buf, b = append(p.buf, b[:n]...), b[n:]
		if len(p.buf) == pieceSize {
			if err := p.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (p *pieces) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	if err := p.a.header(pieceName(p.n), int64(len(p.buf))); err != nil {
		return err
	}
	if _, err := p.a.tar.Write(p.buf); err != nil {
		return err
	}
	p.sum.Write(p.buf)
	p.size += int64(len(p.buf))
	p.n++
	p.buf = p.buf[:0]
	return nil
}

func pieceName(n int) string { return fmt.Sprintf("%s/%06d", nameDB, n) }

func (a *archive) addManifest() error {
	text, err := json.Marshal(a.manifest)
	if err != nil {
		return err
	}
	if err := a.header(nameManifest, int64(len(text))); err != nil {
		return err
	}
	_, err = a.tar.Write(text)
	return err
}

// WriteFile writes a backup to the new file path: whole and on the disk when
// it returns, or not at all. An existing file is not replaced. progress, if
// not nil, is told how many bytes have been written.
func WriteFile(ctx context.Context, path string, in Installation, madeBy string, now time.Time, progress func(bytes int64)) (m *Manifest, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("write backup: %w", err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	m, err = Write(ctx, &counter{w: f, told: progress}, in, madeBy, now)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	// A link fails where the name exists, which a rename would replace.
	if err := os.Link(f.Name(), path); err != nil {
		return nil, fmt.Errorf("write backup: %w", err)
	}
	return m, syncDir(filepath.Dir(path))
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// counter counts what passes.
type counter struct {
	w    io.Writer
	n    int64
	told func(int64)
}

// Write implements io.Writer.
func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	if c.told != nil {
		c.told(c.n)
	}
	return n, err
}
