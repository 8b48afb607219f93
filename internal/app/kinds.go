package app

import (
	"chancery/internal/scan/cloud"
	"chancery/internal/scan/cloud/acm"
	"chancery/internal/scan/cloud/certmanager"
	"chancery/internal/scan/cloud/keyvault"
	"chancery/internal/scan/cloud/kubernetes"
	"chancery/internal/scan/cloud/vaultpki"
)

// This file is the only list of plug-ins: a new kind is a folder and a line.

// CloudKinds returns every kind of source of certificates.
func CloudKinds() []cloud.Kind {
	return []cloud.Kind{acm.Kind, keyvault.Kind, certmanager.Kind, kubernetes.Kind, vaultpki.Kind}
}
