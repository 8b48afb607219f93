package pki

import (
	"encoding/base64"
	"strings"
	"testing"

	"chancery/internal/fault"
)

func TestTNAuthLists(t *testing.T) { // RFC 8226 section 9
	code := "\xa0\x06\x16\x04709J"
	number := "\xa2\x0d\x16\x0b15551234567"
	span := "\xa1\x12\x30\x10\x16\x0b15551234567\x02\x01\x0a"
	text := func(der string) string { return base64.RawURLEncoding.EncodeToString([]byte(der)) }
	seq := func(body string) string { return string(tlv(tagSequence, []byte(body))) }
	for der, subject := range map[string]string{
		seq(code):                 "SHAKEN 709J",
		seq(number):               "TN 15551234567",
		seq(span):                 "TN 15551234567 and 9 more",
		seq(code + span + number): "SHAKEN 709J",
	} {
		id, err := ParseIdentifier(TNAuthList, text(der))
		if err != nil || id.Value != text(der) || id.Type != TNAuthList {
			t.Errorf("%x: %v, %v", der, id, err)
		}
		if got := TelephonySubject([]Identifier{id}); got != subject {
			t.Errorf("%x: %q, want %q", der, got, subject)
		}
	}
	if got := text(seq(code)); got != "MAigBhYENzA5Sg" {
		t.Errorf("the list of one code is %s", got)
	}
	for name, value := range map[string]string{
		"empty":             "",
		"padded":            base64.URLEncoding.EncodeToString([]byte(seq(code))),
		"not base64url":     "****",
		"with a line break": "MAigBhYE\nNzA5Sg",
		"no DER":            text("x"),
		"no entry":          text(seq("")),
		"trailing":          text(seq(code) + "x"),
		"a long length":     text("\x30\x81\x08" + code),
		"an implicit tag":   text(seq("\x80\x04709J")),
		"a UTF8String":      text(seq("\xa0\x06\x0c\x04709J")),
		"an empty code":     text(seq("\xa0\x02\x16\x00")),
		"a long code":       text(seq("\xa0\x23\x16\x21" + strings.Repeat("1", 33))),
		"a space in a code": text(seq("\xa0\x05\x16\x037 9")),
		"letters in a TN":   text(seq("\xa2\x05\x16\x03abc")),
		"a long TN":         text(seq("\xa2\x12\x16\x10" + strings.Repeat("1", 16))),
		"a range of one":    text(seq("\xa1\x08\x30\x06\x16\x011\x02\x01\x01")),
		"an unknown entry":  text(seq("\xa3\x03\x16\x011")),
		"too many":          text(seq(strings.Repeat("\xa2\x03\x16\x011", 101))),
		"too long":          text(seq(strings.Repeat("\xa0\x22\x16\x20"+strings.Repeat("1", 32), 50))),
	} {
		if id, err := ParseIdentifier(TNAuthList, value); !fault.Is(err, fault.Malformed) && !fault.Is(err, fault.RejectedIdentifier) {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
	if got := TelephonySubject([]Identifier{{DNS, "a.test"}}); got != "" {
		t.Error(got)
	}
}

func FuzzTNAuthList(f *testing.F) {
	f.Add([]byte("\x30\x08\xa0\x06\x16\x04709J"))
	f.Add([]byte("\x30\x14\xa1\x12\x30\x10\x16\x0b15551234567\x02\x01\x0a"))
	f.Fuzz(func(t *testing.T, der []byte) {
		id, err := ParseIdentifier(TNAuthList, base64.RawURLEncoding.EncodeToString(der))
		if err != nil {
			return
		}
		if back, err := id.tnAuthList(); err != nil || string(back) != string(der) {
			t.Errorf("%x becomes %x", der, back)
		}
		if TelephonySubject([]Identifier{id}) == "" {
			t.Errorf("%x has no subject", der)
		}
	})
}
