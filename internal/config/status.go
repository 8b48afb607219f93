package config

import "time"

// Status is the [status] section.
type Status struct {
	// How long an OCSP answer is valid. It is signed anew when half of that is
	// over.
	OCSPValidity time.Duration `toml:"ocsp_validity"`

	// Sign OCSP answers with the key of the authority itself, not with that of
	// a delegated responder.
	OCSPDirect bool `toml:"ocsp_direct"`

	// Repeat the nonce of a request (RFC 9654) in an answer made for it alone.
	// Otherwise it is ignored, and caches work.
	OCSPNonce bool `toml:"ocsp_nonce"`

	// Most OCSP answers in a second that are made for one client alone: with a
	// nonce, or about several certificates.
	OCSPLiveRate int `toml:"ocsp_live_rate" min:"1" max:"1000000"`

	// Most cores that sign OCSP answers ahead of time. 0: half of them.
	SignWorkers int `toml:"sign_workers" min:"0" max:"1024"`

	// How long a CRL of an issuing authority is valid.
	CRLValidity time.Duration `toml:"crl_validity"`

	// How old a CRL gets before it is made again although nothing was revoked.
	CRLRefresh time.Duration `toml:"crl_refresh"`

	// Directory that gets a copy of every CRL, AUTHORITY/N.crl, each replaced
	// by a rename. Empty: none.
	CRLDirectory string `toml:"crl_directory"`

	// S3-compatible bucket, with a prefix if wanted, that gets a copy of every
	// CRL: https://host/bucket/prefix. Any server that takes PUT with If-Match
	// will do. Empty: none.
	BucketURL string `toml:"bucket_url" format:"url"`

	// Region of the bucket.
	BucketRegion string `toml:"bucket_region"`

	// Access key of the bucket. Empty: requests are not signed.
	BucketAccessKey string `toml:"bucket_access_key"`

	// File whose first line is the secret key of the bucket.
	BucketSecretKeyFile string `toml:"bucket_secret_key_file"`

	// Hook that empties caches in front of http_url: it gets a POST with JSON,
	// {"urls": [...], "prefixes": [...]}. Empty: none.
	PurgeURL string `toml:"purge_url" format:"url"`

	// File whose first line is sent to the hook as a bearer token. Empty: none.
	PurgeTokenFile string `toml:"purge_token_file"`

	// How many issued certificates are read again in a second, in the
	// background, against profile, lints, journal and evidence.
	CheckRate int `toml:"check_rate" min:"1" max:"10000"`
}

// status checks [status].
func (k *checker) status() {
	s := &k.c.Status
	k.must(s.OCSPValidity >= time.Hour, "status.ocsp_validity", "must be at least 1h")
	k.must(s.CRLRefresh < s.CRLValidity, "status.crl_refresh", "must be less than status.crl_validity (%s)", FormatDuration(s.CRLValidity))
	k.must(s.BucketURL == "" || (s.BucketAccessKey == "") == (s.BucketSecretKeyFile == ""), "status.bucket_access_key",
		"set both bucket_access_key and bucket_secret_key_file, or neither")
	k.must(s.BucketAccessKey == "" || s.BucketRegion != "", "status.bucket_region", "must be set when requests are signed")
	k.must(s.PurgeURL != "" || s.PurgeTokenFile == "", "status.purge_url", "must be set when there is a purge_token_file")
}
