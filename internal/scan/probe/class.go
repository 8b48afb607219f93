package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"slices"
	"syscall"
)

// Class is how the attempt to learn about an endpoint ended.
type Class string

// Classes. All but OK are failures.
const (
	OK             Class = "ok"               // the endpoint showed a certificate
	DNSNX          Class = "dns-nx"           // the name does not exist, or has no address
	DNSFail        Class = "dns-fail"         // the DNS servers could not tell
	Refused        Class = "refused"          // connection refused
	Unreachable    Class = "unreachable"      // no route to the address
	TimeoutConnect Class = "timeout-connect"  // no answer to the connection attempt
	TimeoutTLS     Class = "timeout-tls"      // connected, but the handshake never ended
	Reset          Class = "reset"            // connected, and then closed or reset by the peer
	NotTLS         Class = "not-tls"          // the peer speaks something else
	Alert          Class = "alert"            // the peer ended the handshake with a TLS alert
	BadTLS         Class = "bad-tls"          // the peer speaks TLS, but breaks its rules
	StartTLSFailed Class = "starttls-refused" // the peer does not offer or begin STARTTLS
	Local          Class = "local"            // this machine could not try (descriptors, ports); says nothing about the endpoint
	Canceled       Class = "canceled"         // the scan ended first
)

// Classes lists every class, in the order of reports.
func Classes() []Class {
	return []Class{OK, DNSNX, DNSFail, Refused, Unreachable, TimeoutConnect, TimeoutTLS, Reset, NotTLS, Alert, BadTLS, StartTLSFailed, Local, Canceled}
}

// Valid reports whether c is a known class.
func (c Class) Valid() bool { return slices.Contains(Classes(), c) }

// Suspect reports whether c may be the fault of this machine or of a moment,
// so that it should be tried again before it is believed.
func (c Class) Suspect() bool { return c == TimeoutConnect || c == TimeoutTLS || c == Local }

// Failure is a probe that did not end well.
type Failure struct {
	Class  Class
	Alert  uint8  // the alert description (RFC 8446 section 6) when Class is Alert
	Reason string // for people: constant text or numbers, never bytes of the peer

	cause error
}

// Error returns the class, the alert and the reason.
func (f *Failure) Error() string {
	s := string(f.Class)
	if f.Class == Alert {
		s += fmt.Sprintf("(%d)", f.Alert)
	}
	if f.Reason != "" {
		s += ": " + f.Reason
	}
	return s
}

// Unwrap returns the error behind f, if any.
func (f *Failure) Unwrap() error { return f.cause }

func fail(class Class, reason string) *Failure { return &Failure{Class: class, Reason: reason} }

// dialFailure classifies an error of connecting.
func dialFailure(err error) *Failure {
	switch {
	case errors.Is(err, context.Canceled):
		return &Failure{Class: Canceled, cause: err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Failure{Class: Refused, cause: err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNABORTED):
		return &Failure{Class: Reset, cause: err}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return &Failure{Class: Unreachable, cause: err}
	case isTimeout(err):
		return &Failure{Class: TimeoutConnect, cause: err}
	default: // EMFILE, EADDRNOTAVAIL, EACCES, ENOBUFS, ...
		return &Failure{Class: Local, Reason: "cannot open a connection", cause: err}
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &ne) && ne.Timeout()
}

// streamFailure classifies an error of a connection that was open.
func streamFailure(err error) *Failure {
	switch {
	case errors.Is(err, net.ErrClosed):
		return &Failure{Class: Canceled, cause: err}
	case errors.Is(err, errTooMuch):
		return &Failure{Class: BadTLS, Reason: "sends more than a handshake may hold", cause: err}
	case isTimeout(err):
		return &Failure{Class: TimeoutTLS, cause: err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Failure{Class: Reset, Reason: "closed during the handshake", cause: err}
	default: // ECONNRESET, EPIPE
		return &Failure{Class: Reset, cause: err}
	}
}

// handshakeFailure classifies an error of crypto/tls.
func handshakeFailure(err error) *Failure {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		if h := record.RecordHeader; h[0] >= recordCCS && h[0] <= recordData && h[1] == 3 {
			return &Failure{Class: BadTLS, Reason: "breaks the record layer", cause: err}
		}
		return &Failure{Class: NotTLS, cause: err}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		switch op.Op {
		case "remote error":
			return remoteAlert(op, err)
		case "local error":
			return &Failure{Class: BadTLS, Reason: "breaks the protocol", cause: err}
		}
		return streamFailure(err)
	}
	if errors.Is(err, errTooMuch) || isTimeout(err) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return streamFailure(err)
	}
	return &Failure{Class: BadTLS, Reason: "breaks the protocol", cause: err}
}

// remoteAlert reads the number out of the library's own alert type, which is
// an unexported uint8.
func remoteAlert(op *net.OpError, err error) *Failure {
	f := &Failure{Class: Alert, cause: err}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		f.Alert = uint8(v.Uint())
	}
	return f
}
