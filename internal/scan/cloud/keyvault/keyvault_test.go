package keyvault_test

import (
	"testing"

	"chancery/internal/scan/cloud/cloudtest"
	"chancery/internal/scan/cloud/keyvault"
)

func TestSource(t *testing.T) {
	cloudtest.Run(t, cloudtest.Suite{Kind: keyvault.Kind, Start: cloudtest.KeyVault, List: "ListCertificates", Get: "GetCertificate", PageSize: 25, Tokens: true, Tags: true})
}
