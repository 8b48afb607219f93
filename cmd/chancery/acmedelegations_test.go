package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"chancery/internal/acme"
	"chancery/internal/api"
	"chancery/internal/app"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// acmeUser is somebody who speaks ACME with a server over HTTPS.
type acmeUser struct {
	t      *testing.T
	http   *http.Client
	dir    acme.Directory
	signer *acme.Signer
	kid    string
}

// newUser makes an account at the server of a shell.
func (s *shell) newUser() *acmeUser {
	s.t.Helper()
	var ready app.Ready
	text, err := os.ReadFile(s.path("ready.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	decode(s.t, string(text), &ready)
	root, err := os.ReadFile(ready.Root)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	u := &acmeUser{t: s.t, http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}}
	s.t.Cleanup(u.http.CloseIdleConnections)
	resp, err := u.http.Get(ready.Directory)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&u.dir); err != nil {
		s.t.Fatal(err)
	}
	key, err := keys.Generate(pki.P256)
	if err != nil {
		s.t.Fatal(err)
	}
	if u.signer, err = acme.NewSigner(key); err != nil {
		s.t.Fatal(err)
	}
	_, header := u.post(http.StatusCreated, u.dir.NewAccount, []byte(`{"termsOfServiceAgreed":true}`))
	u.kid = header.Get("Location")
	return u
}

// id is the account's id.
func (u *acmeUser) id() string { return u.kid[strings.LastIndexByte(u.kid, '/')+1:] }

// post sends a signed message that must be answered with a status.
func (u *acmeUser) post(status int, url string, payload []byte) (string, http.Header) {
	u.t.Helper()
	resp, err := u.http.Head(u.dir.NewNonce)
	if err != nil {
		u.t.Fatal(err)
	}
	resp.Body.Close()
	msg, err := u.signer.Sign(acme.Header{URL: url, Nonce: resp.Header.Get("Replay-Nonce"), KID: u.kid}, payload)
	if err != nil {
		u.t.Fatal(err)
	}
	if resp, err = u.http.Post(url, "application/jose+json", bytes.NewReader(msg)); err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		u.t.Fatalf("%s: %d %s %v", url, resp.StatusCode, body, err)
	}
	return string(body), resp.Header
}

// TestDelegationsCommand delegates as an operator does, and looks at it as the
// account does.
func TestDelegationsCommand(t *testing.T) {
	s, _ := startDev(t, "CHANCERY_CA_DEFAULT_DELEGATION=true")
	owner, ndc := s.newUser(), s.newUser()
	template := s.path("cdn.json")
	text := `{"keyTypes":[{"PublicKeyType":"id-ecPublicKey","namedCurve":"secp256r1","SignatureType":"ecdsa-with-SHA256"}],
		"extensions":{"subjectAltName":{"DNS":["www.ido.test"]}}}`
	if err := os.WriteFile(template, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	create := []string{"acme", "delegations", "create", "--account", ndc.id(), "--owner", owner.id(), "--template", template, "--cname", "www.ido.test.=ido.ndc.test."}
	if out := s.ok(append(create, "--dry-run")...); !strings.Contains(out, "would let account "+ndc.id()) {
		t.Error(out)
	}
	var made api.Delegation
	decode(t, s.ok(append(create, "--json")...), &made)
	if made.Account != ndc.id() || made.Owner != owner.id() || made.CNAMEs["www.ido.test."] != "ido.ndc.test." || made.Template == nil {
		t.Errorf("%+v", made)
	}
	if out := s.ok("acme", "delegations", "show", made.ID); !strings.Contains(out, "www.ido.test.=ido.ndc.test.") || !strings.Contains(out, "secp256r1") {
		t.Error(out)
	}
	account, _ := ndc.post(http.StatusOK, ndc.kid, nil)
	var a acme.Account
	decode(t, account, &a)
	list, _ := ndc.post(http.StatusOK, a.Delegations, nil)
	var l acme.DelegationList
	if decode(t, list, &l); len(l.Delegations) != 1 {
		t.Fatalf("%+v", l)
	}
	if object, _ := ndc.post(http.StatusOK, l.Delegations[0], nil); !strings.Contains(object, `"csr-template"`) || !strings.Contains(object, `"cname-map"`) {
		t.Error(object)
	}
	// The owner has authorized nothing yet.
	order := []byte(`{"identifiers":[{"type":"dns","value":"www.ido.test"}],"allow-certificate-get":true,"delegation":"` + l.Delegations[0] + `"}`)
	if problem, _ := ndc.post(http.StatusForbidden, ndc.dir.NewOrder, order); !strings.Contains(problem, "unauthorized") {
		t.Error(problem)
	}
	s.ok("acme", "delegations", "end", made.ID)
	if problem, _ := ndc.post(http.StatusForbidden, ndc.dir.NewOrder, order); !strings.Contains(problem, "unknownDelegation") {
		t.Error(problem)
	}
	var all []api.Delegation
	if decode(t, s.ok("acme", "delegations", "list", "--json"), &all); len(all) != 1 || all[0].EndedAt == nil {
		t.Errorf("%+v", all)
	}
	for _, bad := range [][]string{{"--account", ndc.id()}, {"--account", ndc.id(), "--owner", owner.id(), "--template", template, "--cname", "x"},
		{"--account", ndc.id(), "--owner", owner.id(), "--template", s.path("ready.json") + ".none"}} {
		var out, errs bytes.Buffer
		args := append([]string{"acme", "delegations", "create", "--data", s.path("data")}, bad...)
		if code := run(t.Context(), args, env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs}); code == exitOK {
			t.Errorf("%v: %s", bad, &out)
		}
	}
}
