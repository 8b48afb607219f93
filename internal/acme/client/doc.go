// Package client gets certificates from foreign ACME CAs (RFC 8555, RFC 9773,
// profiles): a state machine per order that saves where it stands before each
// side effect, over a wire of its own.
//
// The wire is built on the messages of internal/acme, which our server uses,
// and not on a client library, because the order engine has to see what such a
// library hides: Retry-After of refusals, whether a request that has side
// effects was sent at all, and how long a reply may be. A library that repeats
// a lost new-order makes a second order and cannot say so.
package client
