package client

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	json "encoding/json/v2"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// EAB is what a CA hands out to bind accounts to its customers (RFC 8555
// section 7.3.4). The zero EAB is none.
type EAB struct {
	KeyID string
	Key   []byte // of HMAC-SHA-256
}

// AccountConfig is what an Account needs.
type AccountConfig struct {
	Client  *Client     // required
	KeyType pki.KeyType // of a new account's key; "" = p256
	Contact []string    // "mailto:..." URLs
	EAB     EAB
	// Keep and Kept store the account's key and URL; see issuer.Env.
	Keep func(ctx context.Context, name string, value []byte) error
	Kept func(ctx context.Context, name string) ([]byte, error)
	Log  *slog.Logger // nil: discard
}

// Account is one account at one CA. It is registered once, when it is first
// needed, and kept. It is safe for concurrent use.
type Account struct {
	cfg  AccountConfig
	name string // under which it is kept
	open atomic.Pointer[identity]
	gate chan struct{} // holds one: who opens the account
}

// identity is an account that can sign.
type identity struct {
	signer *acme.Signer
	url    string // kid
}

// stored is an account as it is kept.
type stored struct {
	Directory string `json:"directory"`
	Key       []byte `json:"key"` // PKCS #8
	URL       string `json:"url"` // "" = a key that may not be registered yet
}

// NewAccount returns an account. It sends and stores nothing.
func NewAccount(c AccountConfig) (*Account, error) {
	if c.KeyType == "" {
		c.KeyType = pki.P256
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Keep == nil || c.Kept == nil || c.Client == nil {
		return nil, errors.New("make ACME account: client or store is missing")
	}
	sum := sha256.Sum256([]byte(c.Client.cfg.Directory + "\n" + c.EAB.KeyID))
	return &Account{cfg: c, name: "account-" + hex.EncodeToString(sum[:8]), gate: make(chan struct{}, 1)}, nil
}

// identity returns the account, registered. Of many callers at once one does
// the work.
func (a *Account) identity(ctx context.Context) (*identity, error) {
	if id := a.open.Load(); id != nil {
		return id, nil
	}
	select {
	case a.gate <- struct{}{}:
		defer func() { <-a.gate }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if id := a.open.Load(); id != nil {
		return id, nil
	}
	s, key, err := a.load(ctx)
	if err != nil {
		return nil, err
	}
	signer, err := acme.NewSigner(key)
	if err != nil {
		return nil, fmt.Errorf("use account key: %w", err)
	}
	id := &identity{signer: signer, url: s.URL}
	if id.url == "" {
		if err := a.register(ctx, id, s); err != nil {
			return nil, err
		}
	}
	a.open.Store(id)
	return id, nil
}

// load reads the account, or makes a key and keeps it before the CA learns of
// it: after a crash new-account with the same key finds the account again.
func (a *Account) load(ctx context.Context) (*stored, crypto.Signer, error) {
	value, err := a.cfg.Kept(ctx, a.name)
	if err != nil {
		return nil, nil, fmt.Errorf("read ACME account: %w", err)
	}
	if value == nil {
		if err := a.create(ctx); err != nil {
			return nil, nil, err
		}
		// Another process may have made one at the same time; the one that
		// was kept last is everybody's.
		if value, err = a.cfg.Kept(ctx, a.name); err != nil {
			return nil, nil, fmt.Errorf("read ACME account: %w", err)
		}
	}
	s := new(stored)
	if err := json.Unmarshal(value, s); err != nil {
		return nil, nil, errors.New("read ACME account: what was kept is damaged")
	}
	key, err := x509.ParsePKCS8PrivateKey(s.Key)
	if err != nil {
		return nil, nil, errors.New("read ACME account: its key is damaged")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("read ACME account: its key cannot sign")
	}
	return s, signer, nil
}

// create keeps a new key.
func (a *Account) create(ctx context.Context) error {
	key, err := keys.Generate(a.cfg.KeyType)
	if err != nil {
		return fmt.Errorf("make account key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode account key: %w", err)
	}
	return a.keep(ctx, &stored{Directory: a.cfg.Client.cfg.Directory, Key: der})
}

func (a *Account) keep(ctx context.Context, s *stored) error {
	value, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode ACME account: %w", err)
	}
	if err := a.cfg.Keep(ctx, a.name, value); err != nil {
		return fmt.Errorf("keep ACME account: %w", err)
	}
	return nil
}

// Adopt keeps an account that another client opened, in place of one of its own:
// key signs for the account that the CA knows by url. It sends nothing.
func (a *Account) Adopt(ctx context.Context, key crypto.Signer, url string) error {
	if _, err := acme.NewSigner(key); err != nil {
		return fmt.Errorf("use account key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode account key: %w", err)
	}
	return a.keep(ctx, &stored{Directory: a.cfg.Client.cfg.Directory, Key: der, URL: url})
}

// register makes the account at the CA, or finds the one that the key has
// there (RFC 8555 section 7.3.1), and keeps its URL.
func (a *Account) register(ctx context.Context, id *identity, s *stored) error {
	c := a.cfg.Client
	dir, err := c.Directory(ctx)
	if err != nil {
		return err
	}
	req := acme.NewAccount{Contact: a.cfg.Contact, TermsOfServiceAgreed: true}
	if a.cfg.EAB.KeyID != "" {
		req.ExternalAccountBinding, err = acme.SignEAB(dir.NewAccount, a.cfg.EAB.KeyID, a.cfg.EAB.Key, acme.HS256, id.signer.PublicKey())
		if err != nil {
			return err
		}
	} else if dir.Meta.ExternalAccountRequired {
		return &issuer.Error{Class: issuer.Permanent,
			Err: fmt.Errorf("the CA %s takes accounts of its customers only: set eab_key_id and eab_key_file to what it handed out", c.cfg.Directory)}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode new account: %w", err)
	}
	res, err := c.post(ctx, "new-account", id.signer, "", dir.NewAccount, body)
	if err != nil {
		return err
	}
	if id.url, err = c.resolve(res.header.Get("Location")); err != nil {
		return fmt.Errorf("new-account: %w", err)
	}
	a.cfg.Log.InfoContext(ctx, "acme account opened", slog.String("account", id.url), slog.Bool("new", res.status == http.StatusCreated))
	s.URL = id.url
	return a.keep(ctx, s)
}

// forget drops the URL of an account that the CA does not know any more: it
// lost its memory, as test CAs do. The key stays, and is registered again.
func (a *Account) forget(ctx context.Context, id *identity) error {
	if !a.open.CompareAndSwap(id, nil) {
		return nil // somebody else did
	}
	s, _, err := a.load(ctx)
	if err != nil {
		return err
	}
	s.URL = ""
	a.cfg.Log.WarnContext(ctx, "the ca does not know its account any more; it is opened again", slog.String("account", id.url))
	return a.keep(ctx, s)
}

// post sends a signed request of the account. payload nil is POST-as-GET.
func (a *Account) post(ctx context.Context, op, url string, payload []byte) (*reply, error) {
	for again := false; ; again = true {
		id, err := a.identity(ctx)
		if err != nil {
			return nil, err
		}
		res, err := a.cfg.Client.post(ctx, op, id.signer, id.url, url, payload)
		var refused *Refusal
		if again || !errors.As(err, &refused) || refused.Code() != fault.AccountDoesNotExist {
			return res, err
		}
		if err := a.forget(ctx, id); err != nil {
			return nil, err
		}
	}
}

// Check opens the account if that was not done yet, and asks the CA whether it
// is in order.
func (a *Account) Check(ctx context.Context) error {
	id, err := a.identity(ctx)
	if err == nil {
		err = a.check(ctx, id)
	}
	return classify(ctx, err, a.now())
}

func (a *Account) check(ctx context.Context, id *identity) error {
	res, err := a.post(ctx, "account", id.url, nil)
	if err != nil {
		return err
	}
	acct, err := acme.Decode[acme.Account](res.body)
	if err != nil {
		return fmt.Errorf("read account: %w", err)
	}
	if acct.Status != acme.AccountValid {
		return &Refusal{&acme.Problem{Type: acme.TypeURI(fault.Unauthorized), Detail: "the account is " + string(acct.Status), Status: http.StatusForbidden}, "account", 0}
	}
	return nil
}

func (a *Account) now() time.Time { return a.cfg.Client.cfg.Now() }
