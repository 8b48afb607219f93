package server_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/mailreply"
	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// office is a post office: what the server mailed, and the key that replies are
// signed with.
type office struct {
	mu   sync.Mutex
	sent map[string]*mail.Message // by recipient
	fail error
	key  ed25519.PrivateKey
	txt  string
}

var errNoMailbox = errors.New("550 no such mailbox")

// forMail adds a profile "mail" and an office.
func forMail(t testing.TB) (*office, option) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := &office{sent: map[string]*mail.Message{}, key: key, txt: "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)}
	return o, func(c *server.Config) {
		p := ca.DefaultProfiles()[0]
		p.Name, p.Identifiers, p.ExtKeyUsage = "mail", []pki.IdentifierType{pki.Email}, []asn1.ObjectIdentifier{pki.EKUEmailProtection}
		registered, err := c.Issuer.Register(context.Background(), []ca.Profile{p})
		if err != nil {
			t.Fatal(err)
		}
		c.Mail = &server.Mail{Address: "acme@ca.test", Send: o.send, Final: func(err error) bool { return errors.Is(err, errNoMailbox) }}
		forCA(func(d *server.CA) {
			d.Profiles = append(d.Profiles, server.Profile{Profile: registered["mail"], Challenges: []challenge.Type{challenge.EmailReply00}})
		})(c)
	}
}

func (o *office) send(_ context.Context, to string, text []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	m, err := mail.ReadMessage(strings.NewReader(string(text)))
	o.sent[to] = m
	return err
}

// part1 returns the token in what was sent to an address.
func (o *office) part1(t testing.TB, to string) (token, messageID string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	m := o.sent[to]
	if m == nil {
		t.Fatalf("nothing was sent to %s", to)
	}
	return strings.TrimPrefix(m.Header.Get("Subject"), "ACME: "), m.Header.Get("Message-Id")
}

// reply answers what was sent to an address, from another one if from is set.
func (w *world) reply(t testing.TB, o *office, to, from, digest string) error {
	t.Helper()
	token, id := o.part1(t, to)
	if from == "" {
		from = to
	}
	message := fmt.Sprintf("From: %s\r\nTo: acme@ca.test\r\nSubject: Re: ACME: %s\r\nIn-Reply-To: %s\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <r@x.test>\r\n"+
		"Content-Type: text/plain\r\n\r\n-----BEGIN ACME RESPONSE-----\r\n%s\r\n-----END ACME RESPONSE-----\r\n", from, token, id, digest)
	s := &mailreply.Signer{Domain: from[strings.LastIndexByte(from, '@')+1:], Selector: "s", Key: o.key}
	signed, err := s.Sign([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	r, err := mailreply.Parse(signed, func(string) ([]string, error) { return []string{o.txt}, nil })
	if err != nil {
		t.Fatal(err)
	}
	return w.MailReply(t.Context(), r)
}

// digest is what a client answers: over the whole token.
func (c *client) digest(t testing.TB, o *office, to string, ch acme.Challenge) string {
	t.Helper()
	token, _ := o.part1(t, to)
	sum := sha256.Sum256([]byte(acme.KeyAuthorization(token+ch.Token, c.signer.PublicKey().Thumbprint)))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// mailbox orders an address, lets the challenge be mailed, and returns it.
func (c *client) mailbox(t testing.TB, address string) (acme.Order, string, acme.Challenge) {
	t.Helper()
	o, url := c.orderWith(map[string]any{"profile": "mail", "identifiers": []map[string]string{{"type": "email", "value": address}}})
	z := c.post(o.Authorizations[0], nil).want(http.StatusOK).authz()
	if len(z.Challenges) != 1 {
		t.Fatalf("%+v", z)
	}
	if _, err := c.w.SendMail(context.Background(), time.Now()); err != nil {
		t.Fatal(err)
	}
	return o, url, z.Challenges[0]
}

func TestEmailReply00(t *testing.T) { // RFC 8823
	o, opt := forMail(t)
	each(t, func(t *testing.T, w *world) {
		w.dns.Add("user.test. 60 IN A 127.0.0.1")
		t.Run("message, reply, certificate", func(t *testing.T) {
			c := w.account(t)
			order, _, ch := c.mailbox(t, "Ann.Lee@user.test")
			if ch.Type != "email-reply-00" || ch.From != "acme@ca.test" || len(ch.Token) < 22 {
				t.Errorf("%+v", ch)
			}
			token, _ := o.part1(t, "Ann.Lee@user.test")
			if len(token) < 22 || token == ch.Token {
				t.Errorf("the mailed part is %q, the other %q", token, ch.Token)
			}
			if n, err := w.SendMail(t.Context(), time.Now()); err != nil || n.Claimed != 0 {
				t.Errorf("sent again: %+v, %v", n, err)
			}
			if err := w.reply(t, o, "Ann.Lee@user.test", "", c.digest(t, o, "Ann.Lee@user.test", ch)); err != nil {
				t.Fatal(err)
			}
			if got := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge(); got.Status != acme.ChallengeValid {
				t.Fatalf("%+v", got)
			}
			order = c.post(order.Finalize, map[string]string{"csr": csrOf(t, &x509.CertificateRequest{EmailAddresses: []string{"Ann.Lee@user.test"}})}).want(http.StatusOK).order()
			cert := c.download(order.Certificate)
			if len(cert.EmailAddresses) != 1 || cert.EmailAddresses[0] != "Ann.Lee@user.test" || len(cert.DNSNames) != 0 ||
				len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageEmailProtection {
				t.Errorf("%v %v %v", cert.EmailAddresses, cert.DNSNames, cert.ExtKeyUsage)
			}
		})
		t.Run("a reply that comes after the client's answer", func(t *testing.T) {
			c := w.account(t)
			_, _, ch := c.mailbox(t, "late@user.test")
			if got := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge(); got.Status != acme.ChallengeProcessing {
				t.Errorf("%+v", got)
			}
			if err := w.reply(t, o, "late@user.test", "", c.digest(t, o, "late@user.test", ch)); err != nil {
				t.Fatal(err)
			}
			// It is being validated, or has been: this answer waits for the result.
			if got := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge(); got.Status != acme.ChallengeValid {
				t.Errorf("%+v", got)
			}
		})
		t.Run("another key's digest", func(t *testing.T) {
			c, d := w.account(t), w.account(t)
			_, orderURL, ch := c.mailbox(t, "wrong@user.test")
			if err := w.reply(t, o, "wrong@user.test", "", d.digest(t, o, "wrong@user.test", ch)); err != nil {
				t.Fatal(err)
			}
			got := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge()
			if got.Status != acme.ChallengeInvalid || got.Error == nil || got.Error.Type != "urn:ietf:params:acme:error:incorrectResponse" {
				t.Errorf("%+v", got)
			}
			if order := c.post(orderURL, nil).order(); order.Status != acme.OrderInvalid {
				t.Errorf("%+v", order)
			}
		})
		t.Run("replies that belong to nothing", func(t *testing.T) {
			c := w.account(t)
			_, _, ch := c.mailbox(t, "mine@user.test")
			good := c.digest(t, o, "mine@user.test", ch)
			if err := w.reply(t, o, "mine@user.test", "else@user.test", good); !fault.Is(err, fault.IncorrectResponse) {
				t.Errorf("from another mailbox: %v", err)
			}
			token, id := o.part1(t, "mine@user.test")
			from := pki.Identifier{Type: pki.Email, Value: "mine@user.test"}
			for what, r := range map[string]*mailreply.Reply{
				"another message's id": {From: from, Part1: token, InReplyTo: []string{"<other@ca.test>"}, Digest: good},
				"no id":                {From: from, Part1: token, Digest: good},
				"another token":        {From: from, Part1: "AAAAAAAAAAAAAAAAAAAAAAAA", InReplyTo: []string{id}, Digest: good},
			} {
				if err := w.MailReply(t.Context(), r); !fault.Is(err, fault.IncorrectResponse) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := w.reply(t, o, "mine@user.test", "", good); err != nil {
				t.Error(err)
			}
			if err := w.reply(t, o, "mine@user.test", "", strings.Repeat("A", 43)); !fault.Is(err, fault.IncorrectResponse) {
				t.Errorf("a second reply: %v", err)
			}
			if got := c.post(ch.URL, map[string]any{}).challenge(); got.Status != acme.ChallengeValid {
				t.Errorf("%+v", got)
			}
		})
		t.Run("mail that cannot be delivered", func(t *testing.T) {
			c := w.account(t)
			o.fail = errors.New("421 later")
			_, _, ch := c.mailbox(t, "away@user.test")
			o.fail = errNoMailbox
			if n, err := w.SendMail(t.Context(), time.Now().Add(time.Minute)); err != nil || n.Claimed != 1 {
				t.Errorf("not tried again: %+v, %v", n, err)
			}
			o.fail = nil
			if n, err := w.SendMail(t.Context(), time.Now().Add(time.Hour)); err != nil || n.Claimed != 0 {
				t.Errorf("tried after a final refusal: %+v, %v", n, err)
			}
			got := c.post(ch.URL, map[string]any{}).want(http.StatusOK).challenge()
			if got.Status != acme.ChallengeInvalid || got.Error == nil || got.Error.Type != "urn:ietf:params:acme:error:connection" {
				t.Errorf("%+v", got)
			}
		})
		t.Run("CAA of the domain, by issuemail (RFC 9495)", func(t *testing.T) {
			w.dns.Add(`closed.test. 60 IN CAA 0 issuemail ";"`)
			w.dns.Add(`hosts.test. 60 IN CAA 0 issue ";"`)
			for address, want := range map[string]acme.ChallengeStatus{"a@closed.test": acme.ChallengeInvalid, "a@hosts.test": acme.ChallengeValid} {
				c := w.account(t)
				_, _, ch := c.mailbox(t, address)
				if err := w.reply(t, o, address, "", c.digest(t, o, address, ch)); err != nil {
					t.Fatal(err)
				}
				if got := c.post(ch.URL, map[string]any{}).challenge(); got.Status != want {
					t.Errorf("%s: %+v", address, got)
				}
			}
		})
		t.Run("orders and requests that are refused", func(t *testing.T) {
			c := w.account(t)
			order := func(profile string, list ...map[string]string) *answer {
				return c.post(c.base+"/new-order", map[string]any{"profile": profile, "identifiers": list})
			}
			box := map[string]string{"type": "email", "value": "x@user.test"}
			order("tls", box).problem(http.StatusBadRequest, "rejectedIdentifier")
			order("mail", map[string]string{"type": "dns", "value": "user.test"}).problem(http.StatusBadRequest, "rejectedIdentifier")
			order("mail", map[string]string{"type": "email", "value": "user.test"}).problem(http.StatusBadRequest, "malformed")
			ready, _, ch := c.mailbox(t, "csr@user.test")
			if err := w.reply(t, o, "csr@user.test", "", c.digest(t, o, "csr@user.test", ch)); err != nil {
				t.Fatal(err)
			}
			c.post(ch.URL, map[string]any{}).want(http.StatusOK)
			for _, bad := range []*x509.CertificateRequest{{EmailAddresses: []string{"other@user.test"}}, {EmailAddresses: []string{"csr@user.test"}, DNSNames: []string{"user.test"}}, {}} {
				c.post(ready.Finalize, map[string]string{"csr": csrOf(t, bad)}).problem(http.StatusBadRequest, "badCSR")
			}
		})
		t.Run("one address gets ten messages a day", func(t *testing.T) {
			for i := range 11 {
				c := w.account(t)
				a := c.post(c.base+"/new-order", map[string]any{"profile": "mail", "identifiers": []map[string]string{{"type": "email", "value": "victim@user.test"}}})
				if want := i < 10; (a.StatusCode == http.StatusCreated) != want {
					t.Errorf("order %d: %d %s", i, a.StatusCode, a.body)
				}
			}
		})
	}, opt)
}

func TestEmailReply00IsOptIn(t *testing.T) {
	w := lite(t)
	c := w.account(t)
	c.post(c.base+"/new-order", map[string]any{"identifiers": []map[string]string{{"type": "email", "value": "a@user.test"}}}).
		problem(http.StatusBadRequest, "rejectedIdentifier")
	if n, err := w.SendMail(t.Context(), time.Now()); err != nil || n.Claimed != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	_, opt := forMail(t)
	cfg := w.cfg
	opt(&cfg)
	cfg.Mail = nil
	if s, err := server.New(cfg); !fault.Is(err, fault.Invalid) {
		t.Errorf("a profile without mail server: %v, %v", s, err)
	}
}
