package ct_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/ca"
	"chancery/internal/ct"
	"chancery/internal/ct/cttest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// chain returns a precertificate of crypto/x509 with its issuer.
func chain(t testing.TB) [][]byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	issuer, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	check(t, err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"a.test"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{pki.Poison()}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key)
	check(t, err)
	return [][]byte{der, issuer}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// estate is logs named a, b, c, ... and a submitter that knows them.
type estate struct {
	*ct.Submitter
	logs  map[string]*cttest.Log
	names []string
}

// newEstate starts a log for each operator.
func newEstate(t testing.TB, operators ...string) *estate {
	t.Helper()
	e := &estate{logs: map[string]*cttest.Log{}}
	cfg := ct.Config{Registry: prometheus.NewRegistry()}
	for i, op := range operators {
		name, l := string(rune('a'+i)), cttest.New(t)
		e.logs[name], e.names = l, append(e.names, name)
		cfg.Logs = append(cfg.Logs, ct.Log{Name: name, URL: l.URL, Key: l.SPKI, Operator: op})
	}
	var err error
	e.Submitter, err = ct.New(cfg)
	check(t, err)
	return e
}

// ask submits a precertificate and returns the names of the logs whose
// timestamps came back.
func (e *estate) ask(t testing.TB, scts, operators int, deadline time.Duration) (string, error) {
	t.Helper()
	got, err := e.Submit(context.Background(), ca.Submission{Chain: chain(t), CT: ca.CT{Logs: e.names, SCTs: scts, Operators: operators, Deadline: deadline}})
	var names strings.Builder
	for _, s := range got {
		for _, n := range e.names {
			if l := e.logs[n]; l != nil && sha256.Sum256(l.SPKI) == s.LogID {
				names.WriteString(n)
			}
		}
	}
	return names.String(), err
}

func TestSubmit(t *testing.T) {
	t.Run("the preferred logs, of as many operators as demanded, and no others", func(t *testing.T) {
		e := newEstate(t, "x", "x", "y", "z")
		got, err := e.ask(t, 2, 2, 10*time.Second)
		if got != "ac" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if e.logs["b"].Calls()+e.logs["d"].Calls() != 0 {
			t.Error("a reserve was asked without need")
		}
	})
	t.Run("several logs of one operator", func(t *testing.T) {
		if got, err := newEstate(t, "x", "x", "x").ask(t, 3, 1, 10*time.Second); got != "abc" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("a slow log is passed by a reserve within the deadline", func(t *testing.T) {
		e := newEstate(t, "x", "y", "z")
		e.logs["a"].Break(cttest.Silent)
		begin := time.Now()
		if got, err := e.ask(t, 2, 2, 8*time.Second); got != "bc" || err != nil || time.Since(begin) > 6*time.Second {
			t.Errorf("%q, %v after %s", got, err, time.Since(begin))
		}
	})
	t.Run("a reserve of the same operator does not stand for another operator", func(t *testing.T) {
		e := newEstate(t, "x", "y", "x", "x")
		e.logs["b"].Break(cttest.Down)
		_, err := e.ask(t, 2, 2, 10*time.Second)
		if !fault.Is(err, fault.Unavailable) || fault.As(err).RetryAfter < time.Second {
			t.Error(err)
		}
	})
	t.Run("the deadline holds", func(t *testing.T) {
		e := newEstate(t, "x", "y")
		e.logs["a"].Break(cttest.Silent)
		begin := time.Now()
		if _, err := e.ask(t, 2, 1, 200*time.Millisecond); !fault.Is(err, fault.Unavailable) || time.Since(begin) > 5*time.Second {
			t.Error(err, time.Since(begin))
		}
	})
	t.Run("a log that is down is not asked for ever, and comes back", func(t *testing.T) {
		e := newEstate(t, "x", "y")
		e.logs["a"].Break(cttest.Down)
		for range 6 {
			e.ask(t, 1, 1, 10*time.Second)
		}
		if n := e.logs["a"].Calls(); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})
	t.Run("names that are not configured any more are passed over", func(t *testing.T) {
		e := newEstate(t, "x", "y")
		e.names = []string{"gone", "a", "b"}
		if got, err := e.ask(t, 2, 2, 10*time.Second); got != "ab" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
	t.Run("none is left", func(t *testing.T) {
		e := newEstate(t)
		e.names = []string{"gone"}
		if _, err := e.ask(t, 1, 1, time.Second); !fault.Is(err, fault.Unavailable) {
			t.Error(err)
		}
	})
	t.Run("no chain", func(t *testing.T) {
		e := newEstate(t, "x")
		for _, c := range [][][]byte{nil, chain(t)[:1], {chain(t)[1], chain(t)[1]}, {chain(t)[0], {1}}} {
			if _, err := e.Submit(t.Context(), ca.Submission{Chain: c, CT: ca.CT{Logs: e.names, SCTs: 1, Operators: 1, Deadline: time.Second}}); err == nil {
				t.Errorf("%x was submitted", c)
			}
		}
	})
}

// TestTimestampsAreChecked: whatever a log answers, only a timestamp with its
// signature over this very precertificate counts; the reserve takes its place.
func TestTimestampsAreChecked(t *testing.T) {
	for _, f := range []cttest.Fault{cttest.Down, cttest.Refuses, cttest.BadSignature, cttest.WrongID, cttest.WrongVersion, cttest.FromTheFuture,
		cttest.FromThePast, cttest.WrongAlgorithm, cttest.NotJSON, cttest.Huge, cttest.Redirects} {
		t.Run(string(f), func(t *testing.T) {
			e := newEstate(t, "x", "y", "z")
			e.logs["a"].Break(f)
			if got, err := e.ask(t, 2, 2, 10*time.Second); got != "bc" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
			e.logs["b"].Break(f)
			if got, err := e.ask(t, 2, 2, 10*time.Second); got != "" || !fault.Is(err, fault.Unavailable) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestStaticLogs(t *testing.T) {
	l := cttest.New(t)
	l.Static = true
	s, err := ct.New(ct.Config{Logs: []ct.Log{{Name: "s", URL: l.URL + "/", Key: l.SPKI, Kind: ct.Static}}})
	check(t, err)
	sub := ca.Submission{Chain: chain(t), CT: ca.CT{Logs: []string{"s"}, SCTs: 1, Operators: 1, Deadline: 10 * time.Second}}
	got, err := s.Submit(t.Context(), sub)
	check(t, err)
	if index, ok := got[0].LeafIndex(); !ok || index != 7 {
		t.Error(index, ok)
	}
	l.Break(cttest.NoIndex)
	if _, err := s.Submit(t.Context(), sub); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
}

func TestLogsAreChecked(t *testing.T) {
	good := cttest.New(t).SPKI
	spki := func(pub any) []byte {
		der, err := x509.MarshalPKIXPublicKey(pub)
		check(t, err)
		return der
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(t, err)
	strong, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	for name, l := range map[string]ct.Log{
		"no URL":         {Key: good},
		"not HTTP":       {URL: "ftp://log.test", Key: good},
		"a query":        {URL: "https://log.test/?x", Key: good},
		"a password":     {URL: "https://u:p@log.test", Key: good},
		"no key":         {URL: "https://log.test"},
		"P-384":          {URL: "https://log.test", Key: spki(p384.Public())},
		"Ed25519":        {URL: "https://log.test", Key: spki(ed)},
		"a kind of logs": {URL: "https://log.test", Key: good, Kind: "rfc9162"},
	} {
		if _, err := ct.New(ct.Config{Logs: []ct.Log{l}}); err == nil {
			t.Error(name)
		}
	}
	if _, err := ct.New(ct.Config{Logs: []ct.Log{{Name: "x", URL: "https://log.test/2027", Key: spki(strong.Public())}}}); err != nil {
		t.Error(err)
	}
	if _, err := ct.New(ct.Config{Logs: []ct.Log{{Name: "x", URL: "https://log.test", Key: good}, {Name: "x", URL: "https://log.test", Key: good}}}); err == nil {
		t.Error("two logs of one name")
	}
}
