package server

import (
	"context"
	"hash/maphash"
	"sync"

	"chancery/internal/db"
	"chancery/internal/pki"
)

// Bounds of knownNames: names kept in all, and those of one account.
const (
	knownAtMost     = 64 << 10
	knownPerAccount = 4 << 10
)

var (
	qProvedNames = db.SQL("acme.list_proved_names", `SELECT identifier FROM acme_authz WHERE account_id = $1 AND state = 'valid' LIMIT $2`)
	qOpenNames   = db.SQL("acme.list_open_names", `SELECT identifiers FROM acme_order WHERE account_id = $1 AND state IN ('pending', 'ready') LIMIT $2`)
)

// knownNames tells which accounts have asked for which names. Most orders of a
// fleet are for names that their account has no open order and no valid
// authorization for, and whether there are any need not be asked of the database
// then.
//
// It may be wrong in both directions without harm: at worst an account proves again
// what it has proved, or has two orders for the same names. It is off (nil) where
// several processes serve one database.
type knownNames struct {
	seed maphash.Seed

	mu       sync.Mutex
	accounts map[string]*knownOf
	total    int // names of all
}

// knownOf are the names of one account.
type knownOf struct {
	names map[uint64]struct{}
	asked bool // what there was before this process is on its way into names,
	all   bool // or is there
}

func newKnownNames(on bool) *knownNames {
	if !on {
		return nil
	}
	return &knownNames{seed: maphash.MakeSeed(), accounts: map[string]*knownOf{}}
}

// none reports whether an account has surely no use for what is stored about any
// of these identifiers. It learns about the account the second time it is asked.
func (k *knownNames) none(ctx context.Context, q db.Q, account string, identifiers []string) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	e := k.accounts[account]
	if e == nil { // it may be the only order of this account for weeks
		k.accounts[account] = &knownOf{names: map[uint64]struct{}{}}
		k.mu.Unlock()
		return false
	}
	learn := !e.asked
	e.asked = true
	k.mu.Unlock()
	if learn {
		before, err := namesBefore(ctx, q, account)
		if err != nil || len(before) >= knownPerAccount {
			return false // too many: ask each time
		}
		k.add(account, before...)
		k.mu.Lock()
		e.all = true
		k.mu.Unlock()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !e.all {
		return false
	}
	for _, id := range identifiers {
		if _, ok := e.names[maphash.String(k.seed, id)]; ok {
			return false
		}
	}
	return true
}

// namesBefore returns names that an account has valid authorizations or open orders
// for, up to knownPerAccount or a few more.
func namesBefore(ctx context.Context, q db.Q, account string) (names []string, err error) {
	if names, err = db.List(ctx, q, qProvedNames, (*db.Row).Text, account, knownPerAccount); err != nil {
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
	}, account, knownPerAccount)
	return names, err
}

// add notes what an account asks for, before it is stored.
func (k *knownNames) add(account string, identifiers ...string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.accounts[account]
	if e == nil {
		return
	}
	before := len(e.names)
	for _, id := range identifiers {
		e.names[maphash.String(k.seed, id)] = struct{}{}
	}
	k.total += len(e.names) - before
	if k.total > knownAtMost || len(k.accounts) > knownAtMost {
		k.accounts, k.total = map[string]*knownOf{}, 0
	}
}
