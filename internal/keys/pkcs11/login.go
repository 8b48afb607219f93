//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"

	lib "github.com/miekg/pkcs11"

	"chancery/internal/fault"
)

// opened is what an initialisation found out.
type opened struct {
	slot  uint
	flags uint
	token URI
	mechs map[uint]bool
	first session // logged in
}

// initialize ends the module if it was in use, starts it, finds the token and
// logs in. Nobody else may be in the library.
func (m *module) initialize() (*opened, error) {
	if m.gen > 0 {
		_ = m.lib.Finalize() // it may have lost itself
	}
	err := ret("C_Initialize", m.lib.Initialize())
	switch {
	case is(err, ckrAlreadyInitialized) && m.gen == 0:
		return nil, fault.New(fault.Conflict, "the PKCS #11 module %s is in use by another part of this process", m.cfg.Module)
	case err != nil && !is(err, ckrAlreadyInitialized):
		return nil, m.report(err)
	}
	o, err := m.openToken()
	if err != nil && m.gen == 0 {
		_ = m.lib.Finalize() // so that Open can be tried again
	}
	return o, err
}

// openToken finds the token and logs in.
func (m *module) openToken() (*opened, error) {
	o := &opened{mechs: map[uint]bool{}}
	info, err := m.find(o)
	if err != nil {
		return nil, m.report(err)
	}
	mechs, err := m.lib.GetMechanismList(o.slot)
	if err != nil {
		return nil, m.report(ret("C_GetMechanismList", err))
	}
	for _, mech := range mechs {
		o.mechs[mech.Mechanism] = true
	}
	// All sessions can write, if the token can be written: were there two kinds,
	// the last of one might have to be closed for the other, and the login with it.
	o.flags = lib.CKF_SERIAL_SESSION
	if info.Flags&lib.CKF_WRITE_PROTECTED == 0 {
		o.flags |= lib.CKF_RW_SESSION
	}
	h, err := m.lib.OpenSession(o.slot, o.flags)
	if err != nil {
		return nil, m.report(ret("C_OpenSession", err))
	}
	o.first = session{handle: h}
	if err := m.login(h, info); err != nil {
		_ = m.lib.CloseSession(h)
		return nil, m.report(err)
	}
	return o, nil
}

// find looks for the token in all slots.
func (m *module) find(o *opened) (*lib.TokenInfo, error) {
	slots, err := m.lib.GetSlotList(true)
	if err != nil {
		return nil, ret("C_GetSlotList", err)
	}
	var found []*lib.TokenInfo
	var others []string
	for _, slot := range slots {
		info, err := m.lib.GetTokenInfo(slot)
		if err != nil || info.Flags&lib.CKF_TOKEN_INITIALIZED == 0 {
			continue // an empty reader does not hide the others
		}
		token := describe(info)
		if !m.want.fits(&token, slot) {
			others = append(others, token.String())
			continue
		}
		found = append(found, &info)
		o.slot, o.token = slot, token
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, m.away(fmt.Errorf("looked for %s and found %q", m.want, others), fmt.Sprintf("%q is not there", m.cfg.Token))
	}
	return nil, fault.New(fault.Invalid, "%d tokens fit keys.pkcs11.token = %q; name the serial number too, as in \"pkcs11:token=NAME;serial=NUMBER\"", len(found), m.cfg.Token)
}

// describe returns the token attributes of a token, without their padding.
func describe(info lib.TokenInfo) URI {
	cut := func(s string) string { return strings.TrimRight(s, " \x00") }
	return URI{Token: cut(info.Label), Manufacturer: cut(info.ManufacturerID), Serial: cut(info.SerialNumber), Model: cut(info.Model)}
}

// fits reports whether the token attributes of u allow the token in slot.
func (u *URI) fits(token *URI, slot uint) bool {
	for _, p := range [][2]string{{u.Token, token.Token}, {u.Manufacturer, token.Manufacturer}, {u.Serial, token.Serial}, {u.Model, token.Model}} {
		if p[0] != "" && p[0] != p[1] {
			return false
		}
	}
	return u.Slot == nil || *u.Slot == slot
}

// pinGuard remembers the PIN that was refused, so that it is tried once.
type pinGuard struct {
	mu      sync.Mutex // one login at a time
	refused [sha256.Size]byte
	err     error // nil: none was refused
}

// relogin logs in after the token forgot it.
func (m *module) relogin(ctx context.Context) error {
	_, err := m.once(ctx, func(s session) error {
		info, err := m.lib.GetTokenInfo(m.currentSlot())
		if err != nil {
			return ret("C_GetTokenInfo", err)
		}
		return m.login(s.handle, &info)
	})
	return err
}

// currentSlot returns the slot of the token.
func (m *module) currentSlot() uint {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slot
}

// loggedIn reports whether the user is logged in.
func (m *module) loggedIn(h lib.SessionHandle) (bool, error) {
	info, err := m.lib.GetSessionInfo(h)
	return info.State == lib.CKS_RO_USER_FUNCTIONS || info.State == lib.CKS_RW_USER_FUNCTIONS, ret("C_GetSessionInfo", err)
}

// login logs in, unless somebody did. Tokens lock themselves after some wrong
// PINs, so a refused one is not tried again until it was changed, and the last
// try is left to a person.
func (m *module) login(h lib.SessionHandle, info *lib.TokenInfo) error {
	m.pin.mu.Lock()
	defer m.pin.mu.Unlock()
	if in, err := m.loggedIn(h); err != nil || in || info.Flags&lib.CKF_LOGIN_REQUIRED == 0 {
		return err
	}
	pin, err := m.cfg.readPIN()
	if err != nil {
		return err
	}
	hash := sha256.Sum256(pin)
	switch {
	case m.pin.err != nil && hash == m.pin.refused:
		return m.pin.err
	case info.Flags&lib.CKF_USER_PIN_LOCKED != 0:
		return fault.New(fault.Precondition, "the user PIN of the PKCS #11 token %q is locked; unlock it with the tool of its vendor", m.cfg.Token)
	case info.Flags&lib.CKF_USER_PIN_FINAL_TRY != 0:
		return fault.New(fault.Precondition, "the PKCS #11 token %q has one try left for the user PIN, which is not taken; log in once with the right PIN by another tool, such as pkcs11-tool --login", m.cfg.Token)
	}
	err = ret("C_Login", m.lib.Login(h, lib.CKU_USER, string(pin)))
	if err == nil || is(err, ckrAlreadyLoggedIn) {
		m.pin.err = nil
		return nil
	}
	if classify(err) != onPIN {
		return err
	}
	m.pin.refused = hash
	m.pin.err = fault.Wrap(err, fault.Precondition, "the PKCS #11 token %q refuses the PIN from %s; it is not tried again before it is changed, so that the token does not lock itself", m.cfg.Token, m.cfg.pinSource())
	m.cfg.Log.Error("key token refuses the pin", "error", err)
	return m.pin.err
}
