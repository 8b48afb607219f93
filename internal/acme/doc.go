// Package acme holds what both ends of the ACME protocol share: signed
// messages (JWS and JWK), protocol objects, their state machines, and problem
// documents. It follows RFC 8555 and its extensions (RFC 8738, 8739, 9115,
// 9444, 9447, 9773, 9964 and the profiles draft). Nothing here does I/O or
// asks for the time; package acme/server and package acme/client are the ends.
//
// Every parser here reads hostile bytes: sizes and nesting are bounded,
// duplicate members are refused, and base64url is accepted in its one
// canonical form only. Errors that the sender must mend are *fault.Error.
package acme
