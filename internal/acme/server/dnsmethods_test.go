package server_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/server"
)

// offer lets the profiles of the CA "default" offer more challenge types.
func offer(more ...challenge.Type) option {
	return forCA(func(a *server.CA) {
		for i := range a.Profiles {
			p := &a.Profiles[i]
			p.Challenges = append(p.Challenges[:len(p.Challenges):len(p.Challenges)], more...)
		}
	})
}

// types returns the challenge types of an authorization in their order.
func types(z acme.Authorization) []string {
	var out []string
	for _, ch := range z.Challenges {
		out = append(out, ch.Type)
	}
	return out
}

func TestDNSAccount01(t *testing.T) { // draft-ietf-acme-dns-account-label-03
	each(t, func(t *testing.T, w *world) {
		c := w.account(t)
		w.names("a.test")
		o, _ := c.order("*.a.test", "a.test")
		for _, u := range o.Authorizations {
			z := c.post(u, nil).want(http.StatusOK).authz()
			want := []string{"http-01", "dns-01", "tls-alpn-01", "dns-account-01"}
			if z.Wildcard {
				want = []string{"dns-01", "dns-account-01"}
			}
			if diff := cmp.Diff(want, types(z)); diff != "" {
				t.Error(diff)
			}
			if ch := c.solve(z, challenge.DNSAccount01); ch.Status != acme.ChallengeValid {
				t.Fatalf("%+v", ch)
			}
		}
		a := c.post(o.Finalize, map[string]string{"csr": csr(t, nil, "*.a.test", "a.test")}).want(http.StatusOK)
		if got := a.order(); got.Status != acme.OrderValid {
			t.Errorf("%s", a.body)
		}
		t.Run("another account's record is no proof", func(t *testing.T) {
			d := w.account(t)
			o, _ := d.order("a.test")
			z := d.post(o.Authorizations[0], nil).authz()
			got := d.post(find(t, z, challenge.DNSAccount01).URL, map[string]any{}).want(http.StatusOK).challenge()
			if got.Status != acme.ChallengeInvalid || got.Error == nil || got.Error.Type != "urn:ietf:params:acme:error:dns" {
				t.Errorf("%+v", got)
			}
		})
	}, offer(challenge.DNSAccount01))
}

func TestDNSAccount01IsOptIn(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	o, _ := c.order("a.test")
	z := c.post(o.Authorizations[0], nil).authz()
	if diff := cmp.Diff([]string{"http-01", "dns-01", "tls-alpn-01"}, types(z)); diff != "" {
		t.Error(diff)
	}
}
