package mailreply_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net"
	"net/mail"
	"net/smtp"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"chancery/internal/acme/mailreply"
	"chancery/internal/fault"
)

const (
	part1 = "V4nE8NhYh6edBpfQTg5qqQVV"
	msgID = "<1@ca.test>"
)

// domain is one that signs its mail.
type domain struct {
	name   string
	signer *mailreply.Signer
	record string
}

func newDomain(t testing.TB, name string) *domain {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &domain{name, &mailreply.Signer{Domain: name, Selector: "s", Key: key}, "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(pub)}
}

// lookup answers for the keys of domains.
func lookup(list ...*domain) func(string) ([]string, error) {
	return func(name string) ([]string, error) {
		for _, d := range list {
			if name == "s._domainkey."+d.name {
				return []string{d.record}, nil
			}
		}
		return nil, errors.New("no such name")
	}
}

func (d *domain) sign(t testing.TB, message string) []byte {
	t.Helper()
	out, err := d.signer.Sign([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// foreign is a reply as acmez, which none of us wrote, makes it.
func foreign(t testing.TB) string {
	t.Helper()
	const token2 = "x6I65YvEk6xC4KV0QMvdJw"
	c := acme.Challenge{From: "acme@ca.test", Identifier: acme.Identifier{Type: "email", Value: "a@user.test"}, Token: token2,
		KeyAuthorization: token2 + ".hC4xyXNn8ZDH4yrcp93Zj3qgQs7LyT_GUL45YD7IVMQ"}
	text, err := acmez.MailReplyChallengeResponse(c, "ACME: "+part1, msgID, "")
	if err != nil {
		t.Fatal(err)
	}
	return "Date: Sun, 22 Nov 2026 10:00:00 +0000\r\nMessage-ID: <2@user.test>\r\n" + text
}

func TestChallengeMessage(t *testing.T) { // RFC 8823 section 3.1
	d := newDomain(t, "ca.test")
	c := mailreply.Challenge{From: "acme@ca.test", To: "a@user.test", Part1: part1, MessageID: msgID, At: time.Now()}
	signed := d.sign(t, string(c.Compose()))
	m, err := mail.ReadMessage(strings.NewReader(string(signed)))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"From": "<acme@ca.test>", "To": "<a@user.test>", "Subject": "ACME: " + part1, "Message-Id": msgID,
		"Auto-Submitted": "auto-generated; type=acme", "Content-Type": "text/plain; charset=us-ascii"} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	list, err := dkim.VerifyWithOptions(strings.NewReader(string(signed)), &dkim.VerifyOptions{LookupTXT: lookup(d)})
	if err != nil || len(list) != 1 || list[0].Err != nil || list[0].Domain != "ca.test" {
		t.Fatalf("%+v, %v", list, err)
	}
	keys := strings.ToLower(strings.Join(list[0].HeaderKeys, " "))
	for _, name := range []string{"from", "sender", "reply-to", "to", "cc", "subject", "date", "in-reply-to", "references", "message-id", "auto-submitted", "content-type", "content-transfer-encoding"} {
		if !strings.Contains(keys, name) {
			t.Errorf("h= lacks %s: %s", name, keys)
		}
	}
	if strings.Contains(string(signed[strings.Index(string(signed), "\r\n\r\n"):]), part1) {
		t.Error("the token is in the text, too")
	}
}

func TestReplies(t *testing.T) { // RFC 8823 section 3.2
	user, other := newDomain(t, "user.test"), newDomain(t, "other.test")
	keys := lookup(user, other)
	reply := foreign(t)
	got, err := mailreply.Parse(user.sign(t, reply), keys)
	if err != nil || got.From.Value != "a@user.test" || got.Part1 != part1 || len(got.InReplyTo) != 1 || got.InReplyTo[0] != msgID || len(got.Digest) != 43 {
		t.Fatalf("%+v, %v", got, err)
	}
	change := func(old, new string) string {
		t.Helper()
		if !strings.Contains(reply, old) {
			t.Fatalf("the reply has no %q", old)
		}
		return strings.Replace(reply, old, new, 1)
	}
	digest := got.Digest
	for name, text := range map[string]string{
		"a reply prefix of another language": change("Subject: RE: ", "Subject: Antw: Re: "),
		"an encoded subject":                 change("Subject: RE: ACME: "+part1, "Subject: =?utf-8?q?Re=3A_ACME=3A_"+part1+"?="),
		"white space in the digest":          change(digest, digest[:20]+"\r\n  "+digest[20:]+" "),
		"padding":                            change(digest, digest+"="),
		"text around it":                     change("-----BEGIN", "Hello,\r\n\r\n-----BEGIN"),
		"quoted-printable":                   change("Content-Type: text/plain\r\n", "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n"),
		"several ids":                        change(msgID, "<0@ca.test> "+msgID),
		"no Content-Type":                    change("Content-Type: text/plain\r\n", ""),
		"a name before the address":          change("From: a@user.test", `From: "A, B" <a@user.test>`),
		"a domain in another case":           change("From: a@user.test", "From: a@User.TEST"),
		"multipart/alternative":              multipart(reply, "multipart/alternative"),
	} {
		if r, err := mailreply.Parse(user.sign(t, text), keys); err != nil || r.Digest != digest || r.Part1 != part1 {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	for name, raw := range map[string][]byte{
		"no message":                       []byte("x"),
		"too long":                         user.sign(t, reply+strings.Repeat("x", mailreply.MaxMessage)),
		"no signature":                     []byte(reply),
		"another domain's signature":       other.sign(t, reply),
		"changed after it was signed":      []byte(strings.Replace(string(user.sign(t, reply)), digest, strings.Repeat("A", 43), 1)),
		"another sender after it":          []byte(strings.Replace(string(user.sign(t, reply)), "From: a@", "From: b@", 1)),
		"a key that nobody published":      newDomain(t, "nobody.test").sign(t, change("a@user.test", "a@nobody.test")),
		"two From fields":                  append([]byte("From: victim@user.test\r\n"), user.sign(t, reply)...),
		"two senders":                      user.sign(t, change("From: a@user.test", "From: a@user.test, b@user.test")),
		"no sender":                        user.sign(t, change("From: a@user.test", "From: nobody")),
		"no In-Reply-To":                   user.sign(t, change("In-Reply-To: "+msgID+"\r\n", "")),
		"two subjects":                     user.sign(t, change("Subject: ", "Subject: x\r\nSubject: ")),
		"another subject":                  user.sign(t, change("ACME: ", "Hello: ")),
		"a short token":                    user.sign(t, change(part1, "AAAA")),
		"something behind the token":       user.sign(t, change(part1, part1+" x")),
		"text/html":                        user.sign(t, change("text/plain", "text/html")),
		"multipart/mixed":                  user.sign(t, multipart(reply, "multipart/mixed")),
		"an unknown encoding":              user.sign(t, change("Content-Type: text/plain\r\n", "Content-Type: text/plain\r\nContent-Transfer-Encoding: x-zip\r\n")),
		"no beginning":                     user.sign(t, change("BEGIN ACME", "START ACME")),
		"no end":                           user.sign(t, change("END ACME", "STOP ACME")),
		"a short digest":                   user.sign(t, change(digest, digest[:42])),
		"no digest":                        user.sign(t, change(digest, "****")),
		"a signature without the subject":  partly(t, user, reply, "From", "To", "Date", "In-Reply-To", "Message-ID", "Content-Type"),
		"a signature without In-Reply-To":  partly(t, user, reply, "From", "To", "Date", "Subject", "Message-ID", "Content-Type"),
		"a signature without Content-Type": partly(t, user, reply, "From", "To", "Date", "Subject", "Message-ID", "In-Reply-To"),
	} {
		if r, err := mailreply.Parse(raw, keys); !fault.Is(err, fault.IncorrectResponse) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	later := func(string) ([]string, error) { return nil, &net.DNSError{Err: "SERVFAIL", IsTemporary: true} }
	if _, err := mailreply.Parse(user.sign(t, reply), later); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a key that cannot be looked up now: %v", err)
	}
}

// multipart wraps the text of a reply.
func multipart(reply, kind string) string {
	head, text, _ := strings.Cut(reply, "Content-Type: text/plain\r\n\r\n")
	return head + "Content-Type: " + kind + "; boundary=x\r\n\r\n--x\r\nContent-Type: text/html\r\n\r\n<p>Hello\r\n--x\r\nContent-Type: text/plain\r\n\r\n" + text + "\r\n--x--\r\n"
}

// partly signs only some fields.
func partly(t testing.TB, d *domain, message string, fields ...string) []byte {
	t.Helper()
	var out strings.Builder
	if err := dkim.Sign(&out, strings.NewReader(message), &dkim.SignOptions{Domain: d.name, Selector: "s", Signer: d.signer.Key, HeaderKeys: fields}); err != nil {
		t.Fatal(err)
	}
	return []byte(out.String())
}

func TestIntake(t *testing.T) {
	user := newDomain(t, "user.test")
	for name, lmtp := range map[string]bool{"smtp": false, "lmtp": true} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			replies, fail := make(chan *mailreply.Reply, 10), error(nil)
			in := &mailreply.Intake{Address: "acme@ca.test", LMTP: lmtp, Lookup: lookup(user), Handle: func(_ context.Context, r *mailreply.Reply) error {
				replies <- r
				return fail
			}}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- in.Serve(ctx, ln) }()
			addr := ln.Addr().String()
			send := func(to string, message []byte) error {
				if lmtp {
					return deliver(addr, to, message)
				}
				return smtp.SendMail(addr, nil, "a@user.test", []string{to}, message)
			}
			if err := send("acme@ca.test", user.sign(t, foreign(t))); err != nil {
				t.Fatal(err)
			}
			if r := <-replies; r.Part1 != part1 {
				t.Errorf("%+v", r)
			}
			for what, err := range map[string]error{"another mailbox": send("root@ca.test", user.sign(t, foreign(t))), "no signature": send("acme@ca.test", []byte(foreign(t))),
				"too long": send("acme@ca.test", user.sign(t, foreign(t)+strings.Repeat("x\r\n", mailreply.MaxMessage/3)))} {
				if err == nil || !strings.HasPrefix(err.Error(), "55") {
					t.Errorf("%s: %v, want a permanent refusal", what, err)
				}
			}
			fail = errors.New("the database is away")
			if err := send("acme@ca.test", user.sign(t, foreign(t))); err == nil || !strings.HasPrefix(err.Error(), "451") {
				t.Errorf("a failure of ours: %v, want 451", err)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// deliver hands a message over by LMTP (RFC 2033).
func deliver(addr, to string, message []byte) error {
	c, err := textproto.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, _, err := c.ReadResponse(220); err != nil {
		return err
	}
	for _, step := range []struct {
		line string
		code int
	}{{"LHLO mx.test", 250}, {"MAIL FROM:<a@user.test>", 250}, {"RCPT TO:<" + to + ">", 250}, {"DATA", 354}} {
		if err := c.PrintfLine("%s", step.line); err != nil {
			return err
		}
		if _, _, err := c.ReadResponse(step.code); err != nil {
			return err
		}
	}
	w := c.DotWriter()
	if _, err := w.Write(message); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, _, err = c.ReadResponse(250)
	return err
}

func FuzzParse(f *testing.F) {
	user := newDomain(f, "user.test")
	f.Add(user.sign(f, foreign(f)))
	f.Add([]byte(multipart(foreign(f), "multipart/alternative")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := mailreply.Parse(raw, lookup(user))
		if err == nil && (r.From.Domain() != "user.test" || r.Part1 == "" || len(r.Digest) != 43) {
			t.Errorf("%+v", r)
		}
		if err != nil && fault.As(err).Status() >= 500 && !fault.Is(err, fault.Unavailable) {
			t.Error(err)
		}
	})
}
