package audit

import (
	"bytes"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// leaf is a placed entry as it stands in the Merkle tree and in an export: one
// line of JSON whose members have this order. A change of it would break every
// proof ever given out.
type leaf struct {
	Seq     int64          `json:"seq"`
	ID      string         `json:"id"`
	At      time.Time      `json:"at"` // RFC 3339, UTC, milliseconds
	Kind    Kind           `json:"kind"`
	Actor   string         `json:"actor"`
	Subject string         `json:"subject"`
	Data    jsontext.Value `json:"data"`
}

// leafEncoder makes leaves, one after the other in the same memory.
type leafEncoder struct {
	leaf leaf
	out  bytes.Buffer
	json *jsontext.Encoder
}

func newLeafEncoder() *leafEncoder {
	e := new(leafEncoder)
	e.json = jsontext.NewEncoder(&e.out, jsontext.PreserveRawStrings(true))
	return e
}

// encode returns Record.Leaf of r until the next call.
func (e *leafEncoder) encode(r *Record) ([]byte, error) {
	e.leaf = leaf{r.Seq, r.ID, r.At.UTC(), r.Kind, r.Actor, r.Subject, append(e.leaf.Data[:0], r.Data...)}
	e.out.Reset()
	if err := json.MarshalEncode(e.json, &e.leaf); err != nil {
		return nil, fmt.Errorf("encode journal entry %d: %w", r.Seq, err)
	}
	return bytes.TrimSuffix(e.out.Bytes(), []byte{'\n'}), nil
}

// hash returns the hash of the leaf of r.
func (e *leafEncoder) hash(r *Record) (tlog.Hash, error) {
	b, err := e.encode(r)
	return tlog.RecordHash(b), err
}

// Leaf returns the line of JSON, without a line feed, that stands for a placed
// entry: the data of its Merkle tree leaf (RFC 6962 section 2.1) and the line
// of an export.
func (r *Record) Leaf() ([]byte, error) { return newLeafEncoder().encode(r) }
