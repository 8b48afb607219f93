package mailreply

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Bounds of a reply. Quoting the challenge takes 1 KB.
const (
	MaxMessage    = 256 << 10
	maxText       = 64 << 10
	maxParts      = 10
	maxSignatures = 5
)

// Reply is a reply whose signature verified (RFC 8823 section 3.2).
type Reply struct {
	From      pki.Identifier
	Part1     string   // from its subject
	InReplyTo []string // message ids with their angle brackets
	Digest    string   // base64url of SHA-256 of the key authorization
}

func bad(format string, args ...any) error {
	return fault.New(fault.IncorrectResponse, "the reply is not acceptable: "+format, args...)
}

// subject finds the token behind any number of "Re:" and the like.
var subject = regexp.MustCompile(`^(?:[A-Za-z]{1,10}: *)*ACME: *([A-Za-z0-9_-]{22,128})$`)

// Parse reads a message. lookup returns the TXT records of a name, for DKIM.
// Errors are *fault.Error: incorrectResponse, or unavailable when the signer's
// key could not be looked up and the message may come again.
func Parse(raw []byte, lookup func(name string) ([]string, error)) (*Reply, error) {
	if len(raw) > MaxMessage {
		return nil, bad("it has more than %d octets", MaxMessage)
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return nil, bad("it is no message of RFC 5322")
	}
	r := &Reply{}
	if r.From, err = sender(m.Header); err != nil {
		return nil, err
	}
	if err := r.readSubject(m.Header); err != nil {
		return nil, err
	}
	// Whatever is cheap comes before the network is asked.
	text, err := plainText(textproto.MIMEHeader(m.Header), m.Body, 0)
	if err != nil {
		return nil, err
	}
	if r.Digest, err = response(text); err != nil {
		return nil, err
	}
	return r, authentic(raw, m.Header, r.From.Domain(), lookup)
}

// sender returns the one address that the message is from.
func sender(h mail.Header) (pki.Identifier, error) {
	if len(h["From"]) != 1 {
		return pki.Identifier{}, bad("it must have one From field")
	}
	list, err := mail.ParseAddressList(h.Get("From"))
	if err != nil || len(list) != 1 {
		return pki.Identifier{}, bad("it must be from one address")
	}
	id, err := pki.ParseIdentifier(pki.Email, list[0].Address)
	if err != nil {
		return id, bad("it is from no address that could be certified")
	}
	return id, nil
}

// readSubject reads the token, and which message is answered.
func (r *Reply) readSubject(h mail.Header) error {
	if len(h["Subject"]) != 1 || len(h["In-Reply-To"]) != 1 {
		return bad("it must have one Subject and one In-Reply-To field")
	}
	text, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
	if err != nil {
		return bad("its subject cannot be read")
	}
	found := subject.FindStringSubmatch(strings.TrimSpace(text))
	if found == nil {
		return bad(`its subject is not that of the challenge, "ACME: " and a token`)
	}
	r.Part1 = found[1]
	r.InReplyTo = strings.Fields(h.Get("In-Reply-To"))
	return nil
}

// plainText returns the text/plain of a body, or of its multipart/alternative.
func plainText(h textproto.MIMEHeader, body io.Reader, depth int) (string, error) {
	kind, params := "text/plain", map[string]string(nil)
	if v := h.Get("Content-Type"); v != "" {
		var err error
		if kind, params, err = mime.ParseMediaType(v); err != nil {
			return "", bad("its Content-Type cannot be read")
		}
	}
	switch {
	case kind == "text/plain":
		return decoded(h.Get("Content-Transfer-Encoding"), body)
	case kind == "multipart/alternative" && depth == 0 && params["boundary"] != "":
		parts := multipart.NewReader(body, params["boundary"])
		for range maxParts {
			part, err := parts.NextRawPart()
			if err != nil {
				break
			}
			if kind, _, err := mime.ParseMediaType(part.Header.Get("Content-Type")); err == nil && kind == "text/plain" {
				return plainText(part.Header, part, depth+1)
			}
		}
	}
	return "", bad("it must be text/plain, or multipart/alternative with such a part")
}

// decoded reads a text in its transfer encoding.
func decoded(encoding string, body io.Reader) (string, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "7bit", "8bit":
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	default:
		return "", bad("its transfer encoding is unknown")
	}
	text, err := io.ReadAll(io.LimitReader(body, maxText+1))
	if err != nil || len(text) > maxText {
		return "", bad("its text cannot be read, or is longer than %d octets", maxText)
	}
	return string(text), nil
}

// Lines around the response (RFC 8823 section 3.2).
const (
	beginResponse = "-----BEGIN ACME RESPONSE-----"
	endResponse   = "-----END ACME RESPONSE-----"
)

// response returns the digest in a text; white space in it does not count.
func response(text string) (string, error) {
	_, rest, ok := strings.Cut(text, beginResponse)
	inner, _, closed := strings.Cut(rest, endResponse)
	digest := strings.TrimRight(strings.Join(strings.Fields(inner), ""), "=")
	if sum, err := base64.RawURLEncoding.Strict().DecodeString(digest); !ok || !closed || err != nil || len(sum) != 32 {
		return "", bad("it has no SHA-256 in base64url between %q and %q", beginResponse, endResponse)
	}
	return digest, nil
}

// authentic wants a DKIM signature of the domain that the message is from, over
// all fields that RFC 8823 section 3.2 lists and that the message has.
func authentic(raw []byte, h mail.Header, domain string, lookup func(string) ([]string, error)) error {
	list, err := dkim.VerifyWithOptions(bytes.NewReader(crlf(raw)), &dkim.VerifyOptions{LookupTXT: lookup, MaxVerifications: maxSignatures})
	if err != nil && !errors.Is(err, dkim.ErrTooManySignatures) {
		return bad("its DKIM signature cannot be read")
	}
	later := false
	for _, v := range list {
		if !strings.EqualFold(v.Domain, domain) {
			continue
		}
		if v.Err != nil {
			later = later || dkim.IsTempFail(v.Err)
			continue
		}
		if missing := unsigned(h, v.HeaderKeys); missing != "" {
			return bad("its DKIM signature does not cover %s", missing)
		}
		return nil
	}
	if later {
		return fault.New(fault.Unavailable, "the key of the DKIM signature of %s cannot be looked up now", domain).Retry(time.Minute)
	}
	return bad("it has no good DKIM signature of %s", domain)
}

// unsigned returns a field of the message that must be signed and is not.
func unsigned(h mail.Header, keys []string) string {
	for _, name := range signedFields {
		if h.Get(name) != "" && !slices.ContainsFunc(keys, func(k string) bool { return strings.EqualFold(strings.TrimSpace(k), name) }) {
			return name
		}
	}
	return ""
}

// crlf brings line ends into the form that signatures are over; a message that
// came by SMTP has it.
func crlf(raw []byte) []byte {
	if !bytes.Contains(raw, []byte("\n")) || bytes.Contains(raw, []byte("\r\n")) {
		return raw
	}
	return bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
}
