package e2e

import (
	"context"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// webrootSolver answers http-01 challenges of acmez by files.
type webrootSolver struct {
	t   testing.TB
	dir string
}

func (s webrootSolver) Present(_ context.Context, c acme.Challenge) error {
	writeFile(s.t, s.dir+"/"+c.Token, c.KeyAuthorization, 0o644)
	return nil
}

func (s webrootSolver) CleanUp(context.Context, acme.Challenge) error { return nil }

// TestAcmez runs the library behind Caddy 2.10 and CertMagic, with what the
// command line clients do not do: IP identifiers, key roll-over, renewal
// information and orders that replace a certificate.
func TestAcmez(t *testing.T) {
	t.Parallel()
	s, p := startSite(t, "acmez.test")
	c := acmez.Client{
		Client:           &acme.Client{Directory: p.ready.Directory, HTTPClient: s.web(), PollInterval: 50 * time.Millisecond},
		ChallengeSolvers: map[string]acmez.Solver{acme.ChallengeTypeHTTP01: webrootSolver{t, s.webroot()}},
	}
	account, err := c.NewAccount(t.Context(), acme.Account{Contact: []string{"mailto:ops@acmez.test"}, TermsOfServiceAgreed: true, PrivateKey: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	first := obtainByAcmez(t, s, &c, account, nil, "acmez.test", "127.0.0.1")
	first.agree(t, good)
	inFuture(t, &c, first)

	if account, err = c.AccountKeyRollover(t.Context(), account, newKey(t)); err != nil {
		t.Fatalf("roll the account key over: %v", err)
	}
	second := obtainByAcmez(t, s, &c, account, first.cert, "acmez.test", "127.0.0.1")
	if err := c.RevokeCertificate(t.Context(), account, second.cert, nil, acme.ReasonSuperseded); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	second.agree(t, revoked)
	// RFC 9773 section 4.1: a window in the past means "renew at once".
	eventually(t, 10*time.Second, func() error {
		info, err := c.GetRenewalInfo(t.Context(), second.cert)
		if err == nil && info.SuggestedWindow.End.After(time.Now()) {
			t.Errorf("the renewal window of a revoked certificate ends at %v", info.SuggestedWindow.End)
		}
		return err
	})
	p.stop()
	s.doctor()
}

// inFuture checks the renewal window of a certificate that is in order.
func inFuture(t *testing.T, c *acmez.Client, i *issued) {
	t.Helper()
	info, err := c.GetRenewalInfo(t.Context(), i.cert)
	if err != nil {
		t.Fatal(err)
	}
	w := info.SuggestedWindow
	if w.Start.Before(time.Now()) || !w.Start.Before(w.End) || w.End.After(i.cert.NotAfter) {
		t.Errorf("the renewal window %v - %v does not lie in the life that is left, until %v", w.Start, w.End, i.cert.NotAfter)
	}
	if info.RetryAfter == nil {
		t.Error("renewal information comes without Retry-After (RFC 9773 section 4.3)")
	}
}

// obtainByAcmez gets one certificate for DNS names and IP addresses.
func obtainByAcmez(t *testing.T, s *site, c *acmez.Client, account acme.Account, replaces *x509.Certificate, names ...string) *issued {
	t.Helper()
	csr, err := acmez.NewCSR(newKey(t), names)
	if err != nil {
		t.Fatal(err)
	}
	params, err := acmez.OrderParametersFromCSR(account, csr)
	if err != nil {
		t.Fatal(err)
	}
	params.Replaces = replaces
	chains, err := c.ObtainCertificate(t.Context(), params)
	if err != nil {
		t.Fatal(err)
	}
	dns := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasPrefix(n, "127.") })
	i := s.judge(t, string(chains[0].ChainPEM), dns...)
	if len(i.cert.IPAddresses) != len(names)-len(dns) {
		t.Errorf("certified addresses are %v, want %v", i.cert.IPAddresses, names)
	}
	return i
}
