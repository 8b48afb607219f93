// Package route53 changes hosted zones of Amazon Route 53: a batch is one change
// set, which Route 53 applies as a whole.
package route53

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/route53"
	"github.com/aws/aws-sdk-go-v2/service/route53/types"

	"chancery/internal/acme/solver"
	"chancery/internal/issuer"
	"chancery/internal/issuer/rest"
)

// Config is the configuration of a provider. Credentials are found as all AWS
// tools find them: variables, the shared files, the role of the machine.
type Config struct {
	Profile string        `toml:"profile" doc:"Profile of the shared AWS configuration. Empty: the default one."`
	Region  string        `toml:"region" doc:"Region that requests are signed for; Route 53 itself has none."`
	ZoneID  string        `toml:"zone_id" doc:"Hosted zone to use whatever the name, for accounts that may not list zones. Empty: found by name."`
	URL     string        `toml:"url" doc:"URL of the API. Empty: that of AWS."`
	Timeout time.Duration `toml:"timeout" doc:"Longest time for one request with its repetitions."`
}

// Kind is the plug-in.
var Kind = solver.Kind{
	Name:   "route53",
	Doc:    "Amazon Route 53.",
	Config: func() any { return &Config{Region: "us-east-1", Timeout: time.Minute} },
	Open:   func(_ solver.Env, config any) (solver.Provider, error) { return open(config.(*Config)) },
}

type provider struct {
	c   *Config
	api *route53.Client
}

// open reads the shared configuration files; it asks nobody.
func open(c *Config) (*provider, error) {
	cfg, err := config.LoadDefaultConfig(context.Background(), config.WithRegion(c.Region), config.WithSharedConfigProfile(c.Profile))
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	base := ""
	if c.URL != "" {
		if base, err = rest.CheckURL("url", c.URL); err != nil {
			return nil, err
		}
	}
	return &provider{c, route53.NewFromConfig(cfg, func(o *route53.Options) {
		o.RetryMaxAttempts = 5
		if base != "" {
			o.BaseEndpoint = &base
		}
	})}, nil
}

const (
	maxChanges = 400 // of one change set: 1000, and an upsert counts as two
	fewNames   = 8   // up to which names are read one by one
	maxPages   = 1000
)

// Apply implements solver.Provider.
func (p *provider) Apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	if len(add)+len(remove) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(p.c.Timeout, time.Second))
	defer cancel()
	return classify(p.apply(ctx, zone, add, remove))
}

// classify keeps throttles apart; all else is a failure of the provider.
func classify(err error) error {
	var throttled *types.ThrottlingException
	var busy *types.PriorRequestNotComplete
	if errors.As(err, &throttled) || errors.As(err, &busy) {
		return &issuer.Error{Class: issuer.Throttled, Err: err}
	}
	return err
}

func (p *provider) apply(ctx context.Context, zone string, add, remove []solver.Record) error {
	id, err := p.zone(ctx, zone)
	if err != nil {
		return err
	}
	sets := solver.Sets(add, remove)
	have, err := p.read(ctx, id, sets)
	if err != nil {
		return err
	}
	var changes []types.Change
	for _, s := range sets {
		old := have[s.Name]
		after, changed := s.Merge(values(old))
		switch {
		case !changed:
		case len(after) == 0:
			changes = append(changes, types.Change{Action: types.ChangeActionDelete, ResourceRecordSet: old}) // as it is, or it is refused
		default:
			set := &types.ResourceRecordSet{Name: aws.String(s.Name + "."), Type: types.RRTypeTxt, TTL: aws.Int64(int64(s.TTL / time.Second))}
			for _, v := range after {
				set.ResourceRecords = append(set.ResourceRecords, types.ResourceRecord{Value: aws.String(solver.Quote(v))})
			}
			changes = append(changes, types.Change{Action: types.ChangeActionUpsert, ResourceRecordSet: set})
		}
	}
	for part := range slices.Chunk(changes, maxChanges) {
		in := &route53.ChangeResourceRecordSetsInput{HostedZoneId: &id, ChangeBatch: &types.ChangeBatch{Changes: part, Comment: aws.String("chancery")}}
		if _, err := p.api.ChangeResourceRecordSets(ctx, in); err != nil {
			return fmt.Errorf("change hosted zone %s: %w", id, err)
		}
	}
	return nil
}

func values(set *types.ResourceRecordSet) []string {
	if set == nil {
		return nil
	}
	var out []string
	for _, r := range set.ResourceRecords {
		out = append(out, solver.Unquote(aws.ToString(r.Value)))
	}
	return out
}

// zone finds the public hosted zone of a name.
func (p *provider) zone(ctx context.Context, name string) (string, error) {
	if p.c.ZoneID != "" {
		return p.c.ZoneID, nil
	}
	out, err := p.api.ListHostedZonesByName(ctx, &route53.ListHostedZonesByNameInput{DNSName: aws.String(name + "."), MaxItems: aws.Int32(10)})
	if err != nil {
		return "", fmt.Errorf("find hosted zone: %w", err)
	}
	for _, z := range out.HostedZones {
		if aws.ToString(z.Name) == name+"." && (z.Config == nil || !z.Config.PrivateZone) {
			return strings.TrimPrefix(aws.ToString(z.Id), "/hostedzone/"), nil
		}
	}
	return "", fmt.Errorf("the account has no public hosted zone %s", name)
}

// read returns TXT sets by name: one by one when they are few, or else all from
// the first name to the last in Route 53's order.
func (p *provider) read(ctx context.Context, id string, sets []solver.Set) (map[string]*types.ResourceRecordSet, error) {
	out := map[string]*types.ResourceRecordSet{}
	wanted := map[string]bool{}
	for _, s := range sets {
		wanted[s.Name] = true
	}
	if len(sets) > fewNames {
		return out, p.list(ctx, id, nil, maxPages, wanted, out)
	}
	for _, s := range sets {
		if err := p.list(ctx, id, aws.String(s.Name+"."), 1, wanted, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *provider) list(ctx context.Context, id string, from *string, pages int, wanted map[string]bool, out map[string]*types.ResourceRecordSet) error {
	in := &route53.ListResourceRecordSetsInput{HostedZoneId: &id, StartRecordName: from}
	if from != nil {
		in.StartRecordType, in.MaxItems = types.RRTypeTxt, aws.Int32(1)
	}
	for range pages {
		page, err := p.api.ListResourceRecordSets(ctx, in)
		if err != nil {
			return fmt.Errorf("read hosted zone %s: %w", id, err)
		}
		for i := range page.ResourceRecordSets {
			set := &page.ResourceRecordSets[i]
			name := strings.ToLower(strings.TrimSuffix(aws.ToString(set.Name), "."))
			if set.Type == types.RRTypeTxt && wanted[name] {
				out[name] = set
			}
		}
		if !page.IsTruncated {
			break
		}
		in.StartRecordName, in.StartRecordType, in.StartRecordIdentifier = page.NextRecordName, page.NextRecordType, page.NextRecordIdentifier
	}
	return nil
}

// Check implements solver.Checker.
func (p *provider) Check(ctx context.Context) error {
	_, err := p.api.ListHostedZonesByName(ctx, &route53.ListHostedZonesByNameInput{MaxItems: aws.Int32(1)})
	return classify(err)
}
