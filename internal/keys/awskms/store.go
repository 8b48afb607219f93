//go:build awskms

package awskms

import (
	"context"
	"crypto"
	"crypto/mldsa"
	"crypto/sha3"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"

	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

const (
	scheme   = keys.AWS + ":"
	maxKeys  = 10_000 // that are listed
	maxPause = time.Second
)

// Store is the keys of one account and region.
type Store struct {
	cfg    Config
	client *kms.Client
}

// Open prepares a client; nothing is asked yet.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	client := awshttp.NewBuildableClient().WithTimeout(cfg.Timeout).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = 64 // signatures are made side by side
	})
	retryer := func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = cfg.Attempts, maxPause })
	}
	sdk, err := config.LoadDefaultConfig(ctx, config.WithRetryer(retryer), config.WithHTTPClient(client))
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "the AWS configuration of this environment cannot be read")
	}
	if cfg.Region != "" {
		sdk.Region = cfg.Region
	}
	if sdk.Region == "" {
		return nil, fault.New(fault.Invalid, "no AWS region is configured; set keys.aws_kms.region")
	}
	return &Store{cfg, kms.NewFromConfig(sdk, func(o *kms.Options) {
		if cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(cfg.Endpoint)
		}
	})}, nil
}

// kind is how KMS names keys of a type and what they sign.
type kind struct {
	spec      types.KeySpec
	algorithm map[crypto.Hash]types.SigningAlgorithmSpec
	message   types.MessageType
}

var (
	rsa = map[crypto.Hash]types.SigningAlgorithmSpec{crypto.SHA256: types.SigningAlgorithmSpecRsassaPkcs1V15Sha256,
		crypto.SHA384: types.SigningAlgorithmSpecRsassaPkcs1V15Sha384, crypto.SHA512: types.SigningAlgorithmSpecRsassaPkcs1V15Sha512}
	lattice = map[crypto.Hash]types.SigningAlgorithmSpec{0: types.SigningAlgorithmSpecMlDsaShake256}

	// kinds lacks Ed25519: KMS takes messages of at most 4096 octets for it, and
	// a CRL is longer. ML-DSA keys take a representative of fixed length.
	kinds = map[pki.KeyType]kind{
		pki.P256:    {types.KeySpecEccNistP256, map[crypto.Hash]types.SigningAlgorithmSpec{crypto.SHA256: types.SigningAlgorithmSpecEcdsaSha256}, types.MessageTypeDigest},
		pki.P384:    {types.KeySpecEccNistP384, map[crypto.Hash]types.SigningAlgorithmSpec{crypto.SHA384: types.SigningAlgorithmSpecEcdsaSha384}, types.MessageTypeDigest},
		pki.RSA2048: {types.KeySpecRsa2048, rsa, types.MessageTypeDigest},
		pki.RSA3072: {types.KeySpecRsa3072, rsa, types.MessageTypeDigest},
		pki.RSA4096: {types.KeySpecRsa4096, rsa, types.MessageTypeDigest},
		pki.MLDSA44: {types.KeySpecMlDsa44, lattice, types.MessageTypeExternalMu},
		pki.MLDSA65: {types.KeySpecMlDsa65, lattice, types.MessageTypeExternalMu},
		pki.MLDSA87: {types.KeySpecMlDsa87, lattice, types.MessageTypeExternalMu},
	}
)

// Create makes a key and its alias, and returns "aws-kms:" and the key's id.
// See keys.Store.
func (s *Store) Create(ctx context.Context, name string, kt pki.KeyType) (string, error) {
	if err := keys.CheckName(name); err != nil {
		return "", err
	}
	k, ok := kinds[kt]
	if !ok {
		return "", keys.NoSuchKeyType("AWS KMS", kt)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	alias := aws.String("alias/" + s.cfg.Prefix + name)
	taken := fault.New(fault.Conflict, "AWS KMS already has a key with the alias %s", *alias)
	_, err := s.client.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: alias})
	if err == nil {
		return "", taken
	}
	if !is[*types.NotFoundException](err) {
		return "", s.explain(err, "describe key "+name, "kms:DescribeKey")
	}
	made, err := s.client.CreateKey(ctx, &kms.CreateKeyInput{KeySpec: k.spec, KeyUsage: types.KeyUsageTypeSignVerify,
		Description: aws.String("Chancery: " + name)})
	if err != nil {
		return "", s.explain(err, "make key "+name, "kms:CreateKey")
	}
	id := made.KeyMetadata.KeyId
	if _, err = s.client.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: alias, TargetKeyId: id}); err != nil {
		s.discard(ctx, id)
		if is[*types.AlreadyExistsException](err) {
			return "", taken
		}
		return "", s.explain(err, "name key "+name, "kms:CreateAlias")
	}
	return scheme + *id, nil
}

// discard has a key deleted that nobody will know of. KMS waits at least a
// week with it; failing that, it is only an unused key.
func (s *Store) discard(ctx context.Context, id *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
	defer cancel()
	_, _ = s.client.ScheduleKeyDeletion(ctx, &kms.ScheduleKeyDeletionInput{KeyId: id, PendingWindowInDays: aws.Int32(7)})
}

// identifier is an id, ARN or alias, as far as we need to know it.
var identifier = regexp.MustCompile(`^[A-Za-z0-9:/_-]{1,1000}$`)

// Open reads the public key of a reference. See keys.Store.
func (s *Store) Open(ctx context.Context, ref string) (crypto.Signer, error) {
	id, ok := strings.CutPrefix(ref, scheme)
	if !ok || !identifier.MatchString(id) {
		return nil, fault.New(fault.NotFound, "the key reference %.200q is not of the form aws-kms:ID", ref)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	out, err := s.client.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &id})
	if err != nil {
		return nil, s.explain(err, "open key "+ref, "kms:GetPublicKey")
	}
	pub, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("open key %s: %w", ref, err)
	}
	kt, err := pki.KeyTypeOf(pub)
	if err != nil {
		return nil, err
	}
	if _, ok := kinds[kt]; !ok || out.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, fault.New(fault.Invalid, "the key %s in AWS KMS (%s, %s) cannot sign for an authority", ref, out.KeySpec, out.KeyUsage)
	}
	return &Key{s, id, pub, kt}, nil
}

// List returns the references of all keys whose alias has our prefix. See
// keys.Store.
func (s *Store) List(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var refs []string
	pages := kms.NewListAliasesPaginator(s.client, &kms.ListAliasesInput{Limit: aws.Int32(100)})
	for pages.HasMorePages() && len(refs) < maxKeys {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, s.explain(err, "list keys", "kms:ListAliases")
		}
		for _, a := range page.Aliases {
			if strings.HasPrefix(aws.ToString(a.AliasName), "alias/"+s.cfg.Prefix) && a.TargetKeyId != nil {
				refs = append(refs, scheme+*a.TargetKeyId)
			}
		}
	}
	slices.Sort(refs)
	return refs, nil
}

// Key is a private key in KMS. It is safe for concurrent use.
type Key struct {
	s      *Store
	id     string
	public crypto.PublicKey
	kt     pki.KeyType
}

// Public returns the public key.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign implements crypto.Signer; it waits at most Config.Timeout.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext signs a digest; with ML-DSA, a whole message (opts.HashFunc is
// 0). RSA keys sign by PKCS #1 v1.5.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	kd := kinds[k.kt]
	algorithm, ok := kd.algorithm[opts.HashFunc()]
	if !ok {
		return nil, fmt.Errorf("sign: a %s key does not sign with %v", k.kt, opts.HashFunc())
	}
	message := digest
	if pub, ok := k.public.(*mldsa.PublicKey); ok {
		message = representative(pub, digest)
	} else if _, err := keys.CheckDigest(digest, opts); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, k.s.cfg.Timeout)
	defer cancel()
	out, err := k.s.client.Sign(ctx, &kms.SignInput{KeyId: &k.id, Message: message, MessageType: kd.message, SigningAlgorithm: algorithm})
	if err != nil {
		return nil, k.s.explain(err, "sign", "kms:Sign")
	}
	return out.Signature, nil
}

// representative is the message representative of FIPS 204 algorithm 7, line 6,
// with an empty context: H(H(pk, 64) || 0 || 0 || M, 64).
func representative(pub *mldsa.PublicKey, message []byte) []byte {
	tr := sha3.SumSHAKE256(pub.Bytes(), 64)
	h := sha3.NewSHAKE256()
	for _, part := range [][]byte{tr, {0, 0}, message} {
		_, _ = h.Write(part) // never fails
	}
	mu := make([]byte, 64)
	_, _ = h.Read(mu) // never fails
	return mu
}

// is reports whether an error is the exception E.
func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// explain turns an error of KMS into what an operator must know. action is
// the permission that the request needs.
func (s *Store) explain(err error, what, action string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	code := ""
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		code = api.ErrorCode()
	}
	switch code {
	case "AccessDeniedException", "UnrecognizedClientException", "InvalidSignatureException", "ExpiredTokenException", "InvalidClientTokenId":
		return fault.Wrap(err, fault.Precondition, "AWS KMS does not allow it to %s; give this server's identity the permission %s", what, action)
	case "NotFoundException":
		return fault.Wrap(err, fault.NotFound, "AWS KMS has no such key (%s)", what)
	case "DisabledException", "KMSInvalidStateException":
		return fault.Wrap(err, fault.Precondition, "the key in AWS KMS is disabled or about to be deleted (%s); enable it", what)
	case "UnsupportedOperationException", "ValidationException", "InvalidKeyUsageException":
		return fault.Wrap(err, fault.Invalid, "AWS KMS cannot %s", what)
	}
	return fault.Wrap(err, fault.Unavailable, "AWS KMS does not answer in time or has too much to do; try again").Retry(2 * time.Second)
}
