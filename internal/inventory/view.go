package inventory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
)

// View is a query that somebody gave a name.
type View struct {
	ID        string
	Name      string // unique
	Query     string
	Sort      Sort
	CreatedBy string
	CreatedAt time.Time
	UpdatedAt time.Time
}

var (
	qViews    = db.SQL("inventory.list_views", `SELECT id, name, query, sort, created_by, created_at, updated_at FROM inventory_view WHERE name > $1 ORDER BY name LIMIT $2`)
	qNewView  = db.SQL("inventory.insert_view", `INSERT INTO inventory_view (id, name, query, sort, created_by, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6::bigint, $6::bigint)`)
	qSetView  = db.SQL("inventory.update_view", `UPDATE inventory_view SET name = $2, query = $3, sort = $4, updated_at = $5 WHERE id = $1`)
	qDropView = db.SQL("inventory.delete_view", `DELETE FROM inventory_view WHERE id = $1`)
	errNoView = errors.New("no such view")
	errNoName = fault.New(fault.Invalid, "a view needs a name")
)

// Views returns up to limit saved views in the order of their names, after the
// name after ("" = from the first).
func (s *Store) Views(ctx context.Context, after string, limit int) ([]View, error) {
	limit, err := checkLimit(limit)
	if err != nil {
		return nil, err
	}
	return db.List(ctx, s.db.Read(), qViews, func(r *db.Row) View {
		return View{r.Text(), r.Text(), r.Text(), Sort(r.Text()), r.Text(), r.Time(), r.Time()}
	}, after, limit)
}

// SaveView stores v: a new one when v.ID is "", else in place of the one with
// that id. The query must be a valid one. Errors are *fault.Error: invalid,
// conflict for a name that is taken, notFound.
func (s *Store) SaveView(ctx context.Context, v View, now time.Time) (View, error) {
	if err := v.check(now); err != nil {
		return View{}, err
	}
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		if v.ID == "" {
			v.ID, v.CreatedAt = db.NewID(now), now
			tx.Queue(qNewView, nil, v.ID, v.Name, v.Query, v.Sort, v.CreatedBy, now)
			return nil
		}
		tx.Queue(qSetView, db.ExactlyOne(errNoView), v.ID, v.Name, v.Query, v.Sort, now)
		return nil
	})
	v.UpdatedAt = now
	return v, viewError(v, err)
}

func (v *View) check(now time.Time) (err error) {
	if v.Name == "" {
		return errNoName
	}
	if err := checkText("name of the view", v.Name); err != nil {
		return err
	}
	if _, err := Parse(v.Query, now); err != nil {
		return err
	}
	v.Sort, err = ParseSort(string(v.Sort))
	return err
}

func viewError(v View, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoView):
		return fault.New(fault.NotFound, "there is no view %.80q", v.ID)
	case errors.Is(err, db.ErrConflict):
		return fault.New(fault.Conflict, "there is a view named %.80q already", v.Name)
	}
	return fmt.Errorf("store view: %w", err)
}

// DeleteView deletes a saved view; a missing one is a *fault.Error (notFound).
func (s *Store) DeleteView(ctx context.Context, id string) error {
	n, err := s.db.Read().Exec(ctx, qDropView, id)
	if err == nil && n == 0 {
		err = errNoView
	}
	return viewError(View{ID: id}, err)
}
