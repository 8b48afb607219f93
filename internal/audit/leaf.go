package audit

import (
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

// Leaf returns the line of JSON, without a line feed, that stands for a placed
// entry: the data of its Merkle tree leaf (RFC 6962 section 2.1) and the line
// of an export.
func (r *Record) Leaf() ([]byte, error) {
	b, err := json.Marshal(leaf{r.Seq, r.ID, r.At.UTC(), r.Kind, r.Actor, r.Subject, jsontext.Value(r.Data)}, jsontext.PreserveRawStrings(true))
	if err != nil {
		return nil, fmt.Errorf("encode journal entry %d: %w", r.Seq, err)
	}
	return b, nil
}

// leafHash returns the hash of the leaf of r.
func (r *Record) leafHash() (tlog.Hash, error) {
	b, err := r.Leaf()
	return tlog.RecordHash(b), err
}
