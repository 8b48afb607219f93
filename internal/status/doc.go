// Package status answers whether a certificate is revoked: OCSP (RFC 6960,
// 5019, 9654) and CRLs (RFC 5280 section 5), and serves the certificates of
// the authorities themselves.
//
// # Where answers come from
//
// Every serial of every authority stands in a compact table in memory (see
// book): what is known about it, and the signature of its current answer. The
// DER of an answer is rebuilt around the kept signature on each request; the
// read path never touches the database. A process loads the table when it
// starts and answers 503 until it is complete. It then follows the journal,
// which tells it within a second or two what other replicas issued and
// revoked; what this process does itself is told to it at once (Issued,
// Revoked).
//
// # Time
//
// The thisUpdate of an answer is not when it was signed, but the last turn of
// a clock that goes round once per half of the validity, with a phase taken
// from the serial: refreshes are spread evenly, and all replicas agree. It is
// never before the certificate was issued or revoked, and never after the last
// successful look at the journal: a process that is cut off from the database
// cannot vouch for anything newer. No answer is served past its nextUpdate.
//
// # CRLs
//
// A CRL is built from the same table, signed, verified, compared with the one
// before (an unexpired entry may not vanish), and published by a conditional
// update of its row: of several replicas one wins, the others take its list.
// What makes a list due is that it lacks an entry this process knows, so no
// mark, message or crash in between can lose a revocation.
//
// # Outside
//
// Lists can also go to a directory and to an S3-compatible bucket, and a hook
// can be told which URLs caches must forget. Bucket and hook are served from a
// table that is written in the transaction of the change (see outbox.go).
package status
