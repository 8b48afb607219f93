package exec_test

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"crypto/x509"

	"chancery/internal/issuer"
	"chancery/internal/issuer/exec"
	"chancery/internal/issuer/issuertest"
	"chancery/internal/testenv"
)

// script passes what it reads to the test, as a shell script of an operator
// would to his CA.
const script = "#!/bin/sh\nexec curl -sS --data-binary @- \"$URL\"\n"

// handler is the CA behind the script.
func handler(b *issuertest.Backend) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Op, CSR, Token, Certificate, ID string
		}
		body, _ := io.ReadAll(r.Body)
		json.Unmarshal(body, &in)
		b.Lock()
		defer b.Unlock()
		if in.Op == "revoke" {
			block, _ := pem.Decode([]byte(in.Certificate))
			c, _ := x509.ParseCertificate(block.Bytes)
			b.RevokedBy[issuertest.Serial(&x509.Certificate{SerialNumber: new(big.Int).Set(c.SerialNumber)})]++
			w.Write([]byte("{}"))
			return
		}
		n, err := strconv.Atoi(in.Token)
		if err != nil {
			if n, err = b.Submit(in.CSR, in.ID); err != nil {
				w.Write([]byte(`{"error": {"class": "permanent", "message": "bad request"}}`))
				return
			}
		}
		o, done := b.Look(n)
		switch {
		case done:
			json.NewEncoder(w).Encode(map[string]string{"chain": issuertest.PEM(o.Chain...)})
		case o.Rejected:
			w.Write([]byte(`{"error": {"class": "permanent", "message": "given up"}}`))
		default:
			json.NewEncoder(w).Encode(map[string]string{"token": strconv.Itoa(n)})
		}
	}
}

func TestSuite(t *testing.T) {
	testenv.NeedBinary(t, "curl")
	b := issuertest.NewBackend(t)
	srv := httptest.NewServer(handler(b))
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "ca.sh")
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	open := func(t testing.TB, deadline time.Duration, _ bool) (issuer.Issuer, error) {
		return exec.Kind.Open(issuertest.Env(deadline), &exec.Config{Command: []string{path}, Env: []string{"URL=" + srv.URL}, Revokes: true, Timeout: 20 * time.Second})
	}
	issuertest.Run(t, issuertest.Suite{Backend: b, Open: open, Revokes: true})
	b.Set(func(b *issuertest.Backend) { b.Looks = 2 }) // the first look is made by the program itself
	i, err := open(t, time.Hour, false)
	if err != nil {
		t.Fatal(err)
	}
	r := issuertest.NewRequest(t, "later", "a.example.test")
	if reply, err := i.Issue(t.Context(), r); err != nil || reply.PollAt.IsZero() {
		t.Fatalf("%+v, %v", reply, err)
	}
	if reply, err := i.Issue(t.Context(), r); err != nil || len(reply.Chain) == 0 {
		t.Fatalf("%+v, %v", reply, err)
	}
}

func TestFailures(t *testing.T) {
	for text, class := range map[string]issuer.Class{
		"exit 1":                   issuer.Permanent,
		"exit 75":                  issuer.Unavailable,
		"sleep 60":                 issuer.Unavailable,
		"echo no JSON":             issuer.Permanent,
		"echo '{}'":                issuer.Unavailable,
		`echo '{"chain": "none"}'`: issuer.Mismatch,
		`echo '{"error": {"class": "throttled", "message": "slow", "retry_after": 60}}'`:                 issuer.Throttled,
		`echo '{"error": {"class": "validation", "message": "no DNS", "identifier": "a.example.test"}}'`: issuer.Validation,
		`echo '{"error": {"class": "made up", "message": "?"}}'`:                                         issuer.Permanent,
		"head -c 2000000 /dev/zero": issuer.Unavailable,
	} {
		i, err := exec.Kind.Open(issuertest.Env(0), &exec.Config{Command: []string{"/bin/sh", "-c", text}, Timeout: 500 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		_, err = i.Issue(t.Context(), issuertest.NewRequest(t, "fails", "a.example.test"))
		e := issuertest.WantClass(t, err, class)
		if class == issuer.Throttled && e.RetryAfter != time.Minute {
			t.Errorf("retry after %s", e.RetryAfter)
		}
	}
}
