package server_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/mholt/acmez/v3"
	acmezacme "github.com/mholt/acmez/v3/acme"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

// webSolver answers http-01 through the web server of a world.
type webSolver struct{ w *world }

func (s webSolver) Present(_ context.Context, ch acmezacme.Challenge) error {
	s.w.publish(ch.Token, ch.KeyAuthorization)
	return nil
}

func (s webSolver) CleanUp(_ context.Context, ch acmezacme.Challenge) error {
	s.w.publish(ch.Token, "")
	return nil
}

// A client that is not ours obtains, renews by ARI and revokes.
func TestForeignClient(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		w := newWorld(t, d)
		w.names("acmez.test", "www.acmez.test")
		ctx := t.Context()
		client := acmez.Client{
			Client:           &acmezacme.Client{Directory: w.base + "/directory", Logger: slog.New(slog.DiscardHandler)},
			ChallengeSolvers: map[string]acmez.Solver{acmezacme.ChallengeTypeHTTP01: webSolver{w}},
		}
		account, err := client.NewAccount(ctx, acmezacme.Account{PrivateKey: newKey(t), TermsOfServiceAgreed: true, Contact: []string{"mailto:a@acmez.test"}})
		if err != nil {
			t.Fatal(err)
		}
		key := newKey(t)
		certs, err := client.ObtainCertificateForSANs(ctx, account, key, []string{"acmez.test", "www.acmez.test"})
		if err != nil {
			t.Fatal(err)
		}
		verify(t, w, certs[0].ChainPEM, "www.acmez.test")
		cert := leaf(t, certs[0].ChainPEM)
		info, err := client.GetRenewalInfo(ctx, cert)
		if err != nil || info.SuggestedWindow.Start.IsZero() || info.RetryAfter == nil {
			t.Fatalf("%+v %v", info, err)
		}
		if err := client.RevokeCertificate(ctx, account, cert, key, acmezacme.ReasonSuperseded); err != nil {
			t.Fatal(err)
		}
		w.mustHold(t)
	})
}
