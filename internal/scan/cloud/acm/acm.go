// Package acm is the source for AWS Certificate Manager.
//
// One ListCertificates for a thousand certificates says what there is and what
// has changed; only certificates that are new or renewed are fetched. Imported
// ones, those of every key type and those that ACME clients got are listed,
// too: the service's own defaults leave them out.
package acm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/acm"
	"github.com/aws/aws-sdk-go-v2/service/acm/types"
	"github.com/aws/smithy-go/logging"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Config are the keys of a source of this kind.
type Config struct {
	// Region, such as eu-central-1. ACM keeps certificates per region; name one
	// source for each.
	Region string `toml:"region"`

	// Profile of the AWS configuration files. Empty: the default credentials
	// (variables, profile, web identity, container, instance).
	Profile string `toml:"profile"`

	// Endpoint in place of the region's, such as that of a VPC endpoint.
	Endpoint string `toml:"endpoint" format:"url"`
}

// Kind is the plug-in.
var Kind = cloud.Kind{Name: "aws-acm", Provider: "aws", Doc: "AWS Certificate Manager, one region of one account",
	Config: func() any { return &Config{} },
	Open:   func(env cloud.Env, config any) (cloud.Source, error) { return open(env, config.(*Config)) }}

// rates are the service's quotas of each operation.
var rates = map[string]cloud.Rate{
	"ListCertificates":       {PerSecond: 8, Burst: 8},
	"GetCertificate":         {PerSecond: 10, Burst: 10},
	"ListTagsForCertificate": {PerSecond: 10, Burst: 10},
}

// page is the most that one ListCertificates returns.
const page = 1000

type source struct {
	client   *acm.Client
	region   string
	wantTags bool
}

func open(env cloud.Env, c *Config) (cloud.Source, error) {
	if c.Region == "" {
		return nil, fault.New(fault.Invalid, "region: must be set, such as eu-central-1")
	}
	cfg, err := awsconfig.LoadDefaultConfig(context.Background(), awsconfig.WithRegion(c.Region), awsconfig.WithSharedConfigProfile(c.Profile),
		awsconfig.WithLogger(logging.Nop{}))
	if err != nil {
		return nil, fault.Wrap(err, fault.Precondition, "profile: the AWS configuration cannot be read: %s", err)
	}
	scope := env.Scope("aws", c.Profile, c.Region, rates)
	scope.Throttle = throttled
	client := acm.NewFromConfig(cfg, func(o *acm.Options) {
		o.HTTPClient = env.Gates.Client(scope, nil)
		o.Retryer = retry.NewAdaptiveMode(func(a *retry.AdaptiveModeOptions) {
			a.StandardOptions = append(a.StandardOptions, func(s *retry.StandardOptions) { s.MaxAttempts, s.MaxBackoff = 8, 10*time.Second })
		})
		if c.Endpoint != "" {
			o.BaseEndpoint = aws.String(c.Endpoint)
		}
	})
	return &source{client, c.Region, env.WantTags}, nil
}

// throttled recognises the refusals that AWS sends with status 400.
func throttled(resp *http.Response, body []byte) bool {
	kind := resp.Header.Get("X-Amzn-Errortype")
	return strings.Contains(kind, "Throttl") || bytes.Contains(body, []byte("ThrottlingException")) || bytes.Contains(body, []byte("TooManyRequestsException"))
}

func (s *source) input(most int32, token *string) *acm.ListCertificatesInput {
	return &acm.ListCertificatesInput{MaxItems: aws.Int32(most), NextToken: token,
		CertificateKeyPairOrigins: types.CertificateKeyPairOrigin("").Values(),
		CertificateStatuses:       []types.CertificateStatus{types.CertificateStatusIssued, types.CertificateStatusInactive, types.CertificateStatusExpired, types.CertificateStatusRevoked},
		Includes:                  &types.Filters{KeyTypes: types.KeyAlgorithm("").Values()}}
}

// Check implements cloud.Checker.
func (s *source) Check(ctx context.Context) error {
	_, err := s.client.ListCertificates(cloud.WithOperation(ctx, "ListCertificates"), s.input(1, nil))
	return explain("list certificates", err)
}

// List implements cloud.Source.
func (s *source) List(ctx context.Context, since cloud.Since) iter.Seq2[cloud.Cert, error] {
	return func(yield func(cloud.Cert, error) bool) {
		var pages cloud.Pages
		for token := (*string)(nil); ; {
			out, err := s.client.ListCertificates(cloud.WithOperation(ctx, "ListCertificates"), s.input(page, token))
			if err == nil {
				token = out.NextToken
				err = pages.Next(len(out.CertificateSummaryList), aws.ToString(token))
			}
			if err != nil {
				yield(cloud.Cert{}, explain("list certificates", err))
				return
			}
			p := cloud.Page{Get: s.get}
			for i := range out.CertificateSummaryList {
				p.Certs = append(p.Certs, s.cert(&out.CertificateSummaryList[i]))
			}
			if !p.Yield(ctx, &since, yield) || aws.ToString(token) == "" {
				return
			}
		}
	}
}

// cert is what the list says of a certificate.
func (s *source) cert(c *types.CertificateSummary) cloud.Cert {
	out := cloud.Cert{Region: s.region, RevokedAt: aws.ToTime(c.RevokedAt)}
	out.Ref = aws.ToString(c.CertificateArn)
	if a, err := arn.Parse(out.Ref); err == nil {
		out.Account, out.Region = a.AccountID, a.Region
	}
	var b strings.Builder
	for _, t := range []*time.Time{c.IssuedAt, c.ImportedAt, c.NotAfter, c.RevokedAt} {
		fmt.Fprintf(&b, "%d.", unix(t))
	}
	out.Version = b.String() + string(c.Status)
	return out
}

func unix(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// get fetches the bytes of a certificate, and its tags if they are wanted.
func (s *source) get(ctx context.Context, c *cloud.Cert) error {
	got, err := s.client.GetCertificate(cloud.WithOperation(ctx, "GetCertificate"), &acm.GetCertificateInput{CertificateArn: aws.String(c.Ref)})
	if _, gone := errors.AsType[*types.ResourceNotFoundException](err); gone {
		c.Gone = true
		return nil
	}
	if err != nil {
		return explain("get certificate", err)
	}
	c.DER, c.Err = cloud.LeafPEM(c.Ref, []byte(aws.ToString(got.Certificate)))
	if !s.wantTags {
		return nil
	}
	tags, err := s.client.ListTagsForCertificate(cloud.WithOperation(ctx, "ListTagsForCertificate"), &acm.ListTagsForCertificateInput{CertificateArn: aws.String(c.Ref)})
	if err != nil {
		return explain("list tags", err)
	}
	c.Tags = make(map[string]string, len(tags.Tags))
	for _, t := range tags.Tags {
		c.Tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return nil
}

// explain says what the user can mend.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	var api interface{ ErrorCode() string }
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "AccessDeniedException", "AccessDenied", "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredTokenException", "InvalidSignatureException", "MissingAuthenticationToken":
			return fault.Wrap(err, fault.Precondition, "%s: AWS refuses these credentials (%s); they need acm:ListCertificates, acm:GetCertificate and, for owners, acm:ListTagsForCertificate", what, api.ErrorCode())
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}
