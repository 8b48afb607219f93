package e2e

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/crypto/ocsp"

	"chancery/internal/ca"
)

// why explains the incidents of these tests.
const why = "https://pki.test/incidents/7"

// incident is what the API tells about one.
type incident struct {
	ID      string           `json:"id"`
	State   ca.IncidentState `json:"state"`
	Marked  int              `json:"marked"`
	Revoked int              `json:"revoked"`
	Skipped int              `json:"skipped"`
}

// operate makes one request to the control plane until it is answered, as an
// operator's script does that never gives up: a lost answer is asked for again
// with the same key.
func (l *load) operate(ctx context.Context, method, path, key, body string, into any) error {
	token := strings.TrimSpace(readFile(l.t, filepath.Join(l.site.data, "admin.token")))
	_, err := l.client.retry(ctx, into, func() (*reply, error) {
		req, err := http.NewRequestWithContext(ctx, method, "https://"+l.site.listen+"/api/v1"+path, bytes.NewReader([]byte(body)))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		return l.client.send(req)
	})
	return err
}

// incidents begins one incident after the other, each about one certificate,
// until the load is told to stop; the one that is open then must still revoke.
func (l *load) incidents() {
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		if err := l.incident(fmt.Sprintf("i%d.load.test", n)); err != nil {
			if l.ctx.Err() == nil {
				l.t.Errorf("an incident did not do its work: %v", err)
			}
			return
		}
	}
}

// incident gets a certificate and has it revoked by an incident, which must be
// made once, however often the request is sent.
func (l *load) incident(name string) error {
	l.site.resolve(name)
	ctx, cancel := context.WithTimeout(l.ctx, 5*time.Minute)
	defer cancel()
	leaf, issuer, err := l.obtain(ctx, l.client, name)
	for errors.Is(err, errLost) && ctx.Err() == nil {
		leaf, issuer, err = l.obtain(ctx, l.client, name)
	}
	if err != nil {
		return err
	}
	serial := fmt.Sprintf("%x", leaf.SerialNumber)
	body, err := json.Marshal(map[string]any{"name": name, "certificates": []string{serial}, "reason": "superseded"})
	if err != nil {
		return err
	}
	var made struct {
		Incident incident `json:"incident"`
	}
	if err := l.operate(ctx, "POST", "/incidents", name, string(body), &made); err != nil {
		return fmt.Errorf("make incident for %s: %w", serial, err)
	}
	for at := made.Incident; at.Revoked != 1; {
		if at.Marked+at.Skipped > 1 || at.State == ca.IncidentDone || at.State == ca.IncidentCancelled {
			return fmt.Errorf("incident for %s: %+v", serial, at)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%w; last seen: %+v", err, at)
		}
		if err := l.operate(ctx, "GET", "/incidents/"+made.Incident.ID, "", "", &at); err != nil {
			return err
		}
	}
	for got := ocsp.Good; got != ocsp.Revoked; { // other answers were promised to nobody
		if got, err = askOCSP(ctx, l.client.web, leaf, issuer); ctx.Err() != nil {
			return fmt.Errorf("ask about %s: %w", serial, errors.Join(err, ctx.Err()))
		}
	}
	return l.note(promise{leaf: leaf, issuer: issuer, revoked: true})
}

// TestIncident is the story of a mass revocation, seen by its parties: the
// operator's command line, a foreign ACME client that asks for renewal windows,
// and relying parties.
func TestIncident(t *testing.T) {
	t.Parallel()
	s, p := startSite(t, "a.inc.test", "b.inc.test", "other.test")
	c := &acmez.Client{
		Client:           &acme.Client{Directory: p.ready.Directory, HTTPClient: s.web(), PollInterval: 50 * time.Millisecond},
		ChallengeSolvers: map[string]acmez.Solver{acme.ChallengeTypeHTTP01: webrootSolver{t, s.webroot()}},
	}
	account, err := c.NewAccount(t.Context(), acme.Account{TermsOfServiceAgreed: true, PrivateKey: newKey(t)})
	if err != nil {
		t.Fatal(err)
	}
	a := obtainByAcmez(t, s, c, account, nil, "a.inc.test")
	b := obtainByAcmez(t, s, c, account, nil, "b.inc.test")
	other := obtainByAcmez(t, s, c, account, nil, "other.test")
	chancery := func(args ...string) string {
		t.Helper()
		return run(t, tool{name: s.bin, args: append(args, "--data", s.data)})
	}
	hit := []string{"--query", "*.inc.test"}
	// Announced: windows move, with the reason, and only where they must.
	first := s.begin(append(hit, "--at", "36h")...)
	for _, one := range []*issued{a, b} {
		window(t, c, one, func(info acme.RenewalInfo) bool {
			return info.SuggestedWindow.End.Before(time.Now()) && info.ExplanationURL == why
		})
		one.agree(t, good)
	}
	inFuture(t, c, other)

	// Called off: windows are as before.
	chancery("certs", "incidents", "cancel", first.ID)
	window(t, c, a, func(info acme.RenewalInfo) bool {
		return info.SuggestedWindow.Start.After(time.Now()) && info.ExplanationURL == ""
	})

	// Announced again; who follows the window gets a certificate outside of it.
	second := s.begin(append(hit, "--at", "24h")...)
	window(t, c, a, func(info acme.RenewalInfo) bool { return info.ExplanationURL == why })
	fresh := obtainByAcmez(t, s, c, account, a.cert, "a.inc.test")
	inFuture(t, c, fresh)
	chancery("certs", "incidents", "cancel", second.ID)

	// At once, for the one that is left.
	list := writeFile(t, filepath.Join(t.TempDir(), "serials.txt"), fmt.Sprintf("%X\n", b.cert.SerialNumber), 0o600)
	third := s.begin("--file", list)
	b.agree(t, revoked)
	fresh.agree(t, good)
	other.agree(t, good)
	window(t, c, b, func(info acme.RenewalInfo) bool {
		return info.SuggestedWindow.End.Before(time.Now()) && info.ExplanationURL == why
	})
	shown := chancery("certs", "show", fmt.Sprintf("%x", b.cert.SerialNumber), "-o", "tsv")
	for _, want := range []string{"status\trevoked", "reason\tsuperseded", "incident\t" + third.ID, "incident.create by token:", "certificate.revoke_batch by token:"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
	p.stop()
	s.doctor()
}

// begin makes an incident on the command line.
func (s *site) begin(args ...string) (i incident) {
	s.t.Helper()
	args = append([]string{"certs", "revoke", "--incident", "wrong names", "--reason", "superseded", "--explanation", why, "-o", "json", "--data", s.data}, args...)
	out := run(s.t, tool{name: s.bin, args: args})
	out = out[strings.Index(out, "{") : strings.LastIndex(out, "}")+1] // standard error comes with it
	if err := json.Unmarshal([]byte(out), &i); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	return i
}

// window waits until the renewal information of a certificate is as wanted.
func window(t testing.TB, c *acmez.Client, i *issued, ok func(acme.RenewalInfo) bool) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		info, err := c.GetRenewalInfo(t.Context(), i.cert)
		if err == nil && !ok(info) {
			err = fmt.Errorf("%+v", info)
		}
		return err
	})
}
