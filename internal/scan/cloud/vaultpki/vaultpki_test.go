package vaultpki_test

import (
	"fmt"
	"testing"

	"chancery/internal/scan/cloud/cloudtest"
	"chancery/internal/scan/cloud/vaultpki"
)

func TestSource(t *testing.T) {
	cloudtest.Run(t, cloudtest.Suite{Kind: vaultpki.Kind, Start: cloudtest.Vault, List: "ListCertificates", Get: "GetCertificate", PageSize: 50,
		Name: func(i int) string { return fmt.Sprintf("0a:%02x:%02x", i/256, i%256) }})
}
