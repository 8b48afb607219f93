// Package verdict judges the certificates that endpoints serve: trust by
// several root sets apart, dates, host name, strength, revocation.
//
// A scan meets the same issuers over and over, so what follows a leaf is
// verified once and remembered, as is the verdict on a leaf that many
// endpoints share. Only what depends on the endpoint or on the moment is
// judged each time.
package verdict
