package backup_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/audit"
	"chancery/internal/backup"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

var ctx = context.Background()

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// place returns an installation in dir.
func place(dir string, d *db.DB) backup.Installation {
	return backup.Installation{DB: d, KeyDir: filepath.Join(dir, "keys"), SignerLog: filepath.Join(dir, "signer.log"), Root: filepath.Join(dir, "root.pem")}
}

// populate makes a CA with a root and an issuing authority.
func populate(t *testing.T, in backup.Installation) {
	t.Helper()
	s, log := open(t, in)
	root, err := s.CreateRoot(ctx, ca.Spec{CA: "default", KeyType: pki.P256}, "test")
	check(t, err)
	_, err = s.CreateIssuing(ctx, root.ID, ca.Spec{CA: "default", KeyType: pki.Ed25519}, "test")
	check(t, err)
	check(t, os.WriteFile(in.Root, pki.EncodeChain(root.DER), 0o644))
	check(t, log.Sync())
	_, err = audit.Sequence(ctx, in.DB, 1000)
	check(t, err)
}

// open opens the CA of an installation, with all its keys.
func open(t *testing.T, in backup.Installation) (*ca.Service, *keys.SignerLog) {
	t.Helper()
	pass, err := keys.NewPassphrase([]byte("correct horse battery"))
	check(t, err)
	store, err := keys.OpenFileStore(in.KeyDir, pass)
	check(t, err)
	log, err := keys.OpenSignerLog(in.SignerLog)
	check(t, err)
	t.Cleanup(func() { log.Close() })
	s, err := ca.Open(ctx, ca.Config{DB: in.DB, Keys: store, SignerLog: log.Append, URLs: ca.URLs{Base: "http://localhost"}})
	check(t, err)
	return s, log
}

func dump(t *testing.T, d *db.DB) string {
	t.Helper()
	var b strings.Builder
	_, err := d.Dump(ctx, &b)
	check(t, err)
	_, rest, _ := strings.Cut(b.String(), "\n") // the header names the engine
	var lines []string
	own := false
	for line := range strings.Lines(rest) { // each database has migrations of its own
		if strings.HasPrefix(line, "{") {
			own = strings.HasPrefix(line, `{"table":"migration"`)
		}
		if !own {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// A backup of either engine restores into either, and what is restored works:
// the authorities open their keys, sign, and the journal is whole.
func TestBackupAndRestore(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, source *db.DB) {
		from := place(t.TempDir(), source)
		populate(t, from)
		file := filepath.Join(t.TempDir(), "b.tar.gz")
		var told int64
		m, err := backup.WriteFile(ctx, file, from, "v1", time.Now(), func(n int64) { told = n })
		check(t, err)
		info, err := os.Stat(file)
		check(t, err)
		if info.Mode().Perm() != 0o600 || info.Size() != told || m.Rows == 0 || m.Engine != source.Engine() || m.MadeBy != "v1" {
			t.Errorf("%+v, %v, told of %d bytes", m, info, told)
		}
		dbtest.Each(t, func(t *testing.T, target *db.DB) {
			to := place(filepath.Join(t.TempDir(), "new"), target)
			f, err := os.Open(file)
			check(t, err)
			defer f.Close()
			got, err := backup.Restore(ctx, f, to)
			check(t, err)
			if got.Rows != m.Rows || dump(t, source) != dump(t, target) {
				t.Error("the databases differ")
			}
			same(t, from, to)
			s, _ := open(t, to)
			_, err = s.CreateResponder(ctx, s.Authorities()[1].ID, "test")
			check(t, err)
			rep, err := audit.Verify(ctx, target)
			if err != nil || rep.Problem != "" {
				t.Error(rep, err)
			}
			log, err := os.Open(to.SignerLog)
			check(t, err)
			defer log.Close()
			_, _, err = ca.Check(ctx, target.Read(), log, func(f ca.Finding) { t.Errorf("%+v", f) })
			check(t, err)
		})
	})
}

// same compares the files of two installations.
func same(t *testing.T, from, to backup.Installation) {
	t.Helper()
	entries, err := os.ReadDir(from.KeyDir)
	check(t, err)
	pairs := [][2]string{{from.SignerLog, to.SignerLog}, {from.Root, to.Root}}
	for _, e := range entries {
		pairs = append(pairs, [2]string{filepath.Join(from.KeyDir, e.Name()), filepath.Join(to.KeyDir, e.Name())})
	}
	for _, p := range pairs {
		a, err := os.ReadFile(p[0])
		check(t, err)
		b, err := os.ReadFile(p[1])
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s was not restored: %v", p[0], err)
		}
		if info, err := os.Stat(p[1]); err != nil || !strings.HasSuffix(p[1], "root.pem") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p[1], info, err)
		}
	}
}

// sample is a small archive of SQLite, for tests that break it.
func sample(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	in := place(dir, dbtest.Open(t, dbtest.SQLiteURL(t)))
	check(t, os.Mkdir(in.KeyDir, 0o700))
	check(t, os.WriteFile(filepath.Join(in.KeyDir, "a.key"), []byte("key"), 0o600))
	check(t, os.WriteFile(in.Root, []byte("root"), 0o644))
	var b bytes.Buffer
	_, err := backup.Write(ctx, &b, in, "v1", time.Now())
	check(t, err)
	return b.Bytes()
}

// refuses restores an archive and checks that nothing is left of it.
func refuses(t *testing.T, archive []byte, want fault.Code) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "new")
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	before := dump(t, d)
	_, err := backup.Restore(ctx, bytes.NewReader(archive), place(dir, d))
	if !fault.Is(err, want) {
		t.Errorf("error is %v, not %s", err, want)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a damaged archive left files behind")
	}
	if dump(t, d) != before {
		t.Error("a damaged archive left rows behind")
	}
}

func TestRestoreRefusesCutAndChangedArchives(t *testing.T) {
	good := sample(t)
	for _, n := range []int{0, 1, 9, 10, 100, len(good) / 2, len(good) - 9, len(good) - 1} {
		t.Run(fmt.Sprintf("cut to %d", n), func(t *testing.T) { refuses(t, good[:n], fault.Invalid) })
	}
	for _, at := range []int{0, 12, len(good) / 3, len(good) / 2, len(good) - 6, len(good) - 2} {
		bad := bytes.Clone(good)
		bad[at] ^= 0x55
		t.Run(fmt.Sprintf("changed at %d", at), func(t *testing.T) { refuses(t, bad, fault.Invalid) })
	}
	t.Run("followed", func(t *testing.T) { refuses(t, append(bytes.Clone(good), "more"...), fault.Invalid) })
	t.Run("twice", func(t *testing.T) { refuses(t, append(bytes.Clone(good), good...), fault.Invalid) })
}

// entry is a file of an archive made by hand.
type entry struct {
	name string
	kind byte
	text string
}

// unpack returns the files of an archive.
func unpack(t testing.TB, archive []byte) (list []entry) {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(archive))
	check(t, err)
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		check(t, err)
		text, err := io.ReadAll(r)
		check(t, err)
		list = append(list, entry{h.Name, h.Typeflag, string(text)})
	}
}

// pack makes an archive, with a manifest that fits unless one is given.
func pack(t testing.TB, list []entry) []byte {
	t.Helper()
	var m backup.Manifest
	dump := sha256.New()
	size, at := int64(0), -1
	for _, e := range list {
		switch {
		case e.name == "manifest.json":
			check(t, json.Unmarshal([]byte(e.text), &m))
			m.Files = nil
		}
	}
	for _, e := range list {
		sum := sha256.Sum256([]byte(e.text))
		if strings.HasPrefix(e.name, "db/") {
			dump.Write([]byte(e.text))
			if size += int64(len(e.text)); at < 0 {
				at = len(m.Files)
				m.Files = append(m.Files, backup.File{Name: "db"})
			}
		} else if e.name != "manifest.json" {
			m.Files = append(m.Files, backup.File{Name: e.name, Size: int64(len(e.text)), SHA256: hex.EncodeToString(sum[:])})
		}
	}
	if at >= 0 {
		m.Files[at].Size, m.Files[at].SHA256 = size, hex.EncodeToString(dump.Sum(nil))
	}
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	w := tar.NewWriter(gz)
	for _, e := range list {
		if e.name == "manifest.json" {
			text, err := json.Marshal(m)
			check(t, err)
			e.text = string(text)
		}
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o777, Size: int64(len(e.text))}
		if e.kind != tar.TypeReg {
			h.Size, h.Linkname, e.text = 0, "/etc/passwd", ""
		}
		check(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.text)
		check(t, err)
	}
	check(t, w.Close())
	check(t, gz.Close())
	return b.Bytes()
}

// An archive whose checksums fit may still be hostile: whoever can write it can
// write its manifest.
func TestRestoreRefusesHostileArchives(t *testing.T) {
	files := unpack(t, sample(t))
	last := len(files) - 1 // the manifest
	add := func(e entry) []entry { return append(append(append([]entry{}, files[:last]...), e), files[last]) }
	without := func(name string) (list []entry) {
		for _, e := range files {
			if !strings.HasPrefix(e.name, name) {
				list = append(list, e)
			}
		}
		return list
	}
	for name, list := range map[string][]entry{
		"parent":      add(entry{"keys/../../evil", tar.TypeReg, "x"}),
		"absolute":    add(entry{"/etc/evil", tar.TypeReg, "x"}),
		"dots":        add(entry{"keys/a..b", tar.TypeReg, "x"}),
		"hidden":      add(entry{"keys/.evil", tar.TypeReg, "x"}),
		"unknown":     add(entry{"admin.token", tar.TypeReg, "x"}),
		"deeper":      add(entry{"keys/a/b", tar.TypeReg, "x"}),
		"link":        add(entry{"keys/link", tar.TypeSymlink, ""}),
		"hard link":   add(entry{"keys/link", tar.TypeLink, ""}),
		"device":      add(entry{"keys/dev", tar.TypeChar, ""}),
		"directory":   add(entry{"keys/", tar.TypeDir, ""}),
		"twice":       add(entry{"root.pem", tar.TypeReg, "other"}),
		"big":         add(entry{"keys/big", tar.TypeReg, strings.Repeat("x", 2<<20)}),
		"gap":         add(entry{"db/000007", tar.TypeReg, "x"}),
		"late piece":  add(entry{"db/000001", tar.TypeReg, "x"}),
		"no database": without("db/"),
		"no manifest": without("manifest"),
		"not a dump":  replace(files, "db/000000", "hello\n"),
		"bad table":   replace(files, "db/000000", `{"chancery_dump":1,"schema":1,"engine":"sqlite"}`+"\n"+`{"table":"x; DROP TABLE journal","columns":["a"],"kinds":["int"]}`+"\n"),
		"after":       append(append([]entry{}, files...), entry{"keys/late", tar.TypeReg, "x"}),
	} {
		t.Run(name, func(t *testing.T) { refuses(t, pack(t, list), fault.Invalid) })
	}
	t.Run("whole", func(t *testing.T) { // the helper itself makes archives that work
		_, err := backup.Restore(ctx, bytes.NewReader(pack(t, files)), place(filepath.Join(t.TempDir(), "new"), dbtest.Open(t, dbtest.SQLiteURL(t))))
		check(t, err)
	})
}

func replace(files []entry, name, text string) []entry {
	list := append([]entry{}, files...)
	for i := range list {
		if list[i].name == name {
			list[i].text = text
		}
	}
	return list
}

func TestNothingIsReplaced(t *testing.T) {
	good := sample(t)
	for _, name := range []string{"root.pem", "signer.log", "keys/other"} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		check(t, os.WriteFile(path, []byte("mine"), 0o600))
		_, err := backup.Restore(ctx, bytes.NewReader(good), place(dir, dbtest.Open(t, dbtest.SQLiteURL(t))))
		if text, _ := os.ReadFile(path); !fault.Is(err, fault.Precondition) || string(text) != "mine" {
			t.Errorf("%s: %v, %q", name, err, text)
		}
	}
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	in := place(t.TempDir(), d)
	populate(t, in)
	to := place(filepath.Join(t.TempDir(), "new"), d)
	if _, err := backup.Restore(ctx, bytes.NewReader(good), to); !fault.Is(err, fault.Precondition) {
		t.Errorf("into a database with rows: %v", err)
	}
	if _, err := os.Lstat(to.KeyDir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a refused restore left files behind")
	}
	file := filepath.Join(t.TempDir(), "b")
	check(t, os.WriteFile(file, []byte("mine"), 0o600))
	if _, err := backup.WriteFile(ctx, file, in, "v1", time.Now(), nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".backup-*")); len(left) > 0 {
		t.Error("a temporary file stayed:", left)
	}
}

// A backup that is taken while the server issues holds together: every line of
// the signer's log has its serial.
func TestBackupWhileServing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		in := place(t.TempDir(), d)
		populate(t, in)
		s, _ := open(t, in)
		stop, done := make(chan struct{}), make(chan error)
		go func() {
			var err error
			for range 60 { // enough to last for three backups, and few enough for three restores
				select {
				case <-stop:
					done <- err
					return
				default:
				}
				if _, err = s.CreateResponder(ctx, s.Authorities()[1].ID, "test"); err != nil {
					break
				}
			}
			<-stop
			done <- err
		}()
		for range 3 {
			var b bytes.Buffer
			_, err := backup.Write(ctx, &b, in, "v1", time.Now())
			check(t, err)
			to := place(filepath.Join(t.TempDir(), "new"), dbtest.Open(t, dbtest.SQLiteURL(t)))
			_, err = backup.Restore(ctx, bytes.NewReader(b.Bytes()), to)
			check(t, err)
			log, err := os.Open(to.SignerLog)
			check(t, err)
			_, _, err = ca.Check(ctx, to.DB.Read(), log, func(f ca.Finding) {
				if f.Invariant == "I1" {
					t.Errorf("%+v", f)
				}
			})
			check(t, errors.Join(err, log.Close()))
			open(t, to) // every authority has its key
		}
		close(stop)
		check(t, <-done)
	})
}

func FuzzVerify(f *testing.F) {
	good := sample(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := backup.Verify(bytes.NewReader(b)); err != nil && !fault.Is(err, fault.Invalid) && !fault.Is(err, fault.Precondition) {
			t.Fatal(err)
		}
	})
}
