package server

import (
	"context"
	"hash/maphash"
	"sync"

	"chancery/internal/db"
	"chancery/internal/pki"
)

// Bounds of knownNames.
const (
	knownBits     = 1 << 22 // of the filter: 512 KiB
	knownHashes   = 4       // bits of a name
	knownNamesMax = 400_000 // with 10 bits for each, one in a hundred is taken for another
	knownAccounts = 16 << 10
	knownBefore   = 16 << 10 // names of an account that are read from the database
)

var (
	qProvedNames = db.SQL("acme.list_proved_names", `SELECT identifier FROM acme_authz WHERE account_id = $1 AND state = 'valid' LIMIT $2`)
	qOpenNames   = db.SQL("acme.list_open_names", `SELECT identifiers FROM acme_order WHERE account_id = $1 AND state IN ('pending', 'ready') LIMIT $2`)
)

// knownNames tells which accounts have asked for which names: a Bloom filter.
// Most orders of a fleet are for names that their account has no open order and no
// valid authorization for, and whether there are any need not be asked of the
// database then.
//
// It may be wrong in both directions without harm: at worst an account proves again
// what it has proved, or has two orders for the same names. It is off (nil) where
// several processes serve one database.
type knownNames struct {
	seed maphash.Seed

	mu       sync.Mutex
	accounts map[string]knowledge
	bits     [knownBits / 64]uint64
	names    int // that were added
}

// knowledge is what the filter has of the names of an account.
type knowledge uint8

const (
	knowsNone knowledge = iota // the account is new to this process
	knowsNew                   // what it has asked this process for
	knowsMost                  // and what there was before is on its way
	knowsAll
)

func newKnownNames(on bool) *knownNames {
	if !on {
		return nil
	}
	return &knownNames{seed: maphash.MakeSeed(), accounts: map[string]knowledge{}}
}

// none reports whether an account has surely no use for what is stored about any
// of these identifiers. It learns about the account the second time it is asked:
// the first may be its only order for weeks.
func (k *knownNames) none(ctx context.Context, q db.Q, account string, identifiers []string) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	knows := k.accounts[account]
	if knows == knowsNone || knows == knowsNew {
		k.accounts[account] = knows + 1
	}
	if knows == knowsNew {
		k.mu.Unlock()
		before, err := namesBefore(ctx, q, account)
		k.add(account, before...)
		k.mu.Lock()
		if err == nil && len(before) < knownBefore && k.accounts[account] == knowsMost { // else ask each time
			k.accounts[account] = knowsAll
		}
	}
	if k.accounts[account] != knowsAll {
		return false
	}
	for _, id := range identifiers {
		if k.has(k.hash(account, id)) {
			return false
		}
	}
	return true
}

// namesBefore returns names that an account has valid authorizations or open orders
// for, up to knownBefore or a few more.
func namesBefore(ctx context.Context, q db.Q, account string) (names []string, err error) {
	if names, err = db.List(ctx, q, qProvedNames, (*db.Row).Text, account, knownBefore); err != nil {
		return nil, err
	}
	err = q.All(ctx, qOpenNames, func(r *db.Row) error {
		var ids []pki.Identifier
		if err := decodeText(r.Text(), &ids); err != nil {
			return err
		}
		for _, id := range ids {
			names = append(names, id.Base().String())
		}
		return nil
	}, account, knownBefore)
	return names, err
}

// add notes what an account asks for, before it is stored. A filter that is full is
// begun anew.
func (k *knownNames) add(account string, identifiers ...string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.names+len(identifiers) > knownNamesMax || len(k.accounts) > knownAccounts {
		clear(k.accounts)
		clear(k.bits[:])
		k.names = 0
	}
	k.names += len(identifiers)
	for _, id := range identifiers {
		h := k.hash(account, id)
		for i := range uint32(knownHashes) {
			at := bit(h, i)
			k.bits[at/64] |= 1 << (at % 64)
		}
	}
}

// has reports whether a name was added. The caller holds mu.
func (k *knownNames) has(h uint64) bool {
	for i := range uint32(knownHashes) {
		if at := bit(h, i); k.bits[at/64]&(1<<(at%64)) == 0 {
			return false
		}
	}
	return true
}

// hash is that of a name of an account.
func (k *knownNames) hash(account, id string) uint64 {
	var h maphash.Hash
	h.SetSeed(k.seed)
	h.WriteString(account)
	h.WriteByte(0)
	h.WriteString(id)
	return h.Sum64()
}

// bit is the i-th bit of a hash, by double hashing.
func bit(h uint64, i uint32) uint32 {
	return (uint32(h) + i*(uint32(h>>32)|1)) % knownBits
}
