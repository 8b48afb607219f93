//go:build faultpoint

package renew_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
	"chancery/internal/renew"
)

// holder has the keys of a certificate outside the engine, in files that outlive
// any process: what an agent and the table of its assignments are.
type holder struct {
	dir, id string
	names   []pki.Identifier
}

func (h *holder) path(name string) string { return filepath.Join(h.dir, "holder."+name) }

// exists reports whether it has ever asked for anything.
func (h *holder) exists() bool {
	_, err := os.Stat(h.path("csr"))
	return err == nil
}

// ref is the name of the certificate in the engine.
func (h *holder) ref() string { return "assignment." + h.id }

// before is what was live when the renewal was asked for.
func (h *holder) before(t testing.TB) string {
	t.Helper()
	live, err := os.ReadFile(h.path("before"))
	must(t, err)
	return string(live)
}

// next makes another key, and the request for it.
func (h *holder) next(t testing.TB) (csr []byte) {
	t.Helper()
	key, err := keys.Generate(pki.P256)
	must(t, err)
	csr, err = pki.CreateRequest(key, h.names)
	must(t, err)
	must(t, os.WriteFile(h.path("new"), csr, 0o600))
	must(t, os.Rename(h.path("new"), h.path("csr")))
	return csr
}

// remote is the holder as the engine sees it.
func (h *holder) remote() renew.Remote {
	return renew.Remote{Request: func(_ context.Context, id string) ([]byte, error) {
		csr, err := os.ReadFile(h.path("csr"))
		if errors.Is(err, os.ErrNotExist) || id != h.id {
			return nil, fault.New(fault.NotFound, "there is no such assignment")
		}
		return csr, err
	}}
}

// take waits for the certificate of a request, which must be for its key.
func (h *holder) take(t testing.TB, w *world, csr []byte) *x509.Certificate {
	t.Helper()
	req, err := x509.ParseCertificateRequest(csr)
	must(t, err)
	deadline := time.Now().Add(20 * time.Second)
	for {
		chain, err := w.engine.Obtained(context.Background(), h.id, csr, true)
		if err == nil {
			leaf, err := x509.ParseCertificate(chain[0])
			must(t, err)
			if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, req.RawSubjectPublicKeyInfo) {
				t.Fatal("the certificate is for a key that the agent does not have")
			}
			return leaf
		}
		if !errors.Is(err, renew.ErrPending) || time.Now().After(deadline) {
			m, _ := renew.Get(context.Background(), w.db.Read(), h.ref())
			t.Fatalf("no certificate for the agent's request: %v\n%+v", err, m)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// issued returns the keys of the certificates that were issued for the holder.
func (h *holder) issued(t testing.TB, w *world) (keys []string) {
	t.Helper()
	must(t, ca.Walk(context.Background(), w.db.Read(), func(c *ca.Certificate) error {
		if len(c.Names) == 1 && c.Names[0] == h.names[0].Value && c.State == ca.StateIssued {
			leaf, err := x509.ParseCertificate(c.DER)
			if err != nil {
				return err
			}
			keys = append(keys, string(leaf.RawSubjectPublicKeyInfo))
		}
		return nil
	}))
	return keys
}

// remoteHolder is the one of a test's directory.
func remoteHolder(t testing.TB, dir string) *holder {
	return &holder{dir: dir, id: db.NewID(time.Unix(0, 0))[:10] + "0000000000000000", names: names(t, "agent.example.test")}
}

// Wherever a process dies while it renews a certificate whose key an agent has,
// a new one obtains exactly one for the agent's next key, also when the agent
// has lost that key meanwhile: then it is one more, for the key that it has.
func TestCrashRemote(t *testing.T) {
	elsewhere := []string{"deploy", "placed", "desire", "settle"} // steps that only targets here need
	for _, points := range crashPoints {
		points = slices.DeleteFunc(slices.Clone(points), func(p string) bool {
			return slices.ContainsFunc(elsewhere, func(word string) bool { return strings.HasSuffix(p, "_"+word) })
		})
		if len(points) == 0 {
			continue
		}
		for _, lost := range []bool{false, true} {
			name := strings.Join(points, " ")
			if lost {
				name += " key lost"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				crashRemote(t, points, lost)
			})
		}
	}
}

func crashRemote(t *testing.T, points []string, lost bool) {
	ctx, dir := context.Background(), t.TempDir()
	h := remoteHolder(t, dir)
	w := crashWorld(t, dir, 0)
	csr := h.next(t)
	_, err := w.engine.CreateRemote(ctx, h.id, renew.Spec{Names: h.names, Issuer: "own"}, "test")
	must(t, err)
	stop := run(t, w.engine)
	first := h.take(t, w, csr)
	stop()
	csr = h.next(t)
	m, err := renew.Get(ctx, w.db.Read(), h.ref())
	must(t, err)
	must(t, os.WriteFile(h.path("before"), []byte(m.LiveID), 0o600))
	must(t, w.engine.RenewRemote(ctx, h.id, "test"))
	must(t, w.db.Close())
	for i, p := range points {
		die(t, dir, p, time.Duration(i)*15*time.Minute)
	}

	most := 2
	if lost {
		csr, most = h.next(t), 3
	}
	w = crashWorld(t, dir, time.Duration(len(points))*15*time.Minute)
	run(t, w.engine)
	second := h.take(t, w, csr)
	if second.Equal(first) {
		t.Error("it was not renewed")
	}
	all := h.issued(t, w)
	if len(all) < 2 || len(all) > most {
		t.Errorf("%d certificates were issued", len(all))
	}
	slices.Sort(all)
	if len(slices.Compact(all)) != len(all) {
		t.Error("a key was certified twice")
	}
	w.settled(t, h.ref(), m.LiveID)
	w.mustHold(t)
}
