// Package ctwatch follows Certificate Transparency logs: every entry of each
// log, once, for all our names together.
//
// # What is verified
//
// A log signs heads: the size of its tree and its root. Position is a size up
// to which every entry was looked at, with the roots of the perfect subtrees
// (frontier). New entries are hashed and appended to it; the position moves
// when the result is a tree that the log signed, or one that a consistency
// proof (RFC 6962) or hash tiles (static-ct) show to be the beginning of it. So
// an entry that is kept back, changed or added for us alone is noticed, and an
// answer that is wrong costs time and nothing else.
//
// Each head is held against the one before. Two that contradict each other,
// both signed, are a fork: the log is not followed any further, the two
// statements are kept, and the journal says so.
//
// # What is found
//
// A certificate or precertificate for one of our domains that our own issuance
// does not know (no authority of ours allotted serial and key, and no
// certificate that was obtained by us has the same content) is a finding. It is
// told of after a grace period, because a log may show a certificate before
// whoever obtained it has stored it.
package ctwatch
