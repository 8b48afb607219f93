package certmanager_test

import (
	"testing"

	"chancery/internal/scan/cloud/certmanager"
	"chancery/internal/scan/cloud/cloudtest"
)

func TestSource(t *testing.T) {
	cloudtest.Run(t, cloudtest.Suite{Kind: certmanager.Kind, Start: cloudtest.CertificateManager, List: "ListCertificates", PageSize: 1000, Tokens: true, Tags: true})
}
