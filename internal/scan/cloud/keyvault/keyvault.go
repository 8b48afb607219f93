// Package keyvault is the source for Azure Key Vault. The list, 25 a page, has
// the end and the thumbprint of every certificate; only those that are new are
// fetched.
package keyvault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"

	"chancery/internal/fault"
	"chancery/internal/scan/cloud"
)

// Config are the keys of a source of this kind.
type Config struct {
	// URL of the vault: https://NAME.vault.azure.net
	VaultURL string `toml:"vault_url" format:"url"`

	// Tenant of the client below.
	TenantID string `toml:"tenant_id"`

	// Application (client) that reads the vault. Empty: the default
	// credentials (variables, workload identity, managed identity).
	ClientID string `toml:"client_id"`

	// File whose first line is the client's secret.
	ClientSecretFile string `toml:"client_secret_file"`

	// Sign-in host of a sovereign or private cloud. Empty: the public one.
	Authority string `toml:"authority" format:"url"`

	// PEM file with the roots that vault and sign-in host must chain to. Empty:
	// the system's. With one, the vault may have any name.
	CAFile string `toml:"ca_file"`
}

// Kind is the plug-in.
var Kind = cloud.Kind{Name: "azure-keyvault", Provider: "azure", Doc: "the certificates of one Azure Key Vault",
	Config: func() any { return &Config{} },
	Open:   func(env cloud.Env, config any) (cloud.Source, error) { return open(env, config.(*Config)) }}

// rates stay below the service's 2,000 transactions in 10 seconds per vault,
// which others need, too.
var rates = map[string]cloud.Rate{"": {PerSecond: 100, Burst: 100}}

type source struct {
	client *azcertificates.Client
	vault  string // name, as account
}

func open(env cloud.Env, c *Config) (cloud.Source, error) {
	u, err := url.Parse(c.VaultURL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fault.New(fault.Invalid, "vault_url: must be set, such as https://NAME.vault.azure.net")
	}
	base, err := cloud.Transport(c.CAFile, nil)
	if err != nil {
		return nil, err
	}
	vault, _, _ := strings.Cut(u.Hostname(), ".")
	scope := env.Scope("azure", u.Host, "", rates)
	scope.Hosts = []string{u.Host}
	cred, err := credential(c, &http.Client{Transport: base})
	if err != nil {
		return nil, err
	}
	options := azcertificates.ClientOptions{DisableChallengeResourceVerification: c.CAFile != "", ClientOptions: azcore.ClientOptions{
		Transport: env.Gates.Client(scope, base),
		Retry:     policy.RetryOptions{MaxRetries: 7, RetryDelay: 200 * time.Millisecond, MaxRetryDelay: 10 * time.Second}}}
	client, err := azcertificates.NewClient(c.VaultURL, cred, &options)
	if err != nil {
		return nil, fmt.Errorf("make client of key vault: %w", err)
	}
	return &source{client, vault}, nil
}

// credential returns how tokens are got. They pass no gate: they belong to the
// directory, not to the vault.
func credential(c *Config, direct *http.Client) (azcore.TokenCredential, error) {
	common := azcore.ClientOptions{Transport: direct}
	if c.Authority != "" {
		common.Cloud = azcloud.Configuration{ActiveDirectoryAuthorityHost: c.Authority}
	}
	if c.ClientSecretFile == "" {
		if c.ClientID != "" {
			return nil, fault.New(fault.Invalid, "client_secret_file: must be set with client_id")
		}
		cred, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: common, TenantID: c.TenantID, DisableInstanceDiscovery: c.CAFile != ""})
		if err != nil {
			return nil, fault.Wrap(err, fault.Precondition, "there are no Azure credentials here: %s", err)
		}
		return cred, nil
	}
	secret, err := cloud.Secret("client_secret_file", c.ClientSecretFile)
	if err != nil {
		return nil, err
	}
	cred, err := azidentity.NewClientSecretCredential(c.TenantID, c.ClientID, secret, &azidentity.ClientSecretCredentialOptions{ClientOptions: common, DisableInstanceDiscovery: c.CAFile != ""})
	if err != nil {
		return nil, fault.Wrap(err, fault.Invalid, "tenant_id: the Azure credentials are not complete: %s", err)
	}
	return cred, nil
}

// Check implements cloud.Checker.
func (s *source) Check(ctx context.Context) error {
	_, err := s.client.NewListCertificatePropertiesPager(nil).NextPage(cloud.WithOperation(ctx, "ListCertificates"))
	return explain("list certificates", err)
}

// List implements cloud.Source.
func (s *source) List(ctx context.Context, since cloud.Since) iter.Seq2[cloud.Cert, error] {
	return func(yield func(cloud.Cert, error) bool) {
		var pages cloud.Pages
		for pager := s.client.NewListCertificatePropertiesPager(nil); pager.More(); {
			out, err := pager.NextPage(cloud.WithOperation(ctx, "ListCertificates"))
			if err == nil {
				next := ""
				if out.NextLink != nil {
					next = *out.NextLink
				}
				err = pages.Next(len(out.Value), next)
			}
			if err != nil {
				yield(cloud.Cert{}, explain("list certificates", err))
				return
			}
			p := cloud.Page{Get: s.get}
			for _, c := range out.Value {
				if c != nil && c.ID != nil {
					p.Certs = append(p.Certs, s.cert(c))
				}
			}
			if !p.Yield(ctx, &since, yield) {
				return
			}
		}
	}
}

func (s *source) cert(c *azcertificates.CertificateProperties) cloud.Cert {
	out := cloud.Cert{Account: s.vault, Tags: tags(c.Tags)}
	out.Ref = string(*c.ID)
	out.Version = hex.EncodeToString(c.X509Thumbprint[:min(len(c.X509Thumbprint), 32)]) + "."
	if a := c.Attributes; a != nil && a.Updated != nil {
		out.Version += fmt.Sprint(a.Updated.Unix())
	}
	return out
}

func tags(in map[string]*string) map[string]string {
	out := make(map[string]string, len(in))
	for k, v := range in {
		if v != nil {
			out[k] = *v
		}
	}
	return out
}

// nameOf returns the name in an id such as https://v/certificates/NAME. The
// library has a function for it, which does not survive an id that is none.
func nameOf(id string) (string, error) {
	u, err := url.Parse(id)
	if err == nil {
		if parts := strings.Split(strings.Trim(u.Path, "/"), "/"); len(parts) >= 2 && parts[0] == "certificates" && parts[1] != "" {
			return parts[1], nil
		}
	}
	return "", fault.New(fault.Invalid, "%.200q is not the id of a certificate", id)
}

// get fetches the bytes of a certificate.
func (s *source) get(ctx context.Context, c *cloud.Cert) error {
	name, err := nameOf(c.Ref)
	if err != nil {
		c.Err = err
		return nil
	}
	got, err := s.client.GetCertificate(cloud.WithOperation(ctx, "GetCertificate"), name, "", nil)
	if re, ok := errors.AsType[*azcore.ResponseError](err); ok && re.StatusCode == http.StatusNotFound {
		c.Gone = true
		return nil
	}
	if err != nil {
		return explain("get certificate", err)
	}
	if c.DER = got.CER; len(c.DER) == 0 {
		c.DER, c.Err = nil, fault.New(fault.Invalid, "%.200q has no certificate yet", c.Ref)
	}
	return nil
}

// explain says what the user can mend.
func explain(what string, err error) error {
	if re, ok := errors.AsType[*azcore.ResponseError](err); ok && (re.StatusCode == http.StatusUnauthorized || re.StatusCode == http.StatusForbidden) {
		return fault.Wrap(err, fault.Precondition, "%s: the vault refuses these credentials (%s); they need the permissions list and get of certificates", what, re.ErrorCode)
	}
	if _, ok := errors.AsType[*azidentity.AuthenticationFailedError](err); ok {
		return fault.Wrap(err, fault.Precondition, "%s: the Azure directory refuses these credentials; check tenant_id, client_id and the secret", what)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
