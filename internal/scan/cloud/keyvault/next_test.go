package keyvault_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/scan/cloud"
	"chancery/internal/scan/cloud/cloudtest"
	"chancery/internal/scan/cloud/keyvault"
)

// A next page on another host would carry the token there: it is refused.
func TestNextPageStaysAtTheVault(t *testing.T) {
	server := cloudtest.KeyVault(t)
	for i, der := range cloudtest.Certificates(t, 40, "azure.test") {
		server.Put(cloudtest.Item{Name: "d" + string(rune('A'+i)), DER: der})
	}
	var asked atomic.Int32
	thief := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer thief.Close()
	server.Do(func() { server.NextHost = thief.URL })
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := cloudtest.List(ctx, server.Open(t, keyvault.Kind, cloud.NewGates(nil)), cloud.Since{}); err == nil || asked.Load() != 0 {
		t.Errorf("%v, and %d requests elsewhere", err, asked.Load())
	}
}
