// Package probe learns what a TLS endpoint serves over one connection.
//
// Kinds of probe:
//   - Observe: a full handshake, so the endpoint proves that it holds the key.
//   - Fetch: a hand-made hello, stopped after the Certificate message. Cheap,
//     and no proof; it leaves a failed handshake in the other side's log.
//   - Dual: Fetch with hellos that allow one kind of key only, to find the
//     second certificate of a server that has two.
//   - Features: which protocol versions and which post-quantum groups.
//
// Any of them may follow StartTLS. Sessions are never resumed: a resumed
// connection carries no certificate, and the library would hand back the one
// of the session for ever.
//
// Everything received is hostile: it is bounded by Conn, parsed strictly, and
// never quoted in errors.
package probe
