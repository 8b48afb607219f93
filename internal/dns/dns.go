// Package dns asks recursive resolvers, for validation and for scanning.
//
// Messages are those of github.com/miekg/dns; transport, cache and policy are
// our own: a few kept UDP sockets with many queries in flight each, TCP when
// an answer is truncated or suspicious, one cache whose entries live for the
// smallest TTL of the whole CNAME chain, and one flight per question however
// many callers wait for it.
//
// A lookup either returns records or an *Error with a Class, never both. No
// class but NXDomain and NoData says anything about the name itself: SERVFAIL,
// REFUSED and time-outs are absence of knowledge and must never be read as
// absence of records.
package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Class says why a lookup gave no records.
type Class string

// Classes of failure.
const (
	NXDomain  Class = "nxdomain"  // the name does not exist (RCODE 3)
	NoData    Class = "nodata"    // the name exists, with no record of this type
	ServFail  Class = "servfail"  // the server failed (RCODE 2 or another error code)
	Refused   Class = "refused"   // the server will not answer us (RCODE 5)
	Timeout   Class = "timeout"   // no server answered in time
	Malformed Class = "malformed" // an answer that cannot be parsed, loops, or is too large
	BadName   Class = "badname"   // the question is not a host name; nothing was sent
	Exhausted Class = "exhausted" // the session's query budget is spent
	Canceled  Class = "canceled"  // the caller's context ended first
)

// Authoritative reports whether c is a statement about the name, rather than
// about our failure to learn of it.
func (c Class) Authoritative() bool { return c == NXDomain || c == NoData }

// Error is a lookup without records.
type Error struct {
	Name   string        // the name asked, lower case, without the final dot
	Type   string        // "A", "AAAA", "TXT", "CAA"
	Class  Class         // why
	Reason string        // more, for people: constant text or numbers, never bytes of an answer
	Server string        // host:port of the last server asked, or ""
	TTL    time.Duration // how long the failure is remembered

	cause error
}

// Error returns one line: what was asked, the class and the reason.
func (e *Error) Error() string {
	s := fmt.Sprintf("look up %s %s: %s", e.Type, e.Name, e.Class)
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	return s
}

// Unwrap returns the network error behind e, if any.
func (e *Error) Unwrap() error { return e.cause }

// ClassOf returns the class of err, or "" if err is not a lookup failure.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return ""
}

// AddrAnswer is the addresses of a host.
type AddrAnswer struct {
	Addrs  []netip.Addr  // IPv6 first, then IPv4, each in the order of the answer; never empty; do not modify
	Chain  []string      // CNAME targets followed, in order; nil if none
	TTL    time.Duration // time left until the first record expires
	At     time.Time     // when the older of the two answers arrived
	Static bool          // from Config.Hosts or the hosts file, not from DNS

	// Partial is the failure of one address family when the other one gave
	// addresses and the failure was not a plain absence; else nil.
	Partial error
}

// TXTAnswer is the TXT records of a name.
type TXTAnswer struct {
	Records []string      // one per record, its character strings joined; never empty; do not modify
	Chain   []string      // CNAME targets followed, in order
	TTL     time.Duration // time left
	At      time.Time     // when the answer arrived
}

// CAARecord is one CAA record (RFC 8659 section 4.1).
type CAARecord struct {
	Flags uint8  // bit 7 (value 128) is "issuer critical"
	Tag   string // property name as sent; compare without regard to case
	Value string // property value, raw octets
}

// Critical reports whether an issuer that does not know the tag must refuse.
func (r CAARecord) Critical() bool { return r.Flags&0x80 != 0 }

// CAAAnswer is the relevant record set of a name (RFC 8659 section 3).
type CAAAnswer struct {
	Name    string        // where the records were found: the name asked or a parent; "" if nowhere
	Records []CAARecord   // empty if no set exists up to the top-level domain; do not modify
	Chain   []string      // CNAME targets followed at Name
	TTL     time.Duration // time left until any part of the conclusion expires
	At      time.Time     // when the oldest part arrived
	Static  bool          // the name is covered by Config.Hosts: no query was made
}
