package app

import (
	"context"
	"crypto"
	"errors"
	"net/url"
	"time"

	"chancery/internal/audit"
	"chancery/internal/config"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// journalKey names the key in the key store that signs checkpoints.
const journalKey = "journal"

// openJournal opens the signer of checkpoints, and makes its key once. The
// origin of the journal is the host of the server's URL.
func openJournal(ctx context.Context, cfg *config.Config, d *db.DB, store *keys.FileStore) (*audit.Log, error) {
	key, err := store.Open(ctx, "file:"+journalKey)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == fault.NotFound {
		key, err = makeJournalKey(ctx, store)
	}
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(cfg.Server.URL)
	if err != nil {
		return nil, err
	}
	return audit.NewLog(d, u.Host+"/journal", key)
}

func makeJournalKey(ctx context.Context, store *keys.FileStore) (crypto.Signer, error) {
	ref, err := store.Create(ctx, journalKey, pki.Ed25519)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == fault.Conflict {
		ref, err = "file:"+journalKey, nil // another process was faster
	}
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, ref)
}

// signJournal gives every entry that an earlier run left behind its place, and
// has a checkpoint cover it.
func (a *App) signJournal(ctx context.Context) error {
	for n := sequenceBatch; n == sequenceBatch; {
		var err error
		if n, err = audit.Sequence(ctx, a.db, sequenceBatch); err != nil {
			return err
		}
	}
	// A journal that contradicts its checkpoints must not keep certificates
	// from being issued: the loop reports it, and so does the doctor.
	if _, _, err := a.journal.Tick(ctx, time.Now()); err != nil {
		a.log.ErrorContext(ctx, "checkpoint of the journal failed", "error", err)
	}
	return nil
}
