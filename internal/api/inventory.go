package api

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/pki"
)

func (s *Server) inventoryOperations() {
	tag := []string{"Inventory"}
	op := func(id, method, path, summary, text string) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Tags: tag, Summary: summary, Description: text}
	}
	register(s, op("list-certificates", http.MethodGet, "/certs", "List every certificate that is known", inventoryHelp), s.listInventory)
	register(s, op("get-certificate", http.MethodGet, "/certs/{id}", "Everything about one certificate", "By id, or by SHA-256 fingerprint."), s.getCertificate)
	register(s, op("download-certificate", http.MethodGet, "/certs/{id}/download", "The certificate as a file", ""), s.downloadCertificate)
	register(s, op("count-inventory", http.MethodGet, "/inventory/count", "How many certificates fit a query", ""), s.countInventory)
	register(s, op("list-facets", http.MethodGet, "/inventory/facets", "Count the certificates that fit a query by owner, issuer, key and so on",
		"The facet of a dimension leaves the query's own condition on it aside, so that it shows what else there is to choose."), s.listFacets)
	register(s, op("list-timeline", http.MethodGet, "/inventory/timeline", "Count the certificates that fit a query by the day on which they end", ""), s.listTimeline)
	register(s, op("plan-edit", http.MethodPost, "/inventory/plan", "What an edit of everything that fits a query would touch", ""), s.planEdit)
	register(s, op("edit-inventory", http.MethodPost, "/inventory/edits", "Edit everything that fits a query",
		"Repeat a request with its key until done is true: it goes on where it stopped, and a repetition of one that is done changes nothing. More than 10 certificates need confirm."), s.editInventory)
	register(s, op("import-certificates", http.MethodPost, "/inventory/import", "Import a file: PEM, DER, PKCS#12, JKS, or a table of owners (CSV)",
		"Private keys in the file are counted and dropped."), s.importCertificates)
	register(s, op("list-views", http.MethodGet, "/inventory/views", "List saved queries", ""), s.listViews)
	register(s, op("create-view", http.MethodPost, "/inventory/views", "Save a query under a name", ""), s.createView)
	register(s, op("update-view", http.MethodPut, "/inventory/views/{id}", "Change a saved query", ""), s.updateView)
	register(s, op("delete-view", http.MethodDelete, "/inventory/views/{id}", "Forget a saved query", ""), s.deleteView)
	register(s, op("list-endpoints", http.MethodGet, "/endpoints", "List where certificates are served", ""), s.listEndpoints)
}

// inventoryHelp explains q where users look for it.
const inventoryHelp = `The query q is a list of terms, all of which must fit: ` + "`owner:pay`, `team:`, `env:`, `issuer:`, `key:rsa-2048|weak|classical|post-quantum`, `name:*.pay.example.com`, `status:active|superseded|expired|revoked|retired|any`, `source:ca|import|scan|ct|cloud|agent|renew`, `tag:app=shop`, `endpoint:www.example.com:443`, `expires:<14d`, `seen:>30d`, `managed:yes`, `ca:no`, `serial:`, `fingerprint:`, `spki:`, `id:`" + `, a bare name with everything below it, or other words. A key that is given again adds an alternative. What our own authorities issue is here within about a second.`

// Known is one certificate that is known, whoever issued it.
type Known struct {
	ID          string     `json:"id"`
	Fingerprint string     `json:"fingerprint" doc:"SHA-256, hexadecimal"`
	Serial      string     `json:"serial" doc:"Hexadecimal, lower case, as OpenSSL prints it"`
	Status      string     `json:"status" enum:"active,superseded,expired,revoked,retired"`
	Source      []string   `json:"source" nullable:"false" doc:"How it came to be known: ca, import, scan, ct, cloud, agent, renew"`
	Managed     bool       `json:"managed" doc:"The renewal engine looks after it"`
	Owner       string     `json:"owner"`
	Team        string     `json:"team"`
	Environment string     `json:"environment"`
	Issuer      string     `json:"issuer"`
	KeyType     string     `json:"key_type"`
	Signature   string     `json:"signature"`
	CommonName  string     `json:"common_name"`
	Names       []string   `json:"names" nullable:"false" doc:"The first ones, about 1000 characters of them"`
	NameCount   int        `json:"name_count"`
	IsCA        bool       `json:"is_ca"`
	NotBefore   time.Time  `json:"not_before"`
	NotAfter    time.Time  `json:"not_after"`
	FirstSeenAt time.Time  `json:"first_seen_at"`
	LastSeenAt  time.Time  `json:"last_seen_at" doc:"Moves at most once an hour"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
	RetiredAt   *time.Time `json:"retired_at,omitempty"`
	Successor   string     `json:"successor,omitempty" doc:"Id of the next certificate of the same names, kind of key and owner"`
}

func viewKnown(c *inventory.Certificate) Known {
	v := Known{ID: c.ID, Fingerprint: c.Fingerprint, Serial: c.Serial, Status: string(c.Status), Source: c.Source.Names(), Managed: c.Managed,
		Owner: c.Owner, Team: c.Team, Environment: c.Environment, Issuer: c.Issuer, KeyType: c.KeyType, Signature: c.Signature,
		CommonName: c.CommonName, Names: c.Names, NameCount: c.NameCount, IsCA: c.CA, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		FirstSeenAt: c.FirstSeenAt, LastSeenAt: c.LastSeenAt, RevokedAt: instant(c.RevokedAt), RetiredAt: instant(c.RetiredAt), Successor: c.SuccessorID}
	if v.Names == nil {
		v.Names = []string{}
	}
	return v
}

// QueryInput is the query of most operations.
type QueryInput struct {
	Query string `query:"q" maxLength:"2000" doc:"What to look for; see the list of certificates" example:"owner:pay expires:<14d key:rsa-2048 name:*.pay.example.com"`
}

type listInventoryInput struct {
	ListInput
	QueryInput
	Sort string `query:"sort" doc:"Order: expires (default), seen, added, or name with a condition on names; with - in front the other way round" example:"-added"`
}

// filter reads a query, and limits it to what the caller may see.
func (s *Server) filter(ctx context.Context, query string) (inventory.Filter, error) {
	f, err := inventory.Parse(query, now())
	if err != nil {
		return f, err
	}
	return f, s.narrow(ctx, &f)
}

// KnownPage is one page of certificates.
type KnownPage struct {
	Page[Known]
	Sort    string `json:"sort"`
	Partial bool   `json:"partial,omitempty" doc:"Few certificates fit and no index finds them: looking stopped before the page was full, and next goes on"`
}

func (s *Server) listInventory(ctx context.Context, in *listInventoryInput) (*bodyOf[KnownPage], error) {
	f, err := s.filter(ctx, in.Query)
	if err != nil {
		return nil, err
	}
	sort, err := inventory.ParseSort(in.Sort)
	if err != nil {
		return nil, err
	}
	page, err := s.cfg.Inventory.List(ctx, inventory.Query{Filter: f, Sort: sort, Limit: in.Limit, Cursor: in.Cursor, Text: in.Query})
	if err != nil {
		return nil, err
	}
	out := &bodyOf[KnownPage]{KnownPage{Page: Page[Known]{Items: make([]Known, len(page.Certificates)), Next: page.Next}, Sort: string(page.Sort), Partial: page.Partial}}
	for i := range page.Certificates {
		out.Body.Items[i] = viewKnown(&page.Certificates[i])
	}
	return out, nil
}

// KnownDetail is everything that is known of one certificate.
type KnownDetail struct {
	Known
	AllNames     []string           `json:"all_names" nullable:"false" doc:"At most 2000"`
	Tags         []string           `json:"tags" nullable:"false" doc:"name=value"`
	Predecessors []string           `json:"predecessors" nullable:"false" doc:"Ids of the certificates that it succeeded"`
	Endpoints    []Endpoint         `json:"endpoints" nullable:"false" doc:"The first 100 places that serve it"`
	Subject      string             `json:"subject,omitempty"`
	ARI          string             `json:"ari,omitempty" doc:"Certificate id of RFC 9773"`
	Chain        string             `json:"chain,omitempty" doc:"PEM: the certificate and, when we issued it, what its server sends with it"`
	Issuance     *CertificateDetail `json:"issuance,omitempty" doc:"How it was issued, when one of our authorities did: evidence and every event"`
}

// shownEndpoints is how many endpoints a detail has.
const shownEndpoints = 100

func (s *Server) getCertificate(ctx context.Context, in *IDInput) (*bodyOf[KnownDetail], error) {
	known, err := s.cfg.Inventory.Get(ctx, in.ID)
	if err != nil {
		if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
			return s.getIssued(ctx, in.ID)
		}
		return nil, err
	}
	v := KnownDetail{Known: viewKnown(&known.Certificate), AllNames: known.AllNames, Tags: known.Tags, Predecessors: known.Predecessors}
	page, err := s.cfg.Inventory.Endpoints(ctx, inventory.EndpointQuery{Certificate: known.ID, Limit: shownEndpoints})
	if err != nil {
		return nil, err
	}
	v.Endpoints = viewEndpoints(page.Endpoints)
	if known.Source&inventory.FromCA != 0 && !known.CA {
		if v.Issuance, err = s.issuance(ctx, &known.Certificate); err != nil {
			return nil, err
		}
	}
	if v.Issuance != nil {
		v.Subject, v.ARI, v.Chain = v.Issuance.Subject, v.Issuance.ARI, v.Issuance.Chain
	} else if err := s.describeForeign(ctx, &v); err != nil {
		return nil, err
	}
	v.fill()
	return &bodyOf[KnownDetail]{v}, shows(ctx, in.ID, &v)
}

// fill makes empty lists of absent ones.
func (v *KnownDetail) fill() {
	for _, list := range []*[]string{&v.AllNames, &v.Tags, &v.Predecessors, &v.Names} {
		if *list == nil {
			*list = []string{}
		}
	}
	slices.Sort(v.AllNames)
}

// describeForeign adds what the bytes of a certificate say, if we have them.
func (s *Server) describeForeign(ctx context.Context, v *KnownDetail) error {
	der, err := s.cfg.Inventory.DER(ctx, v.ID)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read stored certificate %s: %w", v.ID, err)
	}
	m := pki.MetadataOf(cert)
	v.Subject, v.ARI, v.Chain = m.Subject, m.ARI, string(pki.EncodeChain(der))
	return nil
}

// issuance returns how one of our certificates was issued, or nil when its row
// is gone. Its id is the inventory's, unless somebody else told the inventory
// of it first.
func (s *Server) issuance(ctx context.Context, k *inventory.Certificate) (*CertificateDetail, error) {
	c, err := s.issuedRow(ctx, k)
	if err != nil || c == nil {
		return nil, err
	}
	v, err := s.issuedDetail(ctx, c)
	return &v, err
}

// issuedRow finds the row of an authority's own records.
func (s *Server) issuedRow(ctx context.Context, k *inventory.Certificate) (*ca.Certificate, error) {
	c, err := ca.Get(ctx, s.cfg.DB.Read(), k.ID)
	if err == nil {
		return &c, nil
	}
	if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	query, err := ca.ParseQuery("serial:"+k.Serial, now())
	if err != nil {
		return nil, err
	}
	page, err := ca.Find(ctx, s.cfg.DB.Read(), query, "", 10)
	if err != nil {
		return nil, err
	}
	for i := range page.Certificates {
		c, err := ca.Get(ctx, s.cfg.DB.Read(), page.Certificates[i].ID)
		if err != nil {
			return nil, err
		}
		if cert, err := c.X509(); err == nil {
			m := pki.MetadataOf(cert)
			if fmt.Sprintf("%x", m.Fingerprint[:]) == k.Fingerprint {
				return &c, nil
			}
		}
	}
	return nil, nil
}

// getIssued answers for a certificate of ours that the inventory does not have
// yet, or a serial number that never became one.
func (s *Server) getIssued(ctx context.Context, id string) (*bodyOf[KnownDetail], error) {
	c, err := ca.Get(ctx, s.cfg.DB.Read(), id)
	if _, is := limited(ctx); is && fault.Is(err, fault.NotFound) {
		err = outside("certificate", id)
	}
	if err != nil {
		return nil, err
	}
	d, err := s.issuedDetail(ctx, &c)
	if err != nil {
		return nil, err
	}
	v := KnownDetail{Known: Known{ID: c.ID, Fingerprint: d.Fingerprint, Serial: d.Serial, Status: statusWord(d.Status), Source: []string{"ca"}, Issuer: d.Issuer,
		KeyType: d.KeyType, Names: d.Names, NameCount: len(d.Names), NotBefore: d.NotBefore, NotAfter: d.NotAfter, FirstSeenAt: d.CreatedAt, LastSeenAt: d.CreatedAt,
		RevokedAt: d.RevokedAt}, AllNames: d.Names, Subject: d.Subject, ARI: d.ARI, Chain: d.Chain, Endpoints: []Endpoint{}, Issuance: &d}
	v.fill()
	return &bodyOf[KnownDetail]{v}, shows(ctx, id, &v)
}

// statusWord is the inventory's word for the status of an issued certificate.
// A serial number without a certificate can be neither used nor trusted.
func statusWord(s ca.Status) string {
	switch s {
	case ca.StatusIssued:
		return string(inventory.Active)
	case ca.StatusExpired:
		return string(inventory.Expired)
	case ca.StatusRevoked, ca.StatusAbandoned:
		return string(inventory.Revoked)
	}
	return string(inventory.Retired)
}

// Count is a number of certificates.
type Count struct {
	Count int64 `json:"count"`
	Exact bool  `json:"exact" doc:"False: there are at least so many"`
}

func (s *Server) countInventory(ctx context.Context, in *QueryInput) (*bodyOf[Count], error) {
	f, err := s.filter(ctx, in.Query)
	if err != nil {
		return nil, err
	}
	n, err := s.cfg.Inventory.Count(ctx, f)
	return &bodyOf[Count]{Count{n.N, n.Exact}}, err
}

// Facet is how many certificates have each value of a dimension.
type Facet struct {
	By     string       `json:"by"`
	Values []FacetValue `json:"values" nullable:"false" doc:"The most frequent first"`
	Other  int64        `json:"other,omitempty" doc:"Certificates with further values"`
	Exact  bool         `json:"exact" doc:"False: counted over the first certificates only"`
}

// FacetValue is one value.
type FacetValue struct {
	Value string `json:"value" doc:"As the query takes it; none for an empty one"`
	Count int64  `json:"count"`
}

// Facets are the facets that were asked for.
type Facets struct {
	Facets []Facet `json:"facets" nullable:"false"`
}

type facetsInput struct {
	QueryInput
	By string `query:"by" doc:"Dimensions with commas between: status, issuer, key, owner, team, env, source, managed; all when it is not given"`
}

func (s *Server) listFacets(ctx context.Context, in *facetsInput) (*bodyOf[Facets], error) {
	f, err := s.filter(ctx, in.Query)
	if err != nil {
		return nil, err
	}
	by := inventory.Dimensions
	if in.By != "" {
		by = nil
		for name := range strings.SplitSeq(in.By, ",") {
			d := inventory.Dimension(strings.TrimSpace(name))
			if !slices.Contains(inventory.Dimensions, d) {
				return nil, fault.New(fault.Invalid, "there is no facet %.32q; choose from %v", name, inventory.Dimensions)
			}
			by = append(by, d)
		}
	}
	found, err := s.cfg.Inventory.Facets(ctx, f, by...)
	if err != nil {
		return nil, err
	}
	out := &bodyOf[Facets]{Facets{make([]Facet, len(found))}}
	for i := range found {
		out.Body.Facets[i] = viewFacet(&found[i])
	}
	return out, nil
}

func viewFacet(f *inventory.Facet) Facet {
	v := Facet{By: string(f.By), Values: make([]FacetValue, len(f.Values)), Other: f.Other, Exact: f.Exact}
	for i, x := range f.Values {
		v.Values[i] = FacetValue{x.Value, x.N}
	}
	return v
}

// Timeline is how many certificates end on which day.
type Timeline struct {
	By      string   `json:"by"`
	Buckets []Bucket `json:"buckets" nullable:"false"`
}

// Bucket is how many certificates with a value end on a day.
type Bucket struct {
	Day   string `json:"day" doc:"UTC" example:"2027-01-31"`
	Value string `json:"value"`
	Count int64  `json:"count"`
}

type timelineInput struct {
	QueryInput
	From string `query:"from" doc:"First day (UTC); today when it is not given" example:"2026-12-01"`
	Days int    `query:"days" minimum:"1" maximum:"1100" default:"182" doc:"How many days"`
	By   string `query:"by" enum:"status,issuer,key,owner,team,env" default:"issuer"`
}

func (s *Server) listTimeline(ctx context.Context, in *timelineInput) (*bodyOf[Timeline], error) {
	f, err := s.filter(ctx, in.Query)
	if err != nil {
		return nil, err
	}
	from := now().Truncate(24 * time.Hour)
	if in.From != "" {
		if from, err = time.Parse(time.DateOnly, in.From); err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "from %.32q is not a day such as 2026-12-01", in.From)
		}
	}
	found, err := s.cfg.Inventory.Timeline(ctx, f, from, from.AddDate(0, 0, in.Days), inventory.Dimension(in.By))
	if err != nil {
		return nil, err
	}
	out := &bodyOf[Timeline]{Timeline{By: in.By, Buckets: make([]Bucket, len(found))}}
	for i, b := range found {
		out.Body.Buckets[i] = Bucket{b.Day.Format(time.DateOnly), b.Value, b.N}
	}
	return out, nil
}
