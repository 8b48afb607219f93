package ca

import (
	"context"

	"chancery/internal/db"
	"chancery/internal/pki"
)

var qSerialKeys = db.SQL("ca.list_serial_keys", `SELECT spki_hash FROM certificate WHERE authority_id IN (SELECT id FROM authority) AND serial = $1`,
	db.Scan("there are few authorities"))

// SerialKeys returns the SHA-256 of the public keys that our authorities
// allotted a serial number to, for a certificate or for the intent to sign one.
func SerialKeys(ctx context.Context, q db.Q, serial pki.Serial) ([][]byte, error) {
	return db.List(ctx, q, qSerialKeys, (*db.Row).Bytes, serial.Hex())
}
