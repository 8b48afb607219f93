// Package perspective asks remote network perspectives whether they see what
// this process saw of an identifier, and is the remote end that looks
// (multi-perspective issuance corroboration, Baseline Requirements section
// 3.2.2.9).
//
// One side asks: a Set knows the perspectives of the configuration and asks
// all of them while the process validates for itself. The other side answers:
// an Agent runs the same validators, with a resolver and routes of its own.
// Both know each other by pinned keys over TLS 1.3; no certificate authority,
// not even our own, stands between them. What comes back is an observation,
// bounded and strictly read. It is never a proof: package challenge lets a
// proof that was made here stay, or not.
package perspective
