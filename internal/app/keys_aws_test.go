//go:build awskms

package app

import (
	"encoding/json/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/config"
	"chancery/internal/fault"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// TestAWSSettings shows the effect of each setting of [keys.aws_kms] on what is
// sent: region, endpoint, alias_prefix, attempts, timeout.
func TestAWSSettings(t *testing.T) {
	var mu sync.Mutex
	var scopes, aliases []string
	requests, hang := 0, false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req struct{ KeyId string }
		_ = json.UnmarshalRead(r.Body, &req)
		mu.Lock()
		requests++
		scopes, aliases = append(scopes, r.Header.Get("Authorization")), append(aliases, req.KeyId)
		wait := hang
		mu.Unlock()
		if wait {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"__type":"ThrottlingException","message":"Rate exceeded"}`))
	}))
	defer srv.Close()
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_CONFIG_FILE": "/nonexistent",
		"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"} {
		t.Setenv(name, value)
	}
	cfg := config.Default()
	cfg.Server.Data = t.TempDir()
	cfg.Keys.Store = config.StoreAWS
	cfg.Keys.AWS = config.AWSKMS{Region: "xx-test-1", Endpoint: srv.URL, AliasPrefix: "here/", Timeout: 20 * time.Second, Attempts: 2}
	create := func() error {
		k, err := openKeyStores(t.Context(), cfg, paths{cfg.Server.Data}, obs.Discard(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		_, err = k.all.Create(t.Context(), "name", pki.P256)
		return err
	}
	if err := create(); !fault.Is(err, fault.Unavailable) {
		t.Errorf("throttled: %v", err)
	}
	if requests != 2 || aliases[0] != "alias/here/name" || !strings.Contains(scopes[0], "/xx-test-1/kms/") {
		t.Errorf("%d requests, for %q, signed %q", requests, aliases, scopes)
	}
	mu.Lock()
	hang = true
	mu.Unlock()
	cfg.Keys.AWS.Timeout = time.Second
	began := time.Now()
	if err := create(); !fault.Is(err, fault.Unavailable) || time.Since(began) > 15*time.Second {
		t.Errorf("a timeout of 1 s ended after %s: %v", time.Since(began), err)
	}
}
