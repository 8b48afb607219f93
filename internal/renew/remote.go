package renew

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/issuer"
	"chancery/internal/pki"
)

// remotePrefix begins the names of certificates whose keys are made elsewhere:
// at an agent, for an assignment. What follows is the id there.
const remotePrefix = "assignment."

// Remote is who holds the keys of certificates that are managed here and served
// elsewhere.
type Remote struct {
	// Permit says whether an agent may have a certificate for these names; nil:
	// it may. It is asked before every order, not only at the first.
	Permit func(names []pki.Identifier) error
	// Request returns the certificate request (DER) for the next key, or nil
	// when there is none yet; notFound when nobody has such a certificate.
	Request func(ctx context.Context, id string) ([]byte, error)
	// Issued, if set, is told that there is another certificate. It may be lost,
	// so whoever waits looks by itself, too.
	Issued func(ctx context.Context, id string)
}

// remoteID returns the id that a certificate has elsewhere.
func remoteID(name string) (id string, ok bool) { return strings.CutPrefix(name, remotePrefix) }

// errNoRequest means that the holder of the key has not sent a request.
var errNoRequest = errors.New("the agent has not sent a certificate request for its next key yet")

// errNobody means that whoever should serve a certificate does not exist.
var errNobody = errors.New("no agent has this assignment any more")

// orphanAge is how long a certificate may be managed before its assignment is
// stored. After it, one without an assignment was left over by a crash.
const orphanAge = 10 * time.Minute

// CreateRemote begins to manage a certificate whose key is elsewhere, under an
// id of there. Without targets: it is served there, too.
func (e *Engine) CreateRemote(ctx context.Context, id string, spec Spec, actor string) (Managed, error) {
	spec.Name, spec.remote, spec.Targets = remotePrefix+id, true, nil
	return e.Create(ctx, spec, actor)
}

// forbidden says why a certificate whose key is elsewhere may not be ordered any
// more, or nil: who may have which name can have changed since it was assigned.
func (e *Engine) forbidden(m *Managed) *issuer.Error {
	if _, ok := remoteID(m.Name); !ok || e.remote.Permit == nil {
		return nil
	}
	if err := e.remote.Permit(m.Names); err != nil {
		return &issuer.Error{Class: issuer.Permanent, Err: err}
	}
	return nil
}

// remoteRequest is the request of an issuance whose key is elsewhere. The one
// of the live certificate does not count: that key has been certified.
func (e *Engine) remoteRequest(ctx context.Context, m *Managed, id string) ([]byte, error) {
	if e.remote.Request == nil {
		return nil, errNoRequest
	}
	der, err := e.remote.Request(ctx, id)
	if fault.Is(err, fault.NotFound) && e.now().Sub(m.CreatedAt) > orphanAge {
		return nil, errNobody
	}
	if fault.Is(err, fault.NotFound) {
		return nil, errNoRequest
	}
	if err != nil {
		return nil, fmt.Errorf("read request of %s: %w", m.Name, err)
	}
	if der == nil {
		return nil, errNoRequest
	}
	csr, err := pki.ParseCSR(der, maxState)
	if err != nil {
		return nil, err
	}
	if !csr.Speaks(m.Names) {
		return nil, fault.New(fault.BadCSR, "the request of %s is for other names", m.Name)
	}
	if m.LiveID == "" {
		return der, nil
	}
	live, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.LiveID)
	if err == nil && bytes.Equal(live.CSR, der) {
		return nil, errNoRequest
	}
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return nil, err
	}
	return der, nil
}

var qRequestReady = db.SQL("renew.request_ready", `UPDATE managed_schedule SET due_at = $2 WHERE kind = 'issue' AND lease_token = '' AND due_at > $2
	AND managed_id = (SELECT id FROM managed WHERE name = $1)`)

// RequestReady lets a certificate that waits for its request go on.
func (e *Engine) RequestReady(ctx context.Context, id string) error {
	err := e.db.Write(ctx, func(tx *db.Tx) error { tx.Queue(qRequestReady, nil, remotePrefix+id, e.now()); return nil })
	e.Wake()
	return err
}

// ErrPending means that a certificate is being obtained.
var ErrPending = errors.New("the certificate is being obtained")

// Obtained returns the chain for a request, or an error: ErrPending while it is
// being obtained, notFound when no certificate of this id is managed. With
// needed it is obtained at once, also if it would not be time yet.
func (e *Engine) Obtained(ctx context.Context, id string, csr []byte, needed bool) ([][]byte, error) {
	m, err := Get(ctx, e.db.Read(), remotePrefix+id)
	if err != nil {
		return nil, err
	}
	if m.LiveID != "" {
		live, err := db.Get(ctx, e.db.Read(), qIssuance, scanIssuance, m.LiveID)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return nil, err
		}
		if err == nil && bytes.Equal(live.CSR, csr) && len(live.Chain) > 0 {
			return live.Chain, nil
		}
	}
	switch {
	case m.State == Stopped:
		return nil, fault.New(fault.Precondition, "issuer %s: %s; when that is mended: chancery renew now %s", m.Issuer, m.Error, m.Name)
	case m.State == Idle && needed: // the key of the one before was lost
		_, err = e.RenewNow(ctx, m.ID, "system")
		return nil, errors.Join(ErrPending, err)
	}
	return nil, ErrPending
}

// RemoveRemote forgets a certificate of this id, if there is one.
func (e *Engine) RemoveRemote(ctx context.Context, id, actor string) error {
	if err := e.Remove(ctx, remotePrefix+id, actor); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// RenewRemote renews a certificate of this id at once, if there is one.
func (e *Engine) RenewRemote(ctx context.Context, id, actor string) error {
	if _, err := e.RenewNow(ctx, remotePrefix+id, actor); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}
