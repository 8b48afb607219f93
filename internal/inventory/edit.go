package inventory

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
)

// Edit is what to change about certificates; nil leaves a field alone.
type Edit struct {
	Owner       *string           `json:"owner,omitzero"`
	Team        *string           `json:"team,omitzero"`
	Environment *string           `json:"environment,omitzero"`
	Managed     *bool             `json:"managed,omitzero"`
	Retired     *bool             `json:"retired,omitzero"`
	Tags        map[string]string `json:"tags,omitzero"`  // set to these values
	Untag       []string          `json:"untag,omitzero"` // names of tags to drop
}

// check refuses edits that say nothing or something that cannot be.
func (e *Edit) check() error {
	if e.Owner == nil && e.Team == nil && e.Environment == nil && e.Managed == nil && e.Retired == nil && len(e.Tags) == 0 && len(e.Untag) == 0 {
		return fault.New(fault.Invalid, "the edit changes nothing")
	}
	if err := checkOwnership(deref(e.Owner), deref(e.Team), deref(e.Environment)); err != nil {
		return err
	}
	if len(e.Tags)+len(e.Untag) > maxTags {
		return fault.New(fault.TooLarge, "an edit changes at most %d tags", maxTags)
	}
	for name, value := range e.Tags {
		if err := checkTag(name, value); err != nil {
			return err
		}
		if slices.Contains(e.Untag, name) {
			return fault.New(fault.Invalid, "tag %s is both set and dropped", name)
		}
	}
	for _, name := range e.Untag {
		if err := checkTag(name, ""); err != nil {
			return err
		}
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// EditPlan says what an edit would touch.
type EditPlan struct {
	Count  Count         // certificates that match now
	Sample []Certificate // the first of them
}

// sampleSize is how many certificates a plan shows.
const sampleSize = 10

// PlanEdit says what Apply would do with the same query and edit.
func (s *Store) PlanEdit(ctx context.Context, query string, e Edit, now time.Time) (EditPlan, error) {
	f, err := Parse(query, now)
	if err != nil {
		return EditPlan{}, err
	}
	if err := e.check(); err != nil {
		return EditPlan{}, err
	}
	var p EditPlan
	if p.Count, err = s.Count(ctx, f); err != nil {
		return p, err
	}
	page, err := s.List(ctx, Query{Filter: f, Limit: sampleSize})
	p.Sample = page.Certificates
	return p, err
}

// BulkEdit asks for an edit of everything that a query matches.
type BulkEdit struct {
	// Key names this request: repeating it continues an edit that was
	// interrupted, and returns the result of one that is done.
	Key   string
	Query string
	Edit  Edit
	Actor string // for the journal
}

// EditResult is what an edit did.
type EditResult struct {
	Matched int64 // certificates that matched when they were looked at
	Changed int64 // those of them that were not as wished already
	Done    bool
}

var (
	qNewEdit = db.SQL("inventory.insert_edit", `INSERT INTO inventory_edit (id, request, position, changed, matched, state, actor, created_at, updated_at)
		VALUES ($1, $2, '', 0, 0, 'running', $3, $4::bigint, $4::bigint) ON CONFLICT DO NOTHING`)
	qReadEdit = db.SQL("inventory.read_edit", `SELECT request, position, changed, matched, state, created_at FROM inventory_edit WHERE id = $1`)
	qMoveEdit = db.SQL("inventory.move_edit", `UPDATE inventory_edit SET position = $3, changed = $4, matched = $5, state = $6, updated_at = $7
		WHERE id = $1 AND position = $2 AND state = 'running'`)
	qSetOwnership = db.SQL("inventory.update_ownership", `UPDATE inventory SET owner = $2, team = $3, environment = $4, managed = $5 WHERE id = $1`)
	qDropTags     = db.SQL("inventory.delete_tag_set", `DELETE FROM inventory_tag WHERE tag = $1 AND not_after = $2 AND inventory_id = $3`)
)

// editBatch is how many certificates one transaction of a bulk edit takes.
const editBatch = 500

// editState is the row of a bulk edit.
type editState struct {
	request, position string
	changed, matched  int64
	done              bool
	createdAt         time.Time
}

func scanEdit(r *db.Row) editState {
	return editState{request: r.Text(), position: r.Text(), changed: r.Int64(), matched: r.Int64(), done: r.Text() == "done", createdAt: r.Time()}
}

// errMoved says that somebody else took the batch.
var errMoved = errors.New("bulk edit moved on")

// Apply edits everything that a query matches, batch by batch, each in one
// transaction together with how far it got. Relative times in the query count
// from the first call with the key. When ctx ends, what is done stays done,
// and the same call goes on from there.
func (s *Store) Apply(ctx context.Context, be BulkEdit, now time.Time) (EditResult, error) {
	st, err := s.begin(ctx, be, now)
	if err != nil {
		return EditResult{}, err
	}
	f, err := Parse(be.Query, st.createdAt)
	if err != nil {
		return EditResult{}, err
	}
	for !st.done {
		err := s.step(ctx, be, f, &st, now)
		if errors.Is(err, errMoved) { // the same call runs elsewhere too: follow it
			st, err = db.Get(ctx, s.db.Read(), qReadEdit, scanEdit, be.Key)
		}
		if err != nil {
			return st.result(), fmt.Errorf("edit certificates: %w", err)
		}
	}
	return st.result(), nil
}

func (st *editState) result() EditResult { return EditResult{st.matched, st.changed, st.done} }

// begin finds or makes the row of an edit.
func (s *Store) begin(ctx context.Context, be BulkEdit, now time.Time) (editState, error) {
	if !token(lower(be.Key)) {
		return editState{}, fault.New(fault.Invalid, "a bulk edit needs a key of 1 to %d letters, digits, '-', '_', '.' or '/'", maxToken)
	}
	if err := be.Edit.check(); err != nil {
		return editState{}, err
	}
	if _, err := Parse(be.Query, now); err != nil {
		return editState{}, err
	}
	request, err := json.Marshal(struct {
		Query string `json:"query"`
		Edit  Edit   `json:"edit"`
	}{be.Query, be.Edit}, json.Deterministic(true))
	if err != nil {
		return editState{}, fmt.Errorf("encode bulk edit: %w", err)
	}
	if _, err := s.db.Read().Exec(ctx, qNewEdit, be.Key, string(request), be.Actor, now); err != nil {
		return editState{}, fmt.Errorf("store bulk edit: %w", err)
	}
	st, err := db.Get(ctx, s.db.Read(), qReadEdit, scanEdit, be.Key)
	if err != nil {
		return st, fmt.Errorf("read bulk edit: %w", err)
	}
	if st.request != string(request) {
		return st, fault.New(fault.Conflict, "the key %q was used for another bulk edit; choose a new one", be.Key)
	}
	return st, nil
}

// step edits the next batch and moves st.
func (s *Store) step(ctx context.Context, be BulkEdit, f Filter, st *editState, now time.Time) error {
	page, err := s.List(ctx, Query{Filter: f, Limit: editBatch, Cursor: st.position, Text: be.Query})
	if err != nil {
		return err
	}
	ids := make([]string, len(page.Certificates))
	for i := range page.Certificates {
		ids[i] = page.Certificates[i].ID
	}
	next := *st
	next.position, next.done = page.Next, page.Next == ""
	err = s.change(ctx, func(ctx context.Context, c *change) error {
		changed, err := c.edit(ctx, ids, &be.Edit, now)
		if err != nil {
			return err
		}
		next.changed, next.matched = st.changed+changed, st.matched+int64(len(ids))
		state := "running"
		if next.done {
			state = "done"
			if err := journal(c.tx, be, &next, now); err != nil {
				return err
			}
		}
		c.tx.Queue(qMoveEdit, db.ExactlyOne(errMoved), be.Key, st.position, next.position, next.changed, next.matched, state, now)
		return nil
	})
	if err == nil {
		*st = next
	}
	return err
}

// journal records a finished bulk edit.
func journal(tx *db.Tx, be BulkEdit, st *editState, now time.Time) error {
	return audit.Append(tx, audit.Entry{At: now, Kind: "inventory.edited", Actor: be.Actor, Subject: "edit:" + be.Key,
		Data: map[string]any{"query": be.Query, "edit": be.Edit, "matched": st.matched, "changed": st.changed}})
}

// edit applies e to certificates and returns how many it changed.
func (c *change) edit(ctx context.Context, ids []string, e *Edit, now time.Time) (changed int64, err error) {
	tags, err := c.tagSets(ctx, ids)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		// One at a time: the edit of a neighbour in a chain may change the row.
		ms, err := c.members(ctx, []string{id})
		if err != nil {
			return 0, err
		}
		if len(ms) == 0 {
			continue // deleted since the page was read
		}
		did, err := c.editOne(ctx, ms[0], e, tags[id], now)
		if err != nil {
			return 0, err
		}
		if did {
			changed++
		}
	}
	return changed, nil
}

func (c *change) editOne(ctx context.Context, m *member, e *Edit, tags []string, now time.Time) (bool, error) {
	before, retired := m.dims, m.retired
	ownership := func() {
		set(&m.owner, e.Owner)
		set(&m.team, e.Team)
		set(&m.environment, e.Environment)
		if e.Managed != nil {
			m.managed = flag(e.Managed)
		}
		if e.Retired != nil {
			c.retire(m, *e.Retired, now)
		}
	}
	if e.Owner != nil && *e.Owner != m.owner || e.Retired != nil && *e.Retired != m.retired {
		if err := c.move(ctx, m, now.UnixMilli(), func() { ownership(); c.tx.Queue(qSetOwnership, nil, m.id, m.owner, m.team, m.environment, m.managed) }); err != nil {
			return false, err
		}
	} else if c.recount(m, ownership); m.dims != before {
		c.tx.Queue(qSetOwnership, nil, m.id, m.owner, m.team, m.environment, m.managed)
	}
	var want []string
	for name, value := range e.Tags {
		want = append(want, name+"="+value)
	}
	tagged, err := c.setTags(ctx, m, tags, want, e.Untag)
	return tagged || m.dims != before || m.retired != retired, err
}

func set(into *string, v *string) {
	if v != nil {
		*into = *v
	}
}

// tagSets returns the tags of certificates, by id.
func (c *change) tagSets(ctx context.Context, ids []string) (map[string][]string, error) {
	sets := map[string][]string{}
	err := c.tx.All(ctx, qTagSet, func(r *db.Row) error {
		id := r.Text()
		sets[id] = append(sets[id], r.Text())
		return nil
	}, ids)
	return sets, err
}

// setTags gives m the tags want and drops those named in drop; have are those
// it has. A tag has one value per certificate.
func (c *change) setTags(ctx context.Context, m *member, have, want, drop []string) (bool, error) {
	changed := false
	for _, tag := range have {
		name, _, _ := strings.Cut(tag, "=")
		replaced := slices.ContainsFunc(want, func(w string) bool { return w != tag && strings.HasPrefix(w, name+"=") })
		if replaced || slices.Contains(drop, name) {
			c.tx.Queue(qDropTags, nil, tag, m.notAfter, m.id)
			changed = true
		}
	}
	var rows [][]any
	for _, tag := range want {
		if !slices.Contains(have, tag) {
			rows = append(rows, []any{tag, m.notAfter, m.id})
		}
	}
	return changed || len(rows) > 0, c.tx.Insert(ctx, putTags, rows)
}
