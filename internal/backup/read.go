package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"hash"
	"io"
	"regexp"
	"strings"

	"chancery/internal/fault"
)

// Bounds of what is read. An archive is foreign bytes: somebody may have made
// or changed it.
const (
	maxManifest = 8 << 20
	maxSmall    = 1 << 20 // a key file, root.pem
	maxLog      = 1 << 40
	maxFiles    = 100_000 // key files
	maxPadding  = 1 << 20 // zeros that some tools put at the end
)

var nameForm = regexp.MustCompile(`^(signer\.log|root\.pem|manifest\.json|db/[0-9]{6}|keys/[A-Za-z0-9][A-Za-z0-9._-]{0,99})$`)

// validName reports whether an archive may hold a file of this name. There is
// no way out of a directory among them.
func validName(name string) bool { return nameForm.MatchString(name) && !strings.Contains(name, "..") }

// maxSize bounds a file by its name, in bytes.
func maxSize(name string) int64 {
	switch {
	case name == nameManifest:
		return maxManifest
	case name == nameLog:
		return maxLog
	case strings.HasPrefix(name, nameDB+"/"):
		return pieceSize
	}
	return maxSmall
}

// damaged is the fault of an archive that cannot be used.
func damaged(cause error, format string, args ...any) error {
	return fault.Wrap(cause, fault.Invalid, "the backup cannot be used: "+format+"; take another one", args...)
}

// reader reads an archive from its beginning.
type reader struct {
	gz     *gzip.Reader
	tar    *tar.Reader
	pieces int
	inDump bool // the file before this one was a piece
	seen   map[string]bool
}

func newReader(r io.Reader) (*reader, error) {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return nil, damaged(err, "it is not a gzip file")
	}
	return &reader{gz: gz, tar: tar.NewReader(gz), seen: map[string]bool{}}, nil
}

// next returns the next file. io.EOF is the end of the archive.
func (r *reader) next() (*tar.Header, error) {
	h, err := r.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, damaged(err, "it is cut off or changed")
	}
	switch {
	case h.Typeflag != tar.TypeReg || !validName(h.Name):
		return nil, damaged(nil, "it holds %.80q, which no backup does", h.Name)
	case h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "":
		return nil, damaged(nil, "%s is sparse, which no file of a backup is", h.Name)
	case h.Size < 0 || h.Size > maxSize(h.Name):
		return nil, damaged(nil, "%s has the impossible size %d", h.Name, h.Size)
	case r.seen[h.Name] || len(r.seen) > maxFiles:
		return nil, damaged(nil, "%s comes twice, or there are too many files", h.Name)
	case r.seen[nameManifest]:
		return nil, damaged(nil, "%s comes after the manifest", h.Name)
	}
	if strings.HasPrefix(h.Name, nameDB+"/") {
		if h.Name != pieceName(r.pieces) || r.pieces > 0 && !r.inDump {
			return nil, damaged(nil, "a piece of the database is missing: %s comes in the place of %s", h.Name, pieceName(r.pieces))
		}
		r.pieces++
		r.inDump = true
		return h, nil
	}
	r.inDump = false
	r.seen[h.Name] = true
	return h, nil
}

// finish makes sure that nothing but padding follows the archive, and that its
// checksum fits.
func (r *reader) finish() error {
	rest, err := io.ReadAll(io.LimitReader(r.gz, maxPadding+1))
	if err != nil {
		return damaged(err, "it is cut off or changed")
	}
	if len(rest) > maxPadding || len(bytes.Trim(rest, "\x00")) > 0 {
		return damaged(nil, "something follows it")
	}
	return nil
}

// Verify reads a whole archive and compares it with its manifest. Nothing is
// written anywhere.
func Verify(in io.Reader) (*Manifest, error) {
	r, err := newReader(in)
	if err != nil {
		return nil, err
	}
	v := verifier{db: sha256.New()}
	for {
		h, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := v.file(h, r.tar); err != nil {
			return nil, err
		}
	}
	if err := r.finish(); err != nil {
		return nil, err
	}
	return v.manifest, v.compare()
}

// verifier collects what is in an archive.
type verifier struct {
	files    []File
	db       hash.Hash
	dbSize   int64
	dbAt     int // index of the dump in files, + 1
	manifest *Manifest
}

func (v *verifier) file(h *tar.Header, in io.Reader) error {
	if h.Name == nameManifest {
		return v.readManifest(in)
	}
	sum, piece := sha256.New(), strings.HasPrefix(h.Name, nameDB+"/")
	if piece {
		sum = v.db
		v.dbSize += h.Size
	}
	if _, err := io.Copy(sum, in); err != nil {
		return damaged(err, "it is cut off or changed in %s", h.Name)
	}
	switch {
	case !piece:
		v.files = append(v.files, File{Name: h.Name, Size: h.Size, SHA256: hex.EncodeToString(sum.Sum(nil))})
	case v.dbAt == 0:
		v.files = append(v.files, File{Name: nameDB})
		v.dbAt = len(v.files)
	}
	return nil
}

func (v *verifier) readManifest(in io.Reader) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return damaged(err, "it is cut off or changed in its manifest")
	}
	v.manifest = new(Manifest)
	if err := json.Unmarshal(text, v.manifest); err != nil || v.manifest.Format == 0 {
		return damaged(err, "its manifest does not parse")
	}
	if v.manifest.Format > format {
		return fault.New(fault.Precondition, "the backup was made by a newer chancery (%.40s); restore it with that version", v.manifest.MadeBy)
	}
	return nil
}

// compare holds what was read against the manifest.
func (v *verifier) compare() error {
	if v.manifest == nil {
		return damaged(nil, "its manifest is missing: it is cut off")
	}
	if v.dbAt == 0 {
		return damaged(nil, "it has no database")
	}
	v.files[v.dbAt-1].Size, v.files[v.dbAt-1].SHA256 = v.dbSize, hex.EncodeToString(v.db.Sum(nil))
	if len(v.files) != len(v.manifest.Files) {
		return damaged(nil, "it holds %d files and its manifest names %d", len(v.files), len(v.manifest.Files))
	}
	for i, f := range v.files {
		if f != v.manifest.Files[i] {
			return damaged(nil, "%s is not what its manifest says", f.Name)
		}
	}
	return nil
}
