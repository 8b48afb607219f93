//go:build awskms

package awskms

import (
	"context"
	"crypto"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/keys/keystest"
	"chancery/internal/pki"
)

// cloud answers as KMS does (JSON 1.1, X-Amz-Target), with real keys.
type cloud struct {
	t *testing.T

	mu      sync.Mutex
	keys    map[string]crypto.Signer // by id
	specs   map[string]string
	aliases map[string]string // alias -> id
	deleted int
	calls   map[string]int             // by operation
	fail    func(op string, n int) any // an exception, or nil
	hang    bool
}

// exception is an error on the wire.
type exception struct {
	status int
	Type   string `json:"__type"`
	Text   string `json:"message"`
}

func newCloud(t *testing.T) (*cloud, Config) {
	c := &cloud{t: t, keys: map[string]crypto.Signer{}, specs: map[string]string{}, aliases: map[string]string{}, calls: map[string]int{}}
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	return c, Config{Region: "eu-west-1", Endpoint: srv.URL, Prefix: "chancery/", Timeout: time.Minute}
}

// request is every field of the requests that are understood.
type request struct {
	KeyId, KeySpec, KeyUsage, AliasName, TargetKeyId, MessageType, SigningAlgorithm, Marker string
	Message                                                                                 []byte
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/kms/") {
		c.t.Errorf("the request is not signed for KMS in eu-west-1: %q", r.Header.Get("Authorization"))
	}
	var req request
	if err := json.UnmarshalRead(r.Body, &req); err != nil {
		c.t.Error(err)
	}
	if c.hang {
		<-r.Context().Done()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[op]++
	var out any
	if c.fail != nil {
		out = c.fail(op, c.calls[op])
	}
	if out == nil {
		out = c.answer(op, &req)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if e, ok := out.(exception); ok {
		w.WriteHeader(e.status)
	}
	if err := json.MarshalWrite(w, out); err != nil {
		c.t.Error(err)
	}
}

// specs of KMS.
var specs = map[string]pki.KeyType{"ECC_NIST_P256": pki.P256, "ECC_NIST_P384": pki.P384, "RSA_2048": pki.RSA2048, "RSA_3072": pki.RSA3072, "RSA_4096": pki.RSA4096,
	"ML_DSA_44": pki.MLDSA44, "ML_DSA_65": pki.MLDSA65, "ML_DSA_87": pki.MLDSA87}

func (c *cloud) answer(op string, req *request) any {
	missing := exception{400, "NotFoundException", "there is no such key"}
	id := req.KeyId
	if target, ok := c.aliases[id]; ok {
		id = target
	}
	key := c.keys[id]
	switch op {
	case "DescribeKey":
		if key == nil {
			return missing
		}
		return map[string]any{"KeyMetadata": map[string]any{"KeyId": id}}
	case "CreateKey":
		kt, ok := specs[req.KeySpec]
		if !ok || req.KeyUsage != "SIGN_VERIFY" {
			return exception{400, "ValidationException", "bad spec"}
		}
		made, err := keys.Generate(kt)
		if err != nil {
			c.t.Error(err)
		}
		id := fmt.Sprintf("1234abcd-12ab-34cd-56ef-%012d", len(c.keys))
		c.keys[id], c.specs[id] = made, req.KeySpec
		return map[string]any{"KeyMetadata": map[string]any{"KeyId": id, "Arn": "arn:aws:kms:eu-west-1:111122223333:key/" + id}}
	case "CreateAlias":
		if _, ok := c.aliases[req.AliasName]; ok {
			return exception{400, "AlreadyExistsException", "taken"}
		}
		c.aliases[req.AliasName] = req.TargetKeyId
		return map[string]any{}
	case "ScheduleKeyDeletion":
		c.deleted++
		delete(c.keys, req.KeyId)
		return map[string]any{}
	case "ListAliases":
		return c.list(req.Marker)
	case "GetPublicKey":
		if key == nil {
			return missing
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			c.t.Error(err)
		}
		return map[string]any{"KeyId": id, "KeySpec": c.specs[id], "KeyUsage": "SIGN_VERIFY", "PublicKey": der}
	case "Sign":
		if key == nil {
			return missing
		}
		return c.sign(key, id, req)
	}
	return exception{400, "UnknownOperationException", op}
}

// list gives one alias a page, and some that are not ours.
func (c *cloud) list(marker string) any {
	all := []map[string]string{{"AliasName": "alias/aws/s3", "TargetKeyId": "other"}, {"AliasName": "alias/chancery/none"}}
	for alias, id := range c.aliases {
		all = append(all, map[string]string{"AliasName": alias, "TargetKeyId": id})
	}
	n := 0
	if marker != "" {
		fmt.Sscan(marker, &n)
	}
	if n == 0 {
		return map[string]any{"Aliases": all[:1], "Truncated": true, "NextMarker": "1"}
	}
	return map[string]any{"Aliases": all[1:], "Truncated": false}
}

func (c *cloud) sign(key crypto.Signer, id string, req *request) any {
	hash := map[string]crypto.Hash{"ECDSA_SHA_256": crypto.SHA256, "ECDSA_SHA_384": crypto.SHA384, "RSASSA_PKCS1_V1_5_SHA_256": crypto.SHA256,
		"RSASSA_PKCS1_V1_5_SHA_384": crypto.SHA384, "RSASSA_PKCS1_V1_5_SHA_512": crypto.SHA512, "ML_DSA_SHAKE_256": crypto.MLDSAMu}[req.SigningAlgorithm]
	kind := "DIGEST"
	if _, ok := key.(*mldsa.PrivateKey); ok {
		kind = "EXTERNAL_MU"
	}
	if hash == 0 || req.MessageType != kind || len(req.Message) != hash.Size() {
		return exception{400, "ValidationException", "bad message"}
	}
	sig, err := key.Sign(rand.Reader, req.Message, hash)
	if err != nil {
		return exception{400, "InvalidKeyUsageException", err.Error()}
	}
	return map[string]any{"KeyId": id, "Signature": sig, "SigningAlgorithm": req.SigningAlgorithm}
}

func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSuite(t *testing.T) {
	_, cfg := newCloud(t)
	keystest.Run(t, func(t *testing.T) keys.Store { return open(t, cfg) })
}

// withKey is a store with one key.
func withKey(t *testing.T, change func(*Config)) (*cloud, *Store, crypto.Signer) {
	t.Helper()
	c, cfg := newCloud(t)
	if change != nil {
		change(&cfg)
	}
	s := open(t, cfg)
	ref, err := s.Create(t.Context(), "key", pki.P256)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return c, s, key
}

// TestThrottling: a request that KMS refuses for its rate is repeated, a
// bounded number of times, and then the caller is told to come back.
func TestThrottling(t *testing.T) {
	c, _, key := withKey(t, func(c *Config) { c.Attempts = 3 })
	throttled := exception{400, "ThrottlingException", "Rate exceeded"}
	c.fail = func(op string, n int) any {
		if op == "Sign" && n < 3 {
			return throttled
		}
		return nil
	}
	if err := keys.Prove(t.Context(), key); err != nil || c.calls["Sign"] != 3 {
		t.Errorf("two refusals: %v after %d requests", err, c.calls["Sign"])
	}
	c.fail = func(string, int) any { return throttled }
	err := keys.Prove(t.Context(), key)
	if f, ok := errors.AsType[*fault.Error](err); !ok || f.Status() != 503 || f.RetryAfter <= 0 {
		t.Errorf("nothing but refusals: %v", err)
	}
	if n := c.calls["Sign"]; n != 6 {
		t.Errorf("%d requests, want 3 and 3", n)
	}
}

func TestAnswersOfTheCloud(t *testing.T) {
	c, s, key := withKey(t, nil)
	for _, test := range []struct {
		e    exception
		want fault.Code
		word string
	}{
		{exception{400, "AccessDeniedException", "User is not authorized"}, fault.Precondition, "kms:Sign"},
		{exception{400, "DisabledException", "disabled"}, fault.Precondition, "enable it"},
		{exception{400, "KMSInvalidStateException", "pending deletion"}, fault.Precondition, "enable it"},
		{exception{400, "NotFoundException", "gone"}, fault.NotFound, "no such key"},
		{exception{500, "KMSInternalException", "internal"}, fault.Unavailable, "try again"},
	} {
		c.fail = func(string, int) any { return test.e }
		if err := keys.Prove(t.Context(), key); !fault.Is(err, test.want) || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: %v", test.e.Type, err)
		}
	}
	c.fail = nil
	for _, ref := range []string{"aws-kms:", "aws-kms:a b", "aws-kms:1234abcd-0000", "file:x"} {
		if _, err := s.Open(t.Context(), ref); !fault.Is(err, fault.NotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Open(t.Context(), "aws-kms:alias/chancery/key"); err != nil {
		t.Errorf("by its alias: %v", err)
	}
}

// TestNameTakenMeanwhile: the key of a name that another process took in
// between is not left behind.
func TestNameTakenMeanwhile(t *testing.T) {
	c, s, _ := withKey(t, nil)
	c.fail = func(op string, _ int) any {
		if op == "CreateAlias" {
			return exception{400, "AlreadyExistsException", "taken"}
		}
		return nil
	}
	if _, err := s.Create(t.Context(), "other", pki.P256); !fault.Is(err, fault.Conflict) {
		t.Errorf("a name that is taken meanwhile: %v", err)
	}
	if c.deleted != 1 || len(c.keys) != 1 {
		t.Errorf("%d keys deleted, %d left", c.deleted, len(c.keys))
	}
}

// TestDeadlines: a service that does not answer costs no more than the timeout,
// and no more than the caller has.
func TestDeadlines(t *testing.T) {
	c, _, key := withKey(t, func(c *Config) { c.Timeout = 2 * time.Second })
	c.hang = true
	began := time.Now()
	if err := keys.Prove(t.Context(), key); !fault.Is(err, fault.Unavailable) || time.Since(began) > 10*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	if err := keys.Prove(ctx, key); err == nil || time.Since(began) > 1900*time.Millisecond {
		t.Errorf("a deadline of 50 ms ended after %s: %v", time.Since(began), err)
	}
}

func TestRegionIsNeeded(t *testing.T) {
	_, cfg := newCloud(t)
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	cfg.Region = ""
	if _, err := Open(t.Context(), cfg); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "keys.aws_kms.region") {
		t.Error(err)
	}
}
