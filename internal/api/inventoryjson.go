package api

import (
	"encoding/json/jsontext"
	"slices"
	"strconv"
	"time"
)

// appender is a body that writes itself, byte for byte as encoding/json/v2 would
// and without reflection: large pages, for which that is most of the work.
type appender interface {
	appendJSON(dst []byte) ([]byte, error)
}

// knownSize is about how many octets a Known takes.
const knownSize = 700

// appendJSON implements appender.
func (p KnownPage) appendJSON(dst []byte) ([]byte, error) {
	w := members{dst: slices.Grow(dst, knownSize*(len(p.Items)+1))}
	w.dst = append(w.dst, `{"items":[`...)
	for i := range p.Items {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.known(&p.Items[i])
	}
	w.dst = append(w.dst, ']')
	if p.Next != "" {
		w.text(`,"next":`, p.Next)
	}
	w.text(`,"sort":`, p.Sort)
	w.flag(`,"partial":`, p.Partial)
	return append(w.dst, '}'), w.err
}

// known writes a Known.
func (w *members) known(k *Known) {
	w.text(`{"id":`, k.ID)
	w.text(`,"fingerprint":`, k.Fingerprint)
	w.text(`,"serial":`, k.Serial)
	w.text(`,"status":`, k.Status)
	w.list(`,"source":`, k.Source)
	w.flag(`,"managed":`, k.Managed)
	w.text(`,"owner":`, k.Owner)
	w.text(`,"team":`, k.Team)
	w.text(`,"environment":`, k.Environment)
	w.text(`,"issuer":`, k.Issuer)
	w.text(`,"key_type":`, k.KeyType)
	w.text(`,"signature":`, k.Signature)
	w.text(`,"common_name":`, k.CommonName)
	w.list(`,"names":`, k.Names)
	w.dst = strconv.AppendInt(append(w.dst, `,"name_count":`...), int64(k.NameCount), 10)
	w.flag(`,"is_ca":`, k.IsCA)
	w.time(`,"not_before":`, &k.NotBefore)
	w.time(`,"not_after":`, &k.NotAfter)
	w.time(`,"first_seen_at":`, &k.FirstSeenAt)
	w.time(`,"last_seen_at":`, &k.LastSeenAt)
	w.time(`,"revoked_at":`, k.RevokedAt)
	w.time(`,"retired_at":`, k.RetiredAt)
	if k.Successor != "" {
		w.text(`,"successor":`, k.Successor)
	}
	w.dst = append(w.dst, '}')
}

// members writes members of objects, each with what stands before its value.
// err is the first value that JSON cannot hold.
type members struct {
	dst []byte
	err error
}

func (w *members) text(before, v string) {
	quoted, err := jsontext.AppendQuote(append(w.dst, before...), v)
	w.dst = quoted
	w.keep(err)
}

func (w *members) keep(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *members) list(before string, vs []string) {
	w.dst = append(append(w.dst, before...), '[')
	for i, v := range vs {
		if i > 0 {
			w.dst = append(w.dst, ',')
		}
		w.text("", v)
	}
	w.dst = append(w.dst, ']')
}

func (w *members) flag(before string, v bool) {
	w.dst = strconv.AppendBool(append(w.dst, before...), v)
}

// time writes nothing for nil.
func (w *members) time(before string, t *time.Time) {
	if t == nil {
		return
	}
	text, err := t.AppendText(append(append(w.dst, before...), '"'))
	w.keep(err)
	w.dst = append(text, '"')
}
