// Package acm is the target for AWS Certificate Manager: certificates are
// imported, again under the same ARN, so that load balancers and distributions
// that use them follow by themselves.
//
// ACM never gives a private key back. What was imported last is therefore kept
// in the target's State directory (mode 0600), so that it can be imported again
// when a batch is rolled back.
package acm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/acm"
	"github.com/aws/aws-sdk-go-v2/service/acm/types"

	"chancery/internal/deploy"
	"chancery/internal/deploy/each"
	"chancery/internal/deploy/live"
	"chancery/internal/pki"
)

// Config is the configuration of a target. Credentials come from where AWS's
// own tools find them: environment, files, the instance's role.
type Config struct {
	// Region, such as "eu-central-1". CloudFront reads "us-east-1".
	Region string `toml:"region"`

	// Profile of the shared configuration files. Empty: the default.
	Profile string `toml:"profile"`

	// URL of the service, for a private endpoint. Empty: the region's own.
	Endpoint string `toml:"endpoint" format:"url"`

	// Longest time for one request, with its repetitions.
	Timeout time.Duration `toml:"timeout"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name:   "aws-acm",
	Doc:    "AWS Certificate Manager: imports, again under the same ARN.",
	Config: func() any { return &Config{Timeout: 30 * time.Second} },
	Open:   open,
}

// store imports.
type store struct {
	env deploy.Env
	cfg *Config
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	if c.Region == "" {
		return nil, errors.New("region: must be set")
	}
	s := &store{env, c}
	return each.Open(env, each.Store{Get: s.get, Put: s.put, Restore: s.restore, Shown: s.shown, Test: s.test}), nil
}

// client makes a client with the credentials of the moment.
func (s *store) client(ctx context.Context) (*acm.Client, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(s.cfg.Region), config.WithSharedConfigProfile(s.cfg.Profile))
	if err != nil {
		return nil, fmt.Errorf("load AWS configuration: %w", err)
	}
	return acm.NewFromConfig(cfg, func(o *acm.Options) {
		if s.cfg.Endpoint != "" {
			o.BaseEndpoint = aws.String(s.cfg.Endpoint)
		}
	}), nil
}

// pair is what is kept of an item: its ARN and what was imported there last.
type pair struct {
	ARN         string `json:"arn"`
	Certificate []byte `json:"certificate,omitempty"` // PEM, as all of them
	Chain       []byte `json:"chain,omitempty"`
	Key         []byte `json:"key,omitempty"`
}

// file is where the pair of an item is kept.
func (s *store) file(id string) string { return filepath.Join(s.env.State, "acm-"+id+".json") }

// load returns the pair of an item, nil when nothing was imported yet. The
// parameter "arn" names a certificate that exists already.
func (s *store) load(id string, params map[string]string) (*pair, error) {
	text, err := os.ReadFile(s.file(id))
	switch {
	case errors.Is(err, os.ErrNotExist) && params["arn"] == "":
		return nil, nil
	case errors.Is(err, os.ErrNotExist):
		return &pair{ARN: params["arn"]}, nil
	case err != nil:
		return nil, fmt.Errorf("read imported certificate: %w", err)
	}
	p := new(pair)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("decode %s: %w", s.file(id), err)
	}
	return p, nil
}

// save keeps a pair.
func (s *store) save(id string, p *pair) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode imported certificate: %w", err)
	}
	return deploy.ReplaceFile(s.file(id), text, 0o600)
}

// get returns what was imported last.
func (s *store) get(_ context.Context, item *deploy.Item) (json.RawMessage, error) {
	if _, err := live.KeyPEM(item); err != nil {
		return nil, err
	}
	p, err := s.load(item.ID, item.Params)
	if err != nil || p == nil {
		return nil, err
	}
	return json.Marshal(p)
}

// put imports an item.
func (s *store) put(ctx context.Context, item *deploy.Item) error {
	key, err := live.KeyPEM(item)
	if err != nil {
		return err
	}
	p, err := s.load(item.ID, item.Params)
	if err != nil {
		return err
	}
	next := &pair{Certificate: pki.EncodeChain(item.Chain[0]), Chain: pki.EncodeChain(item.Chain[1:]...), Key: key}
	if p != nil {
		next.ARN = p.ARN
	}
	return s.send(ctx, item.ID, next)
}

// send imports a pair and keeps it.
func (s *store) send(ctx context.Context, id string, p *pair) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	in := &acm.ImportCertificateInput{Certificate: p.Certificate, PrivateKey: p.Key}
	if len(p.Chain) > 0 {
		in.CertificateChain = p.Chain
	}
	if p.ARN != "" {
		in.CertificateArn = aws.String(p.ARN)
	} else {
		in.Tags = []types.Tag{{Key: aws.String("chancery"), Value: aws.String(s.env.Name + "/" + id)}}
	}
	out, err := c.ImportCertificate(ctx, in)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	p.ARN = aws.ToString(out.CertificateArn)
	return s.save(id, p)
}

// restore imports what was there, or deletes what was not.
func (s *store) restore(ctx context.Context, id string, params map[string]string, old json.RawMessage) error {
	now, err := s.load(id, nil)
	if err != nil {
		return err
	}
	if old == nil {
		return s.remove(ctx, id, now)
	}
	was := new(pair)
	if err := json.Unmarshal(old, was); err != nil {
		return fmt.Errorf("decode imported certificate: %w", err)
	}
	switch {
	case len(was.Key) == 0 && now != nil: // adopted, and imported to for the first time: nobody has the old key
		s.env.Log.Warn("what was there before the first import is not known; the new certificate stays", "item", id, "arn", params["arn"])
		return nil
	case len(was.Key) == 0 || now != nil && bytes.Equal(now.Certificate, was.Certificate):
		return nil
	}
	return s.send(ctx, id, was)
}

// remove deletes a certificate that the batch made.
func (s *store) remove(ctx context.Context, id string, p *pair) error {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	_, err = c.DeleteCertificate(ctx, &acm.DeleteCertificateInput{CertificateArn: aws.String(p.ARN)})
	if gone, ok := errors.AsType[*types.ResourceNotFoundException](err); ok && gone != nil {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := os.Remove(s.file(id)); err != nil {
		return fmt.Errorf("forget imported certificate: %w", err)
	}
	return deploy.SyncDir(s.env.State)
}

// shown compares what ACM has.
func (s *store) shown(ctx context.Context, item *deploy.Item) error {
	p, err := s.load(item.ID, item.Params)
	if err != nil {
		return err
	}
	if p == nil {
		return errors.New("it was not imported")
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	out, err := c.GetCertificate(ctx, &acm.GetCertificateInput{CertificateArn: aws.String(p.ARN)})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if strings.TrimSpace(aws.ToString(out.Certificate)) != strings.TrimSpace(string(pki.EncodeChain(item.Chain[0]))) {
		return fmt.Errorf("%s has another certificate", p.ARN)
	}
	return nil
}

// test asks for one certificate of the list.
func (s *store) test(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	c, err := s.client(ctx)
	if err != nil {
		return err
	}
	if _, err := c.ListCertificates(ctx, &acm.ListCertificatesInput{MaxItems: aws.Int32(1)}); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	return nil
}
