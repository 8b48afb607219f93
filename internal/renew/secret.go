package renew

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/keys"
)

// Secrets keeps small secrets of issuers, sealed at rest: ACME account keys,
// tokens that a CA gave.
type Secrets struct {
	DB     *db.DB
	Sealer *keys.Sealer
}

var (
	qKeep = db.SQL("renew.upsert_secret", `INSERT INTO issuer_secret (issuer, name, value, updated_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (issuer, name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at`)
	qKept = db.SQL("renew.get_secret", `SELECT value FROM issuer_secret WHERE issuer = $1 AND name = $2`)
)

// maxSecret bounds a secret, in octets.
const maxSecret = 64 << 10

// secretPlace binds a secret to its row.
func secretPlace(issuer, name string) []byte { return []byte("issuer_secret/" + issuer + "/" + name) }

// Keep stores a secret of an issuer under a name.
func (s Secrets) Keep(ctx context.Context, issuer, name string, value []byte) error {
	if len(value) > maxSecret || name == "" || len(name) > 255 {
		return fmt.Errorf("keep secret %q of issuer %s: it has no name, or more than %d octets", name, issuer, maxSecret)
	}
	sealed := s.Sealer.Seal(value, secretPlace(issuer, name))
	err := s.DB.Write(ctx, func(tx *db.Tx) error { tx.Queue(qKeep, nil, issuer, name, sealed, time.Now()); return nil })
	if err != nil {
		return fmt.Errorf("keep secret %q of issuer %s: %w", name, issuer, err)
	}
	return nil
}

// Kept returns a secret of an issuer, or nil when there is none.
func (s Secrets) Kept(ctx context.Context, issuer, name string) ([]byte, error) {
	sealed, err := db.Get(ctx, s.DB.Read(), qKept, (*db.Row).Bytes, issuer, name)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read secret %q of issuer %s: %w", name, issuer, err)
	}
	value, err := s.Sealer.Open(sealed, secretPlace(issuer, name))
	if err != nil {
		return nil, fmt.Errorf("open secret %q of issuer %s: %w", name, issuer, err)
	}
	return value, nil
}
