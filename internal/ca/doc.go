// Package ca holds certificate authorities and the one safe way to issue.
//
// Every certificate, whether for a subscriber, an OCSP responder or this
// server itself, takes the same steps in the same order (see Service.Issue):
// the names are covered by evidence, the bytes to sign are built and linted
// under a throw-away key, the intent to sign them is on the disk, and only
// then the authority's key signs exactly those bytes. A failure at any point
// abandons the serial number; nothing is ever signed twice under one serial.
//
// The package knows nothing of HTTP or ACME: a caller adds its own rows to the
// two transactions of an issuance through Request.Claim and Request.Complete.
package ca
