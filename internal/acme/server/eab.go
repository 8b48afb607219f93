package server

import (
	"context"
	"crypto/rand"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"time"

	"chancery/internal/acme"
	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
)

// EABKey is a key for external account binding (RFC 8555 section 7.3.4),
// without its secret.
type EABKey struct {
	KID       string
	CA        string
	Label     string    // whom it was made for
	Policy    EABPolicy // of the accounts that it makes
	Accounts  int       // how many accounts it makes
	Used      int       // how many it has made
	AccountID string    // that used it last, or ""
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	UsedAt    time.Time // zero: not yet
	RevokedAt time.Time // zero: not revoked
}

const eabColumns = `kid, ca, label, account_id, created_at, expires_at, used_at, revoked_at, policy, accounts, used`

var (
	qInsertEAB = db.SQL("acme.insert_eab_key", `INSERT INTO eab_key (kid, ca, label, secret, created_at, expires_at, policy, accounts)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`)
	qEABSecret = db.SQL("acme.get_eab_secret", `SELECT secret FROM eab_key WHERE kid = $1 AND ca = $2
		AND (account_id IS NULL OR accounts > 1) AND used < accounts AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)`)
	qUseEAB = db.SQL("acme.use_eab_key", `UPDATE eab_key SET account_id = $2, used_at = $3, used = used + 1 WHERE kid = $1
		AND (account_id IS NULL OR accounts > 1) AND used < accounts AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $3)`)
	qListEAB   = db.SQL("acme.list_eab_keys", `SELECT `+eabColumns+` FROM eab_key WHERE kid > $1 ORDER BY kid LIMIT $2`)
	qRevokeEAB = db.SQL("acme.revoke_eab_key", `UPDATE eab_key SET revoked_at = $2 WHERE kid = $1 AND revoked_at IS NULL`)
)

func scanEAB(r *db.Row) EABKey {
	k := EABKey{KID: r.Text(), CA: r.Text(), Label: r.Text(), AccountID: r.Text(), CreatedAt: r.Time(), ExpiresAt: r.Time(),
		UsedAt: r.Time(), RevokedAt: r.Time()}
	if p, err := readPolicy(r.Text()); p != nil && err == nil {
		k.Policy = p.EABPolicy
	}
	k.Accounts, k.Used = r.Int(), r.Int()
	return k
}

// binding is a verified external account binding that is not used up yet.
type binding struct{ kid string }

// bind verifies the external account binding of a new account; nil when there
// is none and none is needed.
func (s *Server) bind(m *message, sent jsontext.Value) (*binding, error) {
	if len(sent) == 0 || sent.Kind() == 'n' {
		if m.ca.EABRequired {
			return nil, fault.New(fault.ExternalAccountRequired, "this CA takes bound accounts only: ask its operator for an external account binding key")
		}
		return nil, nil
	}
	kid, err := acme.VerifyEAB(&m.jws, m.key, sent, func(kid string) ([]byte, error) {
		return s.eabSecret(m.ctx, kid, m.ca.name, m.now)
	})
	if err != nil {
		return nil, err
	}
	return &binding{kid}, nil
}

// eabSecret returns the secret of a usable key, or nil.
func (s *Server) eabSecret(ctx context.Context, kid, ca string, now time.Time) ([]byte, error) {
	sealed, err := db.Get(ctx, s.db.Read(), qEABSecret, (*db.Row).Bytes, kid, ca, now)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, wrap("read external account binding key", err)
	}
	return s.cfg.Secrets.Open(sealed, eabPlace(kid))
}

// eabPlace binds a sealed secret to its row.
func eabPlace(kid string) []byte { return []byte("eab_key/" + kid) }

// use spends the key in the transaction that makes the account: of two accounts
// at once one gets the last place.
func (b *binding) use(tx *db.Tx, accountID string, now time.Time) {
	spent := fault.New(fault.Unauthorized, "external account binding is not accepted: its key id is unknown or used up")
	tx.Queue(qUseEAB, db.ExactlyOne(spent), b.kid, accountID, now)
}

// EABSpec describes a key to make.
type EABSpec struct {
	CA       string
	Label    string        // whom it is for
	Life     time.Duration // how long it can bind accounts; 0: for ever
	Accounts int           // how many; 0: one
	Policy   EABPolicy     // of these accounts
}

// CreateEAB makes a key and returns its secret, which is never shown again.
// actor is for the journal.
func CreateEAB(ctx context.Context, d *db.DB, sealer *keys.Sealer, spec EABSpec, actor string) (EABKey, []byte, error) {
	if err := spec.Policy.check(); err != nil {
		return EABKey{}, nil, err
	}
	if spec.Accounts < 0 || spec.Accounts > 1_000_000 {
		return EABKey{}, nil, fault.New(fault.Invalid, "a key makes 1 to 1000000 accounts")
	}
	policy, err := json.Marshal(&spec.Policy)
	if err != nil {
		return EABKey{}, nil, wrap("encode policy", err)
	}
	if spec.Policy.empty() {
		policy = nil
	}
	now := time.Now()
	secret := make([]byte, 32)
	rand.Read(secret) // never fails; see crypto/rand
	// Its base64url must not begin with a hyphen: pasted after certbot's
	// --eab-hmac-key it would be taken for another option.
	secret[0] &= 0x7f
	k := EABKey{KID: db.NewID(now), CA: spec.CA, Label: spec.Label, Policy: spec.Policy, Accounts: max(spec.Accounts, 1), CreatedAt: now}
	if spec.Life > 0 {
		k.ExpiresAt = now.Add(spec.Life)
	}
	sealed, text := sealer.Seal(secret, eabPlace(k.KID)), string(policy)
	err = d.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qInsertEAB, nil, k.KID, k.CA, k.Label, sealed, k.CreatedAt, k.ExpiresAt, null(&text), k.Accounts)
		return audit.Append(tx, audit.Entry{At: now, Kind: "eab.create", Actor: actor, Subject: "eab:" + k.KID,
			Data: accountData{CA: spec.CA}})
	})
	if err != nil {
		return EABKey{}, nil, wrap("store external account binding key", err)
	}
	return k, secret, nil
}

// ListEAB returns up to limit keys after the one with key id after ("" = from
// the first), in order of creation.
func ListEAB(ctx context.Context, q db.Q, after string, limit int) ([]EABKey, error) {
	return db.List(ctx, q, qListEAB, scanEAB, after, limit)
}

// RevokeEAB withdraws a key. An account that it made stays.
func RevokeEAB(ctx context.Context, d *db.DB, kid, actor string) error {
	now := time.Now()
	return d.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qRevokeEAB, db.ExactlyOne(fault.New(fault.NotFound, "there is no such key, or it is revoked already")), kid, now)
		return audit.Append(tx, audit.Entry{At: now, Kind: "eab.revoke", Actor: actor, Subject: "eab:" + kid})
	})
}
