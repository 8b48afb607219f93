package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"chancery/internal/ca"
	"chancery/internal/config"
	"chancery/internal/keys"
	"chancery/internal/keys/awskms"
	"chancery/internal/keys/azurekms"
	"chancery/internal/keys/pkcs11"
	"chancery/internal/loop"
)

// keyStores are the configured places of private keys.
type keyStores struct {
	file       *keys.FileStore // also seals the small secrets in the database
	all        *keys.Set       // opens every key, and makes those of authorities
	responders *keys.Set       // makes those of OCSP responders
	closers    []io.Closer
}

// Close releases the token.
func (k *keyStores) Close() error {
	var errs []error
	for _, c := range k.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// openKeyStores opens the stores that the configuration uses.
func openKeyStores(ctx context.Context, cfg *config.Config, p paths, log *slog.Logger, metrics *loop.Metrics) (*keyStores, error) {
	file, err := openKeys(cfg, p)
	if err != nil {
		return nil, err
	}
	k := &keyStores{file: file}
	stores := map[string]keys.Store{keys.File: file}
	c := &cfg.Keys
	if c.Uses(config.StorePKCS11) {
		t := c.PKCS11
		token, err := pkcs11.Open(ctx, pkcs11.Config{Module: t.Module, Token: t.Token, PINFile: t.PINFile, PINEnv: t.PINEnv,
			Sessions: t.Sessions, Waiters: t.Waiters, Timeout: t.Timeout, Log: log, Metrics: metrics})
		if err != nil {
			return nil, err
		}
		stores[keys.PKCS11] = token
		k.closers = append(k.closers, token)
	}
	if c.Uses(config.StoreAWS) {
		store, err := awskms.Open(ctx, awskms.Config{Region: c.AWS.Region, Endpoint: c.AWS.Endpoint, Prefix: c.AWS.AliasPrefix,
			Timeout: c.AWS.Timeout, Attempts: c.AWS.Attempts})
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		stores[keys.AWS] = store
	}
	if c.Uses(config.StoreAzure) {
		store, err := azurekms.Open(ctx, azurekms.Config{VaultURL: c.Azure.VaultURL, HSM: c.Azure.HSM, Timeout: c.Azure.Timeout, Attempts: c.Azure.Attempts})
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		stores[keys.Azure] = store
	}
	k.all, k.responders = keys.NewSet(string(c.Store), stores), keys.NewSet(string(c.Responders()), stores)
	return k, nil
}

// KeyReport is the result of CheckKeys.
type KeyReport struct {
	Keys    []KeyCheck `json:"keys"`
	Stored  int        `json:"stored"` // keys in all stores, used or not
	Broken  int        `json:"broken"`
	Summary string     `json:"summary"`
}

// KeyCheck is the key of one authority.
type KeyCheck struct {
	Authority string `json:"authority"`
	Role      string `json:"role"`
	Key       string `json:"key"`               // its reference
	Problem   string `json:"problem,omitempty"` // "" = it opens, fits its certificate and signs
}

// CheckKeys opens the key stores of an installation and makes the key of every
// authority sign once. It takes no lock: a server may be running.
func CheckKeys(ctx context.Context, cfg *config.Config) (_ *KeyReport, err error) {
	p, d, err := openExisting(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	k, err := openKeyStores(ctx, cfg, p, nil, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	stored, err := k.all.List(ctx)
	if err != nil {
		return nil, err
	}
	rep := &KeyReport{Keys: []KeyCheck{}, Stored: len(stored)}
	err = ca.KeyChecks(ctx, d.Read(), k.all, func(a *ca.Authority, problem error) {
		check := KeyCheck{Authority: a.Name, Role: string(a.Role), Key: a.KeyRef}
		if problem != nil {
			check.Problem = problem.Error()
			rep.Broken++
		}
		rep.Keys = append(rep.Keys, check)
	})
	if err != nil {
		return nil, err
	}
	verdict := "all sign"
	if rep.Broken > 0 {
		verdict = fmt.Sprintf("%d broken", rep.Broken)
	}
	rep.Summary = fmt.Sprintf("keys: %d of authorities, %d stored: %s", len(rep.Keys), rep.Stored, verdict)
	return rep, nil
}
