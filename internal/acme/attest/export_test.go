package attest

// ParsePubArea and ParseCertInfo report whether the parsers of TPM structures,
// which a chain and a signature guard, take b.
func ParsePubArea(b []byte) bool  { _, ok := parsePubArea(b); return ok }
func ParseCertInfo(b []byte) bool { _, ok := parseCertInfo(b); return ok }
