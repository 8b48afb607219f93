// Package server is the ACME server: RFC 8555 with renewal information (RFC
// 9773), IP identifiers (RFC 8738) and certificate profiles over HTTP, and the
// tables behind them. Files are split by resource.
//
// # What holds at every instant
//
// A request is checked from cheap to costly: media type, size, form, URL,
// nonce, account, and only then the signature. Whatever changes state is one
// conditional statement inside one transaction, so of two requests at once one
// wins and the other is told what the winner made; no lock is held over the
// network. An authorization counts only while its sealed proof opens and is
// about exactly this identifier and this account.
//
// A finalized order moves ready -> processing in the transaction that records
// the intent to sign, and processing -> valid in the one that stores the
// certificate. What a crash leaves in between, Recover resumes under a new
// serial or fails, whichever replica comes first.
//
// # Points for crash tests
//
// Built with the tag faultpoint, the process can be killed (fault.Point) at
// "acme.after_account", "acme.after_new_order", "acme.before_validation",
// "acme.after_validation", "acme.before_finalize", "acme.after_finalize",
// "acme.before_revoke", "acme.after_recover_claim" and "acme.after_recover";
// package ca has more of them inside of an issuance.
package server
