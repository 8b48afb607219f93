//go:build azurekms

package azurekms

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

const (
	scheme   = keys.Azure + ":"
	maxKeys  = 10_000 // that are listed
	maxPause = time.Second
	tag      = "chancery" // marks the keys that we made
)

// Store is the keys of one vault.
type Store struct {
	cfg    Config
	client *azkeys.Client
}

// Open prepares a client; nothing is asked yet.
func Open(_ context.Context, cfg Config) (*Store, error) {
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the Azure credentials of this environment cannot be read")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 64 // signatures are made side by side
	return open(cfg, credential, &azkeys.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: &http.Client{Transport: transport}}})
}

// open makes a store of a credential and a transport.
func open(cfg Config, credential azcore.TokenCredential, opts *azkeys.ClientOptions) (*Store, error) {
	cfg = cfg.withDefaults()
	if cfg.VaultURL == "" {
		return nil, fault.New(fault.Invalid, "no vault is configured; set keys.azure_kms.vault_url")
	}
	opts.Retry = policy.RetryOptions{MaxRetries: int32(cfg.Attempts - 1), TryTimeout: cfg.Timeout, RetryDelay: 100 * time.Millisecond, MaxRetryDelay: maxPause}
	if cfg.Attempts == 1 {
		opts.Retry.MaxRetries = -1 // 0 would be the default
	}
	client, err := azkeys.NewClient(cfg.VaultURL, credential, opts)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "keys.azure_kms.vault_url %q cannot be used", cfg.VaultURL)
	}
	return &Store{cfg, client}, nil
}

// kind is how the vault names keys of a type and what they sign.
type kind struct {
	curve     azkeys.CurveName // "" for RSA
	bits      int32            // of RSA
	algorithm map[crypto.Hash]azkeys.SignatureAlgorithm
	size      int // of one half of an ECDSA signature
}

var (
	rs = map[crypto.Hash]azkeys.SignatureAlgorithm{crypto.SHA256: azkeys.SignatureAlgorithmRS256,
		crypto.SHA384: azkeys.SignatureAlgorithmRS384, crypto.SHA512: azkeys.SignatureAlgorithmRS512}
	kinds = map[pki.KeyType]kind{
		pki.P256:    {azkeys.CurveNameP256, 0, map[crypto.Hash]azkeys.SignatureAlgorithm{crypto.SHA256: azkeys.SignatureAlgorithmES256}, 32},
		pki.P384:    {azkeys.CurveNameP384, 0, map[crypto.Hash]azkeys.SignatureAlgorithm{crypto.SHA384: azkeys.SignatureAlgorithmES384}, 48},
		pki.RSA2048: {"", 2048, rs, 0},
		pki.RSA3072: {"", 3072, rs, 0},
		pki.RSA4096: {"", 4096, rs, 0},
	}
)

// parameters describe a new key.
func (s *Store) parameters(k kind) azkeys.CreateKeyParameters {
	ours := "key of an authority"
	sign, verify := azkeys.KeyOperationSign, azkeys.KeyOperationVerify
	p := azkeys.CreateKeyParameters{KeyOps: []*azkeys.KeyOperation{&sign, &verify}, Tags: map[string]*string{tag: &ours}}
	kty := azkeys.KeyTypeRSA
	switch {
	case k.curve != "" && s.cfg.HSM:
		kty = azkeys.KeyTypeECHSM
	case k.curve != "":
		kty = azkeys.KeyTypeEC
	case s.cfg.HSM:
		kty = azkeys.KeyTypeRSAHSM
	}
	p.Kty = &kty
	if k.curve != "" {
		p.Curve = &k.curve
	} else {
		p.KeySize = &k.bits
	}
	return p
}

// Create makes a key and returns its reference. See keys.Store.
func (s *Store) Create(ctx context.Context, name string, kt pki.KeyType) (string, error) {
	if err := keys.CheckName(name); err != nil {
		return "", err
	}
	if strings.ContainsAny(name, "._") {
		return "", fault.New(fault.Invalid, "%q is no key name in Azure Key Vault; use a-z, 0-9 and '-'", name)
	}
	k, ok := kinds[kt]
	if !ok {
		return "", keys.NoSuchKeyType("Azure Key Vault", kt)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	// Creating a name again would give the key a new version.
	_, err := s.client.GetKey(ctx, name, "", nil)
	if err == nil {
		return "", fault.New(fault.Conflict, "the vault %s already has a key named %q", s.cfg.VaultURL, name)
	}
	if status(err) != http.StatusNotFound {
		return "", s.explain(err, "look for key "+name, "get")
	}
	made, err := s.client.CreateKey(ctx, name, s.parameters(k), nil)
	if err != nil {
		return "", s.explain(err, "make key "+name, "create")
	}
	if made.Key == nil || made.Key.KID == nil {
		return "", fmt.Errorf("make key %s: the vault did not say its id", name)
	}
	return scheme + name + "/" + made.Key.KID.Version(), nil
}

// reference is NAME/VERSION.
var reference = regexp.MustCompile(`^azure-kms:([0-9A-Za-z-]{1,127})/([0-9A-Za-z]{1,64})$`)

// Open reads the public key of a reference. See keys.Store.
func (s *Store) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	m := reference.FindStringSubmatch(ref)
	if m == nil {
		return nil, fault.New(fault.NotFound, "the key reference %.200q is not of the form azure-kms:NAME/VERSION", ref)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	got, err := s.client.GetKey(ctx, m[1], m[2], nil)
	if err != nil {
		return nil, s.explain(err, "open key "+ref, "get")
	}
	pub, err := publicKey(got.Key)
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the key %s in Azure Key Vault cannot sign for an authority", ref)
	}
	kt, err := pki.KeyTypeOf(pub)
	if err != nil {
		return nil, err
	}
	return &Key{s, m[1], m[2], pub, kt}, nil
}

// publicKey reads a JSON Web Key.
func publicKey(k *azkeys.JSONWebKey) (crypto.PublicKey, error) {
	if k == nil || k.Kty == nil {
		return nil, errors.New("there is no key in the answer")
	}
	switch *k.Kty {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		e := new(big.Int).SetBytes(k.E)
		if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 {
			return nil, errors.New("the exponent is out of range")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(k.N), E: int(e.Int64())}, nil
	case azkeys.KeyTypeEC, azkeys.KeyTypeECHSM:
		curve := map[azkeys.CurveName]elliptic.Curve{azkeys.CurveNameP256: elliptic.P256(), azkeys.CurveNameP384: elliptic.P384()}
		if k.Crv == nil || curve[*k.Crv] == nil {
			return nil, errors.New("the curve is neither P-256 nor P-384")
		}
		size := curve[*k.Crv].Params().BitSize / 8
		if len(k.X) > size || len(k.Y) > size {
			return nil, errors.New("a coordinate is too long")
		}
		point := make([]byte, 1+2*size)
		point[0] = 4
		copy(point[1+size-len(k.X):], k.X)
		copy(point[1+2*size-len(k.Y):], k.Y)
		return ecdsa.ParseUncompressedPublicKey(curve[*k.Crv], point)
	}
	return nil, fmt.Errorf("keys of type %s are not supported", *k.Kty)
}

// List returns the references of all keys that Chancery made in the vault. See
// keys.Store.
func (s *Store) List(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var refs []string
	for pages := s.client.NewListKeyPropertiesPager(nil); pages.More() && len(refs) < maxKeys; {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, s.explain(err, "list keys", "list")
		}
		for _, p := range page.Value {
			if p.KID == nil || p.Tags[tag] == nil {
				continue
			}
			got, err := s.client.GetKey(ctx, p.KID.Name(), "", nil) // the list has no versions
			if err != nil {
				return nil, s.explain(err, "open key "+p.KID.Name(), "get")
			}
			refs = append(refs, scheme+p.KID.Name()+"/"+got.Key.KID.Version())
		}
	}
	slices.Sort(refs)
	return refs, nil
}

// Key is a private key in a vault. It is safe for concurrent use.
type Key struct {
	s             *Store
	name, version string
	public        crypto.PublicKey
	kt            pki.KeyType
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer; it waits at most Config.Timeout.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext signs a digest. RSA keys sign by PKCS #1 v1.5, ECDSA signatures
// are DER.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	h, err := keys.CheckDigest(digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	kd := kinds[k.kt]
	algorithm, ok := kd.algorithm[h]
	if !ok {
		return nil, fmt.Errorf("sign: a %s key does not sign with %v", k.kt, h)
	}
	ctx, cancel := context.WithTimeout(ctx, k.s.cfg.Timeout)
	defer cancel()
	out, err := k.s.client.Sign(ctx, k.name, k.version, azkeys.SignParameters{Algorithm: &algorithm, Value: digest}, nil)
	if err != nil {
		return nil, k.s.explain(err, "sign", "sign")
	}
	if kd.size > 0 {
		return keys.DERSignature(out.Result, kd.size)
	}
	return out.Result, nil
}

// status returns the HTTP status of an answer that is an error, or 0.
func status(err error) int {
	if r, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return r.StatusCode
	}
	return 0
}

// explain turns an error of the vault into what an operator must know.
// permission is what the request needs.
func (s *Store) explain(err error, what, permission string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if _, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok {
		return fault.Wrap(err, fault.Precondition, "Azure does not accept the credentials of this server")
	}
	switch status(err) {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fault.Wrap(err, fault.Precondition, "the vault %s does not allow it to %s; give this server's identity the key permission %q", s.cfg.VaultURL, what, permission)
	case http.StatusNotFound:
		return fault.Wrap(err, fault.NotFound, "the vault %s has no such key (%s)", s.cfg.VaultURL, what)
	case http.StatusConflict:
		return fault.Wrap(err, fault.Conflict, "the vault %s refuses to %s: the name is in use, perhaps by a deleted key", s.cfg.VaultURL, what)
	case http.StatusBadRequest:
		return fault.Wrap(err, fault.Invalid, "the vault %s cannot %s", s.cfg.VaultURL, what)
	}
	return fault.Wrap(err, fault.Unavailable, "the vault %s does not answer in time or has too much to do; try again", s.cfg.VaultURL).Retry(2 * time.Second)
}
