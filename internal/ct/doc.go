// Package ct submits precertificates to Certificate Transparency logs (RFC 6962
// section 4.2, and the same call of static-ct-api) and collects their signed
// timestamps: in parallel, with a deadline, and with the next log as soon as
// one fails or is slow. A timestamp counts only after its signature was checked
// against the key that the configuration gives the log.
package ct
