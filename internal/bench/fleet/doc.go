// Package fleet simulates an estate of TLS endpoints on loopback, for scanners
// to be measured against: many addresses in 127.0.0.0/8, distinct certificates,
// realistic delays, a DNS server of its own with short TTLs, and every way an
// endpoint can be broken. What a scanner ought to find is known of each one.
//
// A few listeners on the wildcard address serve all endpoints; which one is
// meant follows from the local address of the connection. An endpoint costs
// its certificate and about 200 octets, so 20,000 fit in 60 MB. Keys are drawn
// from a small pool: making and keeping them would cost more than serving, and
// no scanner can tell.
//
// Delays of DNS happen in the DNS server. The kernel completes connections at
// once, so the delay of TCP is added before the server's first octet.
//
// Run it as a process of its own, so that its CPU time is not the scanner's.
package fleet
