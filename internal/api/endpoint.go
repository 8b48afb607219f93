package api

import (
	"context"
	"time"

	"chancery/internal/inventory"
)

// Endpoint is a place where a certificate is, or should be, served.
type Endpoint struct {
	Host        string     `json:"host"`
	Port        int        `json:"port"`
	SNI         string     `json:"sni,omitempty" doc:"Server name that was asked for"`
	Address     string     `json:"address,omitempty"`
	Certificate string     `json:"certificate,omitempty" doc:"Id of the certificate that was last seen there"`
	Desired     string     `json:"desired,omitempty" doc:"Id of the certificate that should be there"`
	Drift       bool       `json:"drift" doc:"Something else is served than should be"`
	Probe       string     `json:"probe,omitempty" doc:"How it was last asked"`
	Problems    []string   `json:"problems" nullable:"false"`
	Failure     string     `json:"failure,omitempty" doc:"Class of failure of the last probe"`
	FailedSince *time.Time `json:"failed_since,omitempty"`
	FirstSeenAt time.Time  `json:"first_seen_at"`
	LastSeenAt  *time.Time `json:"last_seen_at,omitempty" doc:"Last probe, good or bad"`
	LastOKAt    *time.Time `json:"last_ok_at,omitempty"`
	ChangedAt   time.Time  `json:"changed_at" doc:"When the certificate was first seen there"`
}

func viewEndpoints(list []inventory.Endpoint) []Endpoint {
	out := make([]Endpoint, len(list))
	for i := range list {
		e := &list[i]
		out[i] = Endpoint{Host: e.Host, Port: e.Port, SNI: e.SNI, Address: e.Address, Certificate: e.CertificateID, Desired: e.DesiredID, Drift: e.Drift(),
			Probe: e.Probe, Problems: e.Problems, Failure: e.Failure, FailedSince: instant(e.FailedSince), FirstSeenAt: e.FirstSeenAt,
			LastSeenAt: instant(e.LastSeenAt), LastOKAt: instant(e.LastOKAt), ChangedAt: e.ChangedAt}
		if e.Problems == nil {
			out[i].Problems = []string{}
		}
	}
	return out
}

type listEndpointsInput struct {
	ListInput
	Host        string `query:"host" maxLength:"255" doc:"A name, an address, or *.example.com for every host below example.com"`
	Certificate string `query:"certificate" maxLength:"128" doc:"Id: only those that serve it"`
	Failing     bool   `query:"failing" doc:"Only those whose last probe failed, the longest first"`
	Drift       bool   `query:"drift" doc:"Only those that serve something else than they should"`
}

func (s *Server) listEndpoints(ctx context.Context, in *listEndpointsInput) (*pageOf[Endpoint], error) {
	page, err := s.cfg.Inventory.Endpoints(ctx, inventory.EndpointQuery{Host: in.Host, Certificate: in.Certificate, Failing: in.Failing, Drift: in.Drift,
		Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	return &pageOf[Endpoint]{Page[Endpoint]{Items: viewEndpoints(page.Endpoints), Next: page.Next}}, nil
}
