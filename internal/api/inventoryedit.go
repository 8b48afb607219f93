package api

import (
	"context"
	"time"

	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// InventoryEdit is what to change about certificates; what is left out stays.
type InventoryEdit struct {
	Owner       *string           `json:"owner,omitempty" maxLength:"255"`
	Team        *string           `json:"team,omitempty" maxLength:"255"`
	Environment *string           `json:"environment,omitempty" maxLength:"255"`
	Retired     *bool             `json:"retired,omitempty" doc:"Take out of view, or bring back"`
	Tags        map[string]string `json:"tags,omitempty" doc:"Set to these values"`
	Untag       []string          `json:"untag,omitempty" doc:"Names of tags to drop"`
}

func (e *InventoryEdit) edit() inventory.Edit {
	return inventory.Edit{Owner: e.Owner, Team: e.Team, Environment: e.Environment, Retired: e.Retired, Tags: e.Tags, Untag: e.Untag}
}

type planEditInput struct {
	Body struct {
		Query string        `json:"q" minLength:"1" maxLength:"2000" doc:"Which certificates"`
		Edit  InventoryEdit `json:"edit"`
	}
}

// EditPlan says what an edit would touch.
type EditPlan struct {
	Matched int64   `json:"matched"`
	Exact   bool    `json:"exact" doc:"False: at least so many"`
	Sample  []Known `json:"sample" nullable:"false"`
}

func (s *Server) planEdit(ctx context.Context, in *planEditInput) (*bodyOf[EditPlan], error) {
	p, err := s.cfg.Inventory.PlanEdit(ctx, in.Body.Query, in.Body.Edit.edit(), now())
	if err != nil {
		return nil, err
	}
	v := EditPlan{Matched: p.Count.N, Exact: p.Count.Exact, Sample: make([]Known, len(p.Sample))}
	for i := range p.Sample {
		v.Sample[i] = viewKnown(&p.Sample[i])
	}
	return &bodyOf[EditPlan]{v}, nil
}

type editInput struct {
	Body struct {
		Key     string        `json:"key" minLength:"8" maxLength:"128" doc:"Names this request: any text that is new, such as a UUID. Repeating it goes on with it"`
		Query   string        `json:"q" minLength:"1" maxLength:"2000" doc:"Which certificates"`
		Edit    InventoryEdit `json:"edit"`
		Confirm bool          `json:"confirm,omitempty" doc:"Needed for more than 10"`
	}
}

// EditResult is what an edit did so far.
type EditResult struct {
	Matched int64 `json:"matched"`
	Changed int64 `json:"changed" doc:"Those of them that were not so already"`
	Done    bool  `json:"done" doc:"False: send the same request again, to go on"`
}

// editTime leaves the answer a chance before the connection's time is up.
const editTime = 30 * time.Second

func (s *Server) editInventory(ctx context.Context, in *editInput) (*bodyOf[EditResult], error) {
	at := now()
	if !in.Body.Confirm {
		p, err := s.cfg.Inventory.PlanEdit(ctx, in.Body.Query, in.Body.Edit.edit(), at)
		if err != nil {
			return nil, err
		}
		if p.Count.N > confirmAbove {
			return nil, fault.New(fault.Precondition, "this edits %d certificates; look at the plan, and send it again with confirm", p.Count.N)
		}
	}
	work, cancel := context.WithTimeout(ctx, editTime)
	defer cancel()
	r, err := s.cfg.Inventory.Apply(work, inventory.BulkEdit{Key: in.Body.Key, Query: in.Body.Query, Edit: in.Body.Edit.edit(), Actor: actorOf(ctx)}, at)
	if err != nil && !(work.Err() != nil && ctx.Err() == nil) {
		return nil, err
	}
	return &bodyOf[EditResult]{EditResult{r.Matched, r.Changed, r.Done && err == nil}}, nil
}

// View is a saved query.
type View struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Query     string    `json:"q"`
	Sort      string    `json:"sort,omitempty"`
	CreatedBy string    `json:"created_by"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func viewView(v *inventory.View) View {
	return View{v.ID, v.Name, v.Query, string(v.Sort), v.CreatedBy, v.CreatedAt, v.UpdatedAt}
}

func (s *Server) listViews(ctx context.Context, in *ListInput) (*pageOf[View], error) {
	after, err := decodeKey(in.Cursor)
	if err != nil {
		return nil, err
	}
	// One row more than asked for says that there is a next page; the largest
	// page asks for one less, as the inventory has the same bound.
	limit := min(in.Limit, inventory.MaxLimit-1)
	rows, err := s.cfg.Inventory.Views(ctx, after, limit+1)
	if err != nil {
		return nil, err
	}
	return pageFrom(rows, limit, func(v *inventory.View) string { return v.Name }, viewView), nil
}

// ViewSpec is what a saved query consists of.
type ViewSpec struct {
	Name  string `json:"name" minLength:"1" maxLength:"128"`
	Query string `json:"q" maxLength:"2000"`
	Sort  string `json:"sort,omitempty"`
}

type createViewInput struct{ Body ViewSpec }

func (s *Server) createView(ctx context.Context, in *createViewInput) (*bodyOf[View], error) {
	return s.saveView(ctx, "", &in.Body)
}

type updateViewInput struct {
	IDInput
	Body ViewSpec
}

func (s *Server) updateView(ctx context.Context, in *updateViewInput) (*bodyOf[View], error) {
	return s.saveView(ctx, in.ID, &in.Body)
}

func (s *Server) saveView(ctx context.Context, id string, spec *ViewSpec) (*bodyOf[View], error) {
	sort, err := inventory.ParseSort(spec.Sort)
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Inventory.SaveView(ctx, inventory.View{ID: id, Name: spec.Name, Query: spec.Query, Sort: sort, CreatedBy: actorOf(ctx)}, now())
	return &bodyOf[View]{viewView(&v)}, err
}

func (s *Server) deleteView(ctx context.Context, in *IDInput) (*struct{}, error) {
	return nil, s.cfg.Inventory.DeleteView(ctx, in.ID)
}
