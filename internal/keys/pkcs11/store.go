//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	lib "github.com/miekg/pkcs11"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// maxObjects bounds how many keys of a token are listed.
const maxObjects = 10_000

// Store is the keys of one token. It is safe for concurrent use; a process has
// at most one for each module.
type Store struct{ m *module }

// Open loads the module, finds the token and logs in.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	m, err := newModule(cfg.withDefaults())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	if err := m.reopen(ctx, 0); err != nil {
		if ctx.Err() != nil {
			err = m.away(err, fmt.Sprintf("did not answer within %s", m.cfg.Timeout))
		}
		return nil, err
	}
	return &Store{m}, nil
}

// Close ends all sessions.
func (s *Store) Close() error { return s.m.close() }

// Create makes a key pair in the token and returns its URI (RFC 7512). See
// keys.Store.
func (s *Store) Create(ctx context.Context, name string, kt pki.KeyType) (string, error) {
	k, ok := kinds[kt]
	if !ok || !s.has(k.generate) || !s.has(k.sign) {
		return "", keys.NoSuchKeyType(fmt.Sprintf("the PKCS #11 token %q", s.m.cfg.Token), kt)
	}
	return s.add(ctx, name, func(h lib.SessionHandle, id []byte) error {
		_, _, err := s.m.lib.GenerateKeyPair(h, []*lib.Mechanism{lib.NewMechanism(k.generate, nil)}, append(public(name, id), k.shape()...), private(name, id))
		return ret("C_GenerateKeyPair", err)
	})
}

// Import stores an existing key in the token, if the token allows that, and
// returns its URI. It cannot be read out again.
func (s *Store) Import(ctx context.Context, name string, key crypto.Signer) (string, error) {
	priv, pub, err := halves(key)
	if err != nil {
		return "", err
	}
	return s.add(ctx, name, func(h lib.SessionHandle, id []byte) error {
		o, err := s.m.lib.CreateObject(h, append(priv, private(name, id)...))
		if err != nil {
			return ret("C_CreateObject", err)
		}
		if _, err = s.m.lib.CreateObject(h, append(pub, public(name, id)...)); err != nil {
			_ = s.m.lib.DestroyObject(h, o)
		}
		return ret("C_CreateObject", err)
	})
}

// has reports whether the token has a mechanism.
func (s *Store) has(mechanism uint) bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.m.mechs[mechanism]
}

// add makes a key under a new name by create, proves it, and returns its URI.
// What was begun is never repeated by itself: a key too many is worse than an
// error.
func (s *Store) add(ctx context.Context, name string, create func(h lib.SessionHandle, id []byte) error) (string, error) {
	if err := keys.CheckName(name); err != nil {
		return "", err
	}
	id := make([]byte, 16)
	rand.Read(id)
	err := s.m.do(ctx, func(ss session) error {
		taken, err := s.m.search(ss.handle, lib.CKO_PRIVATE_KEY, &URI{Object: name}, 1)
		if err == nil && len(taken) > 0 {
			err = fault.New(fault.Conflict, "the PKCS #11 token %q already has a key named %q", s.m.cfg.Token, name)
		}
		if err != nil {
			return err
		}
		err = create(ss.handle, id)
		if c := classify(err); c == fine || c == onLogin {
			return err
		}
		return errStarted{err}
	})
	if err != nil {
		return "", fmt.Errorf("make key %s: %w", name, err)
	}
	ref := s.ref(name, id)
	key, err := s.Open(ctx, ref)
	if err == nil {
		err = keys.Prove(ctx, key)
	}
	if err != nil {
		return "", fmt.Errorf("prove new key %s: %w", name, err)
	}
	return ref, nil
}

// ref is the reference of a private key in this token.
func (s *Store) ref(name string, id []byte) string {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return (&URI{Token: s.m.token.Token, Object: name, ID: id, Type: "private"}).String()
}

// Open finds the private key of a PKCS #11 URI, which must name one key of this
// token by its label, its id, or both. See keys.Store.
func (s *Store) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	if !strings.HasPrefix(ref, scheme) {
		return nil, fault.New(fault.NotFound, "the key reference %.200q is not a PKCS #11 URI", ref)
	}
	u, err := ParseURI(ref)
	if err != nil {
		return nil, err
	}
	if u.Object == "" && u.ID == nil || u.Type != "" && u.Type != "private" {
		return nil, fault.New(fault.Invalid, "the PKCS #11 URI %s names no private key; give its object (label), its id, or both", ref)
	}
	s.m.mu.Lock()
	fits := u.fits(&s.m.token, s.m.slot)
	s.m.mu.Unlock()
	if !fits {
		return nil, fault.New(fault.NotFound, "the key %s is in another token than %q", ref, s.m.cfg.Token)
	}
	k := &Key{m: s.m, uri: u}
	if err := s.m.do(ctx, k.load); err != nil {
		return nil, fmt.Errorf("open key %s: %w", ref, err)
	}
	return k, nil
}

// List returns the references of all private keys in the token. See keys.Store.
func (s *Store) List(ctx context.Context) ([]string, error) {
	var refs []string
	err := s.m.do(ctx, func(ss session) error {
		found, err := s.m.search(ss.handle, lib.CKO_PRIVATE_KEY, &URI{}, maxObjects)
		if err != nil {
			return err
		}
		all := make([]string, 0, len(found))
		for _, o := range found {
			label, id, err := s.m.names(ss.handle, o)
			if err != nil {
				return err
			}
			all = append(all, s.ref(label, id))
		}
		refs = all
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	slices.Sort(refs)
	return refs, nil
}

// names returns the label and the id of an object.
func (m *module) names(h lib.SessionHandle, o lib.ObjectHandle) (label string, id []byte, err error) {
	got, err := m.lib.GetAttributeValue(h, o, []*lib.Attribute{lib.NewAttribute(lib.CKA_LABEL, nil), lib.NewAttribute(lib.CKA_ID, nil)})
	if err != nil {
		return "", nil, ret("C_GetAttributeValue", err)
	}
	return string(got[0].Value), got[1].Value, nil
}

// search finds objects of a class by label and id, at most so many. Nothing
// found while nobody is logged in is no answer: the token hides private keys.
// It is looked for again, should the login have come in between.
func (m *module) search(h lib.SessionHandle, class uint, u *URI, most int) (found []lib.ObjectHandle, err error) {
	for range 2 {
		if found, err = m.lookFor(h, class, u, most); err != nil || len(found) > 0 || class != lib.CKO_PRIVATE_KEY {
			return found, err
		}
		if in, err := m.loggedIn(h); err != nil {
			return nil, err
		} else if !in {
			return nil, &returned{"C_FindObjects", ckrNotLoggedIn, "CKR_USER_NOT_LOGGED_IN"}
		}
	}
	return nil, nil
}

// lookFor is one search.
func (m *module) lookFor(h lib.SessionHandle, class uint, u *URI, most int) (found []lib.ObjectHandle, err error) {
	template := []*lib.Attribute{lib.NewAttribute(lib.CKA_CLASS, class)}
	if u.Object != "" {
		template = append(template, lib.NewAttribute(lib.CKA_LABEL, u.Object))
	}
	if u.ID != nil {
		template = append(template, lib.NewAttribute(lib.CKA_ID, u.ID))
	}
	if err := m.lib.FindObjectsInit(h, template); err != nil {
		return nil, ret("C_FindObjectsInit", err)
	}
	for len(found) < most {
		some, _, err := m.lib.FindObjects(h, min(most-len(found), 256))
		if err != nil {
			return nil, errors.Join(ret("C_FindObjects", err), ret("C_FindObjectsFinal", m.lib.FindObjectsFinal(h)))
		}
		if len(some) == 0 {
			break
		}
		found = append(found, some...)
	}
	return found, ret("C_FindObjectsFinal", m.lib.FindObjectsFinal(h))
}
