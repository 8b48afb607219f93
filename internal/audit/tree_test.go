package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
)

func newLog(t *testing.T, d *db.DB, seed byte) *audit.Log {
	t.Helper()
	l, err := audit.NewLog(d, "ca.test/journal", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// fill appends and places n entries.
func fill(t *testing.T, d *db.DB, from, n int) {
	t.Helper()
	ctx := context.Background()
	for n > 0 {
		batch := min(n, 2000)
		err := d.Write(ctx, func(tx *db.Tx) error {
			for i := range batch {
				e := audit.Entry{At: time.UnixMilli(1_700_000_000_000), Kind: "test.add", Actor: "system",
					Subject: fmt.Sprintf("thing:%d", from+i), Data: map[string]string{"text": "ü <&> \u2028 \""}}
				if err := audit.Append(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for placed := -1; placed != 0; {
			if placed, err = audit.Sequence(ctx, d, 2000); err != nil {
				t.Fatal(err)
			}
		}
		from, n = from+batch, n-batch
	}
}

// tick runs the log until it has nothing to do.
func tick(t *testing.T, l *audit.Log) {
	t.Helper()
	for more := true; more; {
		var err error
		if _, more, err = l.Tick(context.Background(), time.UnixMilli(1_800_000_000_000)); err != nil {
			t.Fatal(err)
		}
	}
}

// Checkpoints of a growing journal verify, each extends the one before, and a
// proof of any entry checks with nothing but the verifier key.
func TestEveryEntryIsProved(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		l := newLog(t, d, 1)
		total := 0
		for _, n := range []int{1, 2, 250, 4, 300, 500} {
			fill(t, d, total, n)
			total += n
			tick(t, l)
		}
		rep, err := audit.Verify(ctx, d)
		if err != nil || rep.Problem != "" || rep.Checkpoints != 6 || rep.Entries != int64(total) {
			t.Fatalf("%+v %v", rep, err)
		}
		for _, seq := range []int64{1, 2, 253, 256, 257, 512, 513, 1000, int64(total)} {
			p, err := audit.Prove(ctx, d.Read(), seq)
			if err != nil {
				t.Fatal(seq, err)
			}
			text, _ := p.MarshalText()
			var back audit.Proof
			if err := back.UnmarshalText(text); err != nil {
				t.Fatal(err)
			}
			if err := back.Check([]string{l.VerifierKey()}); err != nil {
				t.Errorf("entry %d: %v", seq, err)
			}
			if want := fmt.Sprintf(`"subject":"thing:%d"`, seq-1); !strings.Contains(string(back.Leaf), want) {
				t.Errorf("entry %d: leaf %s lacks %s", seq, back.Leaf, want)
			}
			if err := back.Check([]string{newLog(t, d, 2).VerifierKey()}); err == nil {
				t.Error("a proof checks with somebody else's key")
			}
			back.Leaf = bytes.Replace(back.Leaf, []byte("system"), []byte("nobody"), 1)
			if err := back.Check([]string{l.VerifierKey()}); err == nil {
				t.Error("a changed entry checks")
			}
		}
		list, err := audit.Checkpoints(ctx, d.Read(), 1<<62, 100)
		if err != nil || len(list) != 6 {
			t.Fatal(list, err)
		}
		root := func(note string) tlog.Hash {
			h, err := tlog.ParseHash(strings.Split(note, "\n")[2])
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		for _, c := range list[1:] {
			path, latest, err := audit.Consistency(ctx, d.Read(), c.Size)
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckTree(path, latest.Size, root(latest.Note), c.Size, root(c.Note)); err != nil {
				t.Errorf("from %d to %d: %v", c.Size, latest.Size, err)
			}
		}
	})
}

// A journal longer than one part, with nodes of two levels.
func TestLongJournal(t *testing.T) {
	ctx := context.Background()
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	l := newLog(t, d, 1)
	const n = audit.VerifyStep + 700
	fill(t, d, 0, n)
	tick(t, l)
	rep, err := audit.VerifyPart(ctx, d, 0)
	if err != nil || rep.Problem != "" || rep.Done || rep.Entries != audit.VerifyStep {
		t.Fatalf("%+v %v", rep, err)
	}
	if rep, err = audit.VerifyPart(ctx, d, rep.Entries); err != nil || rep.Problem != "" || !rep.Done || rep.Checkpoints != 1 {
		t.Fatalf("%+v %v", rep, err)
	}
	for _, seq := range []int64{1, 40_000, audit.VerifyStep, n} {
		p, err := audit.Prove(ctx, d.Read(), seq)
		if err != nil || p.Check([]string{l.VerifierKey()}) != nil {
			t.Fatal(seq, err)
		}
	}
	for _, c := range []struct {
		name  string
		spoil *db.Stmt
		mend  *db.Stmt
	}{{"node", qSpoilNode, qDropNode}, {"cut", qCutPart, nil}} {
		if _, err := d.Read().Exec(ctx, c.spoil); err != nil {
			t.Fatal(err)
		}
		if rep, err := audit.Verify(ctx, d); err != nil || rep.Problem == "" {
			t.Errorf("%s: %+v %v", c.name, rep, err)
		}
		if c.mend == nil {
			break
		}
		if _, err := d.Read().Exec(ctx, c.mend); err != nil {
			t.Fatal(err)
		}
		tick(t, l)
		if rep, err := audit.Verify(ctx, d); err != nil || rep.Problem != "" {
			t.Errorf("%s mended: %+v %v", c.name, rep, err)
		}
	}
}

var (
	qSpoilNode = db.SQL("audittest.spoil_node", `UPDATE journal_node SET hash = (SELECT hash FROM journal_node WHERE level = 1 AND idx = 3) WHERE level = 2`)
	qDropNode  = db.SQL("audittest.drop_node", `DELETE FROM journal_node WHERE level = 2`)
	qCutPart   = db.SQL("audittest.cut_part", `DELETE FROM journal WHERE seq > 65536`)
	qForget    = db.SQL("audittest.forget", `UPDATE journal SET seq = NULL, hash = NULL, actor = CASE WHEN seq = 5 THEN 'someone else' ELSE actor END`)
	qNoHead    = db.SQL("audittest.no_head", `DELETE FROM journal_head`)
)

// Who rewrites the whole chain of hashes is found by the checkpoints, and no
// checkpoint is signed for the new one.
func TestRewrittenChainIsFound(t *testing.T) {
	ctx := context.Background()
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	l := newLog(t, d, 1)
	fill(t, d, 0, 20)
	tick(t, l)
	for _, s := range []*db.Stmt{qForget, qNoHead} {
		if _, err := d.Read().Exec(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, d, 20, 5)
	rep, err := audit.Verify(ctx, d)
	if err != nil || !strings.Contains(rep.Problem, "checkpoint") {
		t.Errorf("%+v %v", rep, err)
	}
	if _, _, err := l.Tick(ctx, time.UnixMilli(1)); err == nil {
		t.Error("a checkpoint was signed for a rewritten journal")
	}
}

func TestProofOfWhatIsNotCovered(t *testing.T) {
	ctx := context.Background()
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	l := newLog(t, d, 1)
	fill(t, d, 0, 3)
	tick(t, l)
	fill(t, d, 3, 1)
	for seq, want := range map[int64]fault.Code{4: fault.Unavailable, 5: fault.NotFound, 0: fault.NotFound, -1: fault.NotFound} {
		_, err := audit.Prove(ctx, d.Read(), seq)
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != want {
			t.Errorf("%d: %v, want %s", seq, err, want)
		}
	}
}

// A program that shares no code with ours but x/mod/sumdb accepts a proof, and
// refuses one that was tampered with.
func TestForeignCheckerAgrees(t *testing.T) {
	ctx := context.Background()
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	l := newLog(t, d, 1)
	fill(t, d, 0, 700)
	tick(t, l)
	p, err := audit.Prove(ctx, d.Read(), 300)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := p.MarshalText()
	dir := t.TempDir()
	checker := filepath.Join(dir, "checker")
	if out, err := exec.Command("go", "build", "-o", checker, "./testdata/checker").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check := func(name string, text []byte) error {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(checker, l.VerifierKey(), file).CombinedOutput()
		if err == nil && !strings.Contains(string(out), "thing:299") {
			t.Errorf("%s: %s", name, out)
		}
		return err
	}
	if err := check("good", text); err != nil {
		t.Error("a proof is refused:", err)
	}
	if err := check("bad", bytes.Replace(text, []byte("index 299"), []byte("index 298"), 1)); err == nil {
		t.Error("a proof of another entry is accepted")
	}
}

func FuzzProof(f *testing.F) {
	f.Add([]byte("c2sp.org/tlog-proof@v1\nextra e30=\nindex 0\n\nca.test/journal\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— ca.test/journal x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p audit.Proof
		if p.UnmarshalText(b) != nil {
			return
		}
		again, _ := p.MarshalText()
		if !bytes.Equal(again, b) {
			t.Errorf("%q is read and written as %q", b, again)
		}
		if p.Check([]string{"ca.test/journal+f75d5bde+AYqI49e5d0zwh4Y5VjVFQ1Q0ZdnT0xrKkcGT0iTHQyrT"}) == nil {
			t.Error("a made-up proof checks")
		}
	})
}
