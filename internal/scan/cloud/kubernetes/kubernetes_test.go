package kubernetes_test

import (
	"testing"

	"chancery/internal/scan/cloud/cloudtest"
	"chancery/internal/scan/cloud/kubernetes"
)

func TestSource(t *testing.T) {
	cloudtest.Run(t, cloudtest.Suite{Kind: kubernetes.Kind, Start: cloudtest.Cluster, List: "ListSecrets", PageSize: 500, Tokens: true, Tags: true})
}
