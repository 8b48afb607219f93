package server_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // the form of the list
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/server"
	"chancery/internal/audit"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

func (a *answer) account() acme.Account {
	a.t.Helper()
	var v acme.Account
	a.into(&v)
	return v
}

func TestAccounts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		t.Run("new-account creates once and then finds (RFC 8555 section 7.3.1)", func(t *testing.T) {
			c := w.client(t)
			url := c.base + "/new-account"
			c.post(url, map[string]any{"onlyReturnExisting": true}).problem(http.StatusBadRequest, "accountDoesNotExist")
			first := c.post(url, map[string]any{"contact": []string{"mailto:ops@example.test"}}).want(http.StatusCreated)
			loc := first.Header.Get("Location")
			if got := first.account(); got.Status != acme.AccountValid || got.Orders != loc+"/orders" || got.Contact[0] != "mailto:ops@example.test" {
				t.Errorf("account %+v", got)
			}
			for _, body := range []map[string]any{{}, {"onlyReturnExisting": true}} {
				if again := c.post(url, body).want(http.StatusOK); again.Header.Get("Location") != loc {
					t.Errorf("Location %q, want %q", again.Header.Get("Location"), loc)
				}
			}
		})
		t.Run("two new-account requests at once make one account", func(t *testing.T) {
			c := w.client(t)
			locs := atOnce(6, func(int) string {
				return c.copy().post(c.base+"/new-account", map[string]any{}).want(http.StatusOK, http.StatusCreated).Header.Get("Location")
			})
			for _, l := range locs {
				if l != locs[0] || l == "" {
					t.Errorf("Locations %v", locs)
				}
			}
		})
		t.Run("update of contacts (RFC 8555 section 7.3.2)", func(t *testing.T) {
			c := w.account(t)
			if got := c.post(c.kid, map[string]any{"contact": []string{"mailto:b@example.test"}}).want(http.StatusOK).account(); got.Contact[0] != "mailto:b@example.test" {
				t.Errorf("%+v", got)
			}
			if got := c.post(c.kid, map[string]any{}).want(http.StatusOK).account(); len(got.Contact) != 1 {
				t.Errorf("an update without contact changed it: %+v", got)
			}
			if got := c.post(c.kid, map[string]any{"contact": []string{}}).want(http.StatusOK).account(); len(got.Contact) != 0 {
				t.Errorf("%+v", got)
			}
		})
		t.Run("deactivation ends everything (RFC 8555 section 7.3.6)", func(t *testing.T) {
			c := w.account(t)
			_, open := c.order("deactivated.test")
			got := c.post(c.kid, map[string]any{"status": "deactivated"}).want(http.StatusOK).account()
			if got.Status != acme.AccountDeactivated {
				t.Errorf("%+v", got)
			}
			c.post(c.kid, nil).problem(http.StatusUnauthorized, "unauthorized")
			c.post(open, nil).problem(http.StatusUnauthorized, "unauthorized")
			c.post(c.base+"/new-order", map[string]any{"identifiers": ids("x.test")}).problem(http.StatusUnauthorized, "unauthorized")
			if o, err := server.GetOrder(context.Background(), w.db.Read(), lastPart(open)); err != nil || o.State != acme.OrderInvalid {
				t.Errorf("open order is %s, %v", o.State, err)
			}
			kid := c.kid
			c.kid = ""
			c.post(c.base+"/new-account", map[string]any{}).problem(http.StatusUnauthorized, "unauthorized")
			c.kid = kid
		})
		t.Run("another account's URLs are refused", func(t *testing.T) {
			a, b := w.account(t), w.account(t)
			o, url := a.order("foreign.test")
			z := a.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
			for _, u := range []string{a.kid, a.kid + "/orders", url, o.Authorizations[0], z.Challenges[0].URL} {
				b.post(u, nil).problem(http.StatusForbidden, "unauthorized")
			}
			b.post(o.Finalize, map[string]string{"csr": csr(t, nil, "foreign.test")}).problem(http.StatusForbidden, "unauthorized")
			b.post(z.Challenges[0].URL, map[string]any{}).problem(http.StatusForbidden, "unauthorized")
			b.post(o.Authorizations[0], map[string]string{"status": "deactivated"}).problem(http.StatusForbidden, "unauthorized")
		})
		t.Run("the operator deactivates, lists and reads", func(t *testing.T) {
			ctx := context.Background()
			c := w.account(t)
			id := lastPart(c.kid)
			if err := w.DeactivateAccount(ctx, id, "token:ops"); err != nil {
				t.Fatal(err)
			}
			c.post(c.kid, nil).problem(http.StatusUnauthorized, "unauthorized")
			a, err := server.GetAccount(ctx, w.db.Read(), id)
			if err != nil || a.State != acme.AccountRevoked || a.Thumbprint != c.signer.PublicKey().Thumbprint || a.CreatedIP != "127.0.0.1" {
				t.Errorf("%+v %v", a, err)
			}
			if err := w.DeactivateAccount(ctx, id, "token:ops"); !fault.Is(err, fault.Conflict) {
				t.Errorf("twice: %v", err)
			}
			if _, err := server.GetAccount(ctx, w.db.Read(), "nope"); !fault.Is(err, fault.NotFound) {
				t.Error(err)
			}
			seen := 0
			for after := ""; ; {
				page, err := server.ListAccounts(ctx, w.db.Read(), after, 2)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					break
				}
				seen, after = seen+len(page), page[len(page)-1].ID
			}
			if seen < 5 {
				t.Errorf("listed %d accounts", seen)
			}
			wantJournal(t, w, "account:"+id, "account.create", "account.deactivate")
		})
	})
}

// wantJournal checks the kinds of the entries about a subject.
func wantJournal(t *testing.T, w *world, subject string, kinds ...string) {
	t.Helper()
	recs, err := audit.BySubject(context.Background(), w.db.Read(), subject, "", 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range recs {
		got = append(got, string(r.Kind))
	}
	if strings.Join(got, " ") != strings.Join(kinds, " ") {
		t.Errorf("journal of %s is %v, want %v", subject, got, kinds)
	}
}

func lastPart(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// atOnce runs f n times at the same time.
func atOnce[T any](n int, f func(int) T) []T {
	out := make([]T, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			out[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return out
}

func TestContacts(t *testing.T) {
	w := lite(t)
	for _, tc := range []struct{ contact, problem string }{
		{"mailto:a@example.test", ""},
		{"MAILTO:a@example.test", ""},
		{"tel:+123", "unsupportedContact"},
		{"https://example.test", "unsupportedContact"},
		{"a@example.test", "invalidContact"},
		{"mailto:a@example.test,b@example.test", "invalidContact"},
		{"mailto:a@example.test?subject=x", "invalidContact"},
		{"mailto:A <a@example.test>", "invalidContact"},
		{"mailto:", "invalidContact"},
		{"mailto:" + strings.Repeat("a", 400) + "@example.test", "invalidContact"},
	} {
		t.Run(tc.contact[:min(len(tc.contact), 40)], func(t *testing.T) {
			c := w.client(t)
			a := c.post(c.base+"/new-account", map[string]any{"contact": []string{tc.contact}})
			if tc.problem == "" {
				a.want(http.StatusCreated)
			} else {
				a.problem(http.StatusBadRequest, tc.problem)
			}
		})
	}
	c := w.client(t)
	c.post(c.base+"/new-account", map[string]any{"contact": make([]string, 11)}).problem(http.StatusBadRequest, "invalidContact")
}

func TestTermsOfService(t *testing.T) {
	const terms = "https://ca.test/terms"
	w := lite(t, forCA(func(a *server.CA) { a.TermsOfService = terms }))
	c := w.client(t)
	a := c.post(c.base+"/new-account", map[string]any{})
	if p := a.problem(http.StatusForbidden, "userActionRequired"); p.Instance != terms {
		t.Errorf("instance %q (RFC 8555 section 7.3.3)", p.Instance)
	}
	if l := a.links("terms-of-service"); len(l) != 1 || l[0] != terms {
		t.Errorf("links %v", l)
	}
	if got := c.post(c.base+"/new-account", map[string]any{"termsOfServiceAgreed": true}).want(http.StatusCreated).account(); !got.TermsOfServiceAgreed {
		t.Errorf("%+v", got)
	}
}

func TestKeyChange(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		roll := func(c *client, next *acme.Signer) *answer {
			t.Helper()
			inner, err := next.KeyChange(c.base+"/key-change", c.kid, c.signer.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			return c.send(c.base+"/key-change", c.sign(c.base+"/key-change", inner))
		}
		t.Run("the old key stops, the new one works (RFC 8555 section 7.3.5)", func(t *testing.T) {
			c := w.account(t)
			next := newSigner(t, pki.P384)
			roll(c, next).want(http.StatusOK)
			c.post(c.kid, nil).problem(http.StatusBadRequest, "badSignatureAlgorithm")
			c.signer = next
			c.post(c.kid, nil).want(http.StatusOK)
			wantJournal(t, w, "account:"+lastPart(c.kid), "account.create", "account.change_key")
		})
		t.Run("a key of another account is a conflict with its Location", func(t *testing.T) {
			a, b := w.account(t), w.account(t)
			got := roll(a, b.signer)
			got.problem(http.StatusConflict, "malformed")
			if got.Header.Get("Location") != b.kid {
				t.Errorf("Location %q, want %q", got.Header.Get("Location"), b.kid)
			}
			a.post(a.kid, nil).want(http.StatusOK)
		})
		t.Run("of two accounts that take one key at once, one gets it", func(t *testing.T) {
			next := newSigner(t, pki.P256)
			both := []*client{w.account(t), w.account(t)}
			codes := atOnce(2, func(i int) int { return roll(both[i], next).StatusCode })
			if codes[0]+codes[1] != http.StatusOK+http.StatusConflict {
				t.Errorf("statuses %v", codes)
			}
		})
		t.Run("of two changes of one account at once, one wins", func(t *testing.T) {
			c := w.account(t)
			signers := []*acme.Signer{newSigner(t, pki.P256), newSigner(t, pki.P256)}
			codes := atOnce(2, func(i int) int { return roll(c.copy(), signers[i]).StatusCode })
			won := 0
			for i, code := range codes {
				d := c.copy()
				d.signer = signers[i]
				ok := d.post(c.kid, nil).StatusCode == http.StatusOK
				if ok != (code == http.StatusOK) {
					t.Errorf("change %d answered %d, and its key works: %v", i, code, ok)
				}
				if ok {
					won++
				}
			}
			if won != 1 {
				t.Errorf("%d keys work: %v", won, codes)
			}
		})
		t.Run("the inner message must be about this account and key", func(t *testing.T) {
			a, b := w.account(t), w.account(t)
			next := newSigner(t, pki.P256)
			inner, err := next.KeyChange(a.base+"/key-change", b.kid, a.signer.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			a.send(a.base+"/key-change", a.sign(a.base+"/key-change", inner)).problem(http.StatusBadRequest, "malformed")
		})
		t.Run("another replica accepts the old key for no write", func(t *testing.T) {
			c := w.account(t)
			other := c.copy()
			cfg := w.cfg
			cfg.Replica = 0
			other.via = w.handler(w.replica(t, cfg))
			other.post(c.kid, nil).want(http.StatusOK) // now it is in that replica's cache
			roll(c, newSigner(t, pki.P256)).want(http.StatusOK)
			other.post(c.base+"/new-order", map[string]any{"identifiers": ids("stale.test")}).problem(http.StatusUnauthorized, "unauthorized")
			other.post(c.base+"/new-authz", map[string]any{"identifier": ids("stale.test")[0]}).problem(http.StatusUnauthorized, "unauthorized")
			other.post(c.kid, map[string]any{"contact": []string{}}).problem(http.StatusUnauthorized, "unauthorized")
		})
	})
}

func TestExternalAccountBinding(t *testing.T) {
	required := forCA(func(a *server.CA) { a.EABRequired = true })
	each(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		url := w.base + "/new-account"
		bind := func(c *client, kid string, secret []byte) map[string]any {
			t.Helper()
			eab, err := acme.SignEAB(url, kid, secret, acme.HS256, c.signer.PublicKey())
			if err != nil {
				t.Fatal(err)
			}
			return map[string]any{"externalAccountBinding": json.RawMessage(eab)}
		}
		key, secret, err := server.CreateEAB(ctx, w.db, w.secret, server.EABSpec{CA: "default", Label: "team"}, "token:ops")
		if err != nil {
			t.Fatal(err)
		}
		c := w.client(t)
		t.Run("none is refused (RFC 8555 section 7.3.4)", func(t *testing.T) {
			c.post(url, map[string]any{}).problem(http.StatusBadRequest, "externalAccountRequired")
			c.post(url, map[string]any{"externalAccountBinding": nil}).problem(http.StatusBadRequest, "externalAccountRequired")
		})
		t.Run("a wrong secret and an unknown key id look the same", func(t *testing.T) {
			p := c.post(url, bind(c, key.KID, bytes.Repeat([]byte{1}, 32))).problem(http.StatusForbidden, "unauthorized")
			q := c.post(url, bind(c, "nobody", secret)).problem(http.StatusForbidden, "unauthorized")
			if p.Detail != q.Detail {
				t.Errorf("%q and %q", p.Detail, q.Detail)
			}
		})
		t.Run("a binding over another key is refused", func(t *testing.T) {
			c.post(url, bind(w.client(t), key.KID, secret)).problem(http.StatusBadRequest, "malformed")
		})
		t.Run("the right one works once", func(t *testing.T) {
			a := c.post(url, bind(c, key.KID, secret)).want(http.StatusCreated).account()
			if len(a.ExternalAccountBinding) == 0 {
				t.Error("the account object does not show the binding")
			}
			d := w.client(t)
			d.post(url, bind(d, key.KID, secret)).problem(http.StatusForbidden, "unauthorized")
			c.post(url, map[string]any{}).want(http.StatusOK) // an existing account needs none
		})
		t.Run("of several accounts at once, one gets the key", func(t *testing.T) {
			key, secret, err := server.CreateEAB(ctx, w.db, w.secret, server.EABSpec{CA: "default", Label: "race"}, "token:ops")
			if err != nil {
				t.Fatal(err)
			}
			clients := []*client{w.client(t), w.client(t), w.client(t), w.client(t)}
			created := 0
			for _, code := range atOnce(4, func(i int) int { return clients[i].post(url, bind(clients[i], key.KID, secret)).StatusCode }) {
				if code == http.StatusCreated {
					created++
				}
			}
			if created != 1 {
				t.Errorf("%d accounts were made with one key", created)
			}
		})
		t.Run("revoked and expired keys, and those of another CA, are refused", func(t *testing.T) {
			gone, s1, _ := server.CreateEAB(ctx, w.db, w.secret, server.EABSpec{CA: "default", Label: "gone"}, "token:ops")
			if err := server.RevokeEAB(ctx, w.db, gone.KID, "token:ops"); err != nil {
				t.Fatal(err)
			}
			if err := server.RevokeEAB(ctx, w.db, gone.KID, "token:ops"); !fault.Is(err, fault.NotFound) {
				t.Error(err)
			}
			old, s2, _ := server.CreateEAB(ctx, w.db, w.secret, server.EABSpec{CA: "default", Label: "old", Life: time.Nanosecond}, "token:ops")
			foreign, s3, _ := server.CreateEAB(ctx, w.db, w.secret, server.EABSpec{CA: "other", Label: "foreign"}, "token:ops")
			for kid, secret := range map[string][]byte{gone.KID: s1, old.KID: s2, foreign.KID: s3} {
				d := w.client(t)
				d.post(url, bind(d, kid, secret)).problem(http.StatusForbidden, "unauthorized")
			}
			wantJournal(t, w, "eab:"+gone.KID, "eab.create", "eab.revoke")
		})
		t.Run("the list shows use and no secret", func(t *testing.T) {
			list, err := server.ListEAB(ctx, w.db.Read(), "", 100)
			if err != nil || len(list) != 5 {
				t.Fatalf("%d keys, %v", len(list), err)
			}
			if list[0].KID != key.KID || list[0].AccountID == "" || list[0].UsedAt.IsZero() || list[0].Label != "team" {
				t.Errorf("%+v", list[0])
			}
		})
	}, required)
}

// A key that leaked with thousands of others may have no account.
func TestWeakAccountKeys(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(fmt.Appendf(nil, "Modulus=%X\n", key.N))
	w := lite(t, func(c *server.Config) { c.WeakKeys = pki.WeakKeys{[10]byte(sum[10:]): {}} })
	c := w.client(t)
	if c.signer, err = acme.NewSigner(key); err != nil {
		t.Fatal(err)
	}
	c.post(c.base+"/new-account", map[string]any{}).problem(http.StatusBadRequest, "badPublicKey")
	w.account(t)
}
