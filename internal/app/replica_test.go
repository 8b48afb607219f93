package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/bus/bustest"
	"chancery/internal/db/dbtest"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// acmeClient speaks to a replica with nonces of the caller's choice.
type acmeClient struct {
	t         *testing.T
	signer    *acme.Signer
	directory acme.Directory
}

func newACMEClient(t *testing.T, in *instance) *acmeClient {
	t.Helper()
	key, err := keys.Generate(pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	c := &acmeClient{t: t}
	if c.signer, err = acme.NewSigner(key); err != nil {
		t.Fatal(err)
	}
	resp, err := in.client.Get(in.Directory)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&c.directory); err != nil {
		t.Fatal(err)
	}
	return c
}

// nonce asks a replica for one.
func (c *acmeClient) nonce(in *instance) string {
	c.t.Helper()
	resp, err := in.client.Head(c.directory.NewNonce)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.Header.Get("Replay-Nonce")
}

// account asks a replica for the client's account, and returns the status, the
// type of the problem and the nonce of the answer.
func (c *acmeClient) account(in *instance, nonce string) (status int, problem, next string) {
	c.t.Helper()
	body, err := c.signer.Sign(acme.Header{URL: c.directory.NewAccount, Nonce: nonce}, []byte(`{"termsOfServiceAgreed":true}`))
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := in.client.Post(c.directory.NewAccount, "application/jose+json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var p struct{ Type string }
	if err := json.Unmarshal(text, &p); err != nil {
		c.t.Fatalf("%s: %v", text, err)
	}
	return resp.StatusCode, p.Type, resp.Header.Get("Replay-Nonce")
}

// Two replicas on one database and one external bus: a nonce of one is good on
// the other, once (RFC 8555 section 6.5). Without the bus clients are told to
// try again, and changes still arrive.
func TestReplicasRedeemEachOthersNonces(t *testing.T) {
	servers := bustest.Start(t, 1)
	first := configure(t, dbtest.PostgresURL(t))
	first.Bus.URL = servers.URL()
	second := configure(t, first.Database.URL)
	second.Bus.URL, second.Server.URL = servers.URL(), first.Server.URL
	second.Keys.Dir = filepath.Join(first.Server.Data, "keys")
	a := start(t, first)
	b := start(t, second) // with a token of its own, which does not end that of the first
	c := newACMEClient(t, a)
	for i, from := range []*instance{a, b} {
		to := []*instance{b, a}[i]
		nonce := c.nonce(from)
		if status, problem, _ := c.account(to, nonce); status != http.StatusCreated && status != http.StatusOK {
			t.Fatalf("a nonce of another replica: %d %s", status, problem)
		}
		for _, in := range []*instance{a, b} {
			if status, problem, _ := c.account(in, nonce); status != http.StatusBadRequest || problem != "urn:ietf:params:acme:error:badNonce" {
				t.Errorf("a nonce was accepted twice: %d %s", status, problem)
			}
		}
	}
	other := configure(t, dbtest.SQLiteURL(t)) // another installation on the same server
	other.Bus.URL, other.Bus.Prefix, other.Server.URL = servers.URL(), "other", first.Server.URL
	if status, problem, _ := c.account(start(t, other), c.nonce(a)); problem != "urn:ietf:params:acme:error:badNonce" {
		t.Errorf("another installation redeemed a nonce: %d %s", status, problem)
	}
	servers.Stop(0)
	status, problem, next := c.account(b, c.nonce(a))
	if status != http.StatusBadRequest || problem != "urn:ietf:params:acme:error:badNonce" || next == "" {
		t.Errorf("without a bus: %d %s", status, problem)
	}
	if status, problem, _ = c.account(b, next); status != http.StatusOK {
		t.Errorf("the second attempt: %d %s", status, problem)
	}
	made, err := client.Post[api.Authority](context.Background(), a.api, "/authorities/issuing", map[string]any{"ca": "default"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "an authority made on the other replica, without a bus", 30*time.Second, func() bool {
		_, err := client.Get[api.Authority](context.Background(), b.api, "/authorities/"+made.ID, nil)
		return err == nil
	})
	servers.StartAgain(0)
	eventually(t, "nonces of the other replica again", 30*time.Second, func() bool {
		status, _, _ := c.account(b, c.nonce(a))
		return status == http.StatusOK
	})
}
