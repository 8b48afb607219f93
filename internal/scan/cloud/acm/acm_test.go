package acm_test

import (
	"testing"

	"chancery/internal/scan/cloud/acm"
	"chancery/internal/scan/cloud/cloudtest"
)

func TestSource(t *testing.T) {
	cloudtest.Run(t, cloudtest.Suite{Kind: acm.Kind, Start: cloudtest.ACM, List: "ListCertificates", Get: "GetCertificate", PageSize: 1000, Tokens: true, Tags: true})
}
