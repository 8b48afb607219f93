package app

import (
	"chancery/internal/deploy"
	"chancery/internal/issuer"
	"chancery/internal/issuer/local"
)

// This file is the only list of plug-ins: a new kind is a folder and a line.

// issuerKinds returns every kind of issuer. What our own CA needs is given when
// the kinds are to be opened, and may be zero when only their settings matter.
func issuerKinds(own local.Authorities) []issuer.Kind {
	return []issuer.Kind{
		local.Kind(own),
	}
}

// targetKinds returns every kind of deployment target.
func targetKinds() []deploy.Kind {
	return []deploy.Kind{}
}
