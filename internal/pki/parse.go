package pki

import (
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// rawExtension is one Extension whose parts point into the parsed bytes.
type rawExtension struct {
	oid      cryptobyte.String
	critical bool
	value    cryptobyte.String // content of the OCTET STRING
}

// readExtension reads one Extension.
func readExtension(list *cryptobyte.String, x *rawExtension) bool {
	var ext cryptobyte.String
	x.critical = false
	return list.ReadASN1(&ext, cbasn1.SEQUENCE) && ext.ReadASN1(&x.oid, cbasn1.OBJECT_IDENTIFIER) &&
		readCritical(&ext, &x.critical) && ext.ReadASN1(&x.value, cbasn1.OCTET_STRING) && ext.Empty()
}

// readCritical reads "critical BOOLEAN DEFAULT FALSE". An explicit FALSE is
// not DER but common, and harmless.
func readCritical(ext *cryptobyte.String, critical *bool) bool {
	return !ext.PeekASN1Tag(cbasn1.BOOLEAN) || ext.ReadASN1Boolean(critical)
}

// readInteger reads the content octets of an INTEGER in its shortest form.
func readInteger(in *cryptobyte.String, content *cryptobyte.String) bool {
	if !in.ReadASN1(content, cbasn1.INTEGER) || len(*content) == 0 {
		return false
	}
	c := *content
	return len(c) == 1 || !(c[0] == 0 && c[1]&0x80 == 0 || c[0] == 0xff && c[1]&0x80 != 0)
}

// readTime reads a UTCTime or GeneralizedTime.
func readTime(in *cryptobyte.String, t *time.Time) bool {
	if in.PeekASN1Tag(cbasn1.UTCTime) {
		return in.ReadASN1UTCTime(t)
	}
	return in.ReadASN1GeneralizedTime(t)
}
