package pkcs11

import (
	"errors"
	"fmt"
)

// class says what to do about a return value of the module.
type class int

// Classes of return values, from harmless to hopeless.
const (
	fine      class = iota
	onSession       // the session is no good: the same again on another
	onKey           // the key's handle is no good: find the key again
	onLogin         // nobody is logged in: log in
	onBusy          // the token has too much to do: the same again, later
	onDevice        // the device is away or confused: open the module anew
	onPIN           // the PIN is refused: never again with this one
	permanent       // the request is at fault
)

// Return values that mean something to us (PKCS #11 v2.40 section 5.1). They
// are written here because the C headers are there only in a build with the
// tag; a test compares them.
const (
	ckrHostMemory           = 0x02
	ckrSlotIDInvalid        = 0x03
	ckrGeneralError         = 0x05
	ckrFunctionFailed       = 0x06
	ckrDeviceError          = 0x30
	ckrDeviceMemory         = 0x31
	ckrDeviceRemoved        = 0x32
	ckrFunctionCanceled     = 0x50
	ckrKeyHandleInvalid     = 0x60
	ckrObjectHandleInvalid  = 0x82
	ckrOperationActive      = 0x90
	ckrOperationNotInit     = 0x91
	ckrPINIncorrect         = 0xA0
	ckrPINInvalid           = 0xA1
	ckrPINLenRange          = 0xA2
	ckrPINExpired           = 0xA3
	ckrPINLocked            = 0xA4
	ckrSessionClosed        = 0xB0
	ckrSessionCount         = 0xB1
	ckrSessionHandleInvalid = 0xB3
	ckrTokenNotPresent      = 0xE0
	ckrTokenNotRecognized   = 0xE1
	ckrAlreadyLoggedIn      = 0x100
	ckrNotLoggedIn          = 0x101
	ckrPINNotInitialized    = 0x102
	ckrNotInitialized       = 0x190
	ckrAlreadyInitialized   = 0x191
	ckrVendorDefined        = 0x80000000
)

// classes is the table; what it lacks is permanent, but for vendors' own
// values: those that appear in practice mean a lost connection.
var classes = map[uint]class{
	0:                       fine,
	ckrSessionClosed:        onSession,
	ckrSessionHandleInvalid: onSession,
	ckrOperationActive:      onSession,
	ckrOperationNotInit:     onSession,
	ckrFunctionCanceled:     onSession,
	ckrFunctionFailed:       onSession,
	ckrKeyHandleInvalid:     onKey,
	ckrObjectHandleInvalid:  onKey,
	ckrNotLoggedIn:          onLogin,
	ckrHostMemory:           onBusy,
	ckrDeviceMemory:         onBusy,
	ckrSessionCount:         onBusy,
	ckrSlotIDInvalid:        onDevice,
	ckrGeneralError:         onDevice,
	ckrDeviceError:          onDevice,
	ckrDeviceRemoved:        onDevice,
	ckrTokenNotPresent:      onDevice,
	ckrTokenNotRecognized:   onDevice,
	ckrNotInitialized:       onDevice,
	ckrPINIncorrect:         onPIN,
	ckrPINInvalid:           onPIN,
	ckrPINLenRange:          onPIN,
	ckrPINExpired:           onPIN,
	ckrPINLocked:            onPIN,
	ckrPINNotInitialized:    onPIN,
}

// returned is a return value other than CKR_OK, with the function that gave it.
type returned struct {
	function string // "C_Sign"
	code     uint
	name     string // "CKR_DEVICE_REMOVED"
}

// Error implements error.
func (r *returned) Error() string { return fmt.Sprintf("%s: %s (0x%X)", r.function, r.name, r.code) }

// classify returns the class of an error. An error that is no return value is
// the request's own.
func classify(err error) class {
	if err == nil {
		return fine
	}
	var r *returned
	if !errors.As(err, &r) {
		return permanent
	}
	if c, ok := classes[r.code]; ok {
		return c
	}
	if r.code >= ckrVendorDefined {
		return onDevice
	}
	return permanent
}

// is reports whether err is the given return value.
func is(err error, code uint) bool {
	var r *returned
	return errors.As(err, &r) && r.code == code
}
