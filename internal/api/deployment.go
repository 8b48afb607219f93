package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/renew"
)

func (s *Server) deployments() {
	tag := []string{"Renewal"}
	register(s, huma.Operation{OperationID: "list-deployments", Method: http.MethodGet, Path: "/deployments", Tags: tag,
		Summary: "List what is where: managed certificates with what each of their targets serves"}, s.listDeployments)
	register(s, huma.Operation{OperationID: "list-deploy-batches", Method: http.MethodGet, Path: "/deployments/batches", Tags: tag,
		Summary: "List what targets got at once, with one reload, and what became of it, the newest first", Description: "Batches are known for 30 days."}, s.listDeployBatches)
}

// Deployment is a managed certificate and what its targets serve.
type Deployment struct {
	ID         string      `json:"id"`
	Name       string      `json:"name"`
	Names      []string    `json:"names" nullable:"false"`
	Owner      string      `json:"owner,omitempty"`
	NotAfter   *time.Time  `json:"not_after,omitempty"`
	Placements []Placement `json:"placements" nullable:"false"`
}

// DeployBatch is what one target got at once.
type DeployBatch struct {
	ID      string    `json:"id"`
	Target  string    `json:"target"`
	Outcome string    `json:"outcome" enum:"live,partly,failed" doc:"live: all of it is verified in service; partly: some of it; failed: the target serves what it did before"`
	BeganAt time.Time `json:"began_at"`
	TookMS  int64     `json:"took_ms"`
	Items   int       `json:"items" doc:"Certificates"`
	Live    int       `json:"live" doc:"Of them, verified in service; the others were rolled back, or never applied"`
	Error   string    `json:"error,omitempty" doc:"Of the last one that is not in service"`
	Detail  string    `json:"detail,omitempty" doc:"What the target's own program said"`
}

func viewPlacement(p *renew.Placement) Placement {
	return Placement{p.Target, p.Live(), instant(p.DueAt), p.Attempt, p.Error, p.Detail, p.UpdatedAt, p.BatchID}
}

func viewDeployment(d *renew.Deployed) Deployment {
	m := viewManaged(&d.Managed)
	v := Deployment{ID: m.ID, Name: m.Name, Names: m.Names, Owner: m.Owner, NotAfter: m.NotAfter, Placements: make([]Placement, len(d.Placements))}
	for i := range d.Placements {
		v.Placements[i] = viewPlacement(&d.Placements[i])
	}
	return v
}

func viewDeployBatch(b *renew.Batch) DeployBatch {
	outcome := "partly"
	switch b.Live {
	case b.Items:
		outcome = "live"
	case 0:
		outcome = "failed"
	}
	return DeployBatch{b.ID, b.Target, outcome, b.BeganAt, b.Took.Milliseconds(), b.Items, b.Live, b.Error, b.Detail}
}

type listDeploymentsInput struct {
	ListInput
	Target  string `query:"target" maxLength:"64" doc:"Only what this target should serve"`
	Failing bool   `query:"failing" doc:"Only what a target refused the last time"`
}

func (s *Server) listDeployments(ctx context.Context, in *listDeploymentsInput) (*pageOf[Deployment], error) {
	after, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := renew.Deployments(ctx, s.cfg.DB.Read(), renew.DeployedQuery{Target: in.Target, Failing: in.Failing, After: after, Limit: in.Limit + 1})
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(d *renew.Deployed) string { return d.ID }, viewDeployment), nil
}

type listDeployBatchesInput struct {
	ListInput
	Target string `query:"target" maxLength:"64" doc:"Only of this target"`
}

func (s *Server) listDeployBatches(ctx context.Context, in *listDeployBatchesInput) (*pageOf[DeployBatch], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := renew.Batches(ctx, s.cfg.DB.Read(), in.Target, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, in.Limit, func(b *renew.Batch) string { return b.ID }, viewDeployBatch), nil
}
