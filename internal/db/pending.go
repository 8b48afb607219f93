package db

import "context"

// Pending returns the names of the steps that Migrate would take. It changes
// nothing.
func (d *DB) Pending(ctx context.Context) ([]string, error) {
	steps, err := migrations(d.kind)
	if err != nil {
		return nil, err
	}
	tables, err := d.tables(ctx)
	if err != nil {
		return nil, err
	}
	var done int64
	for _, t := range tables {
		if t.Name == "migration" {
			if done, err = d.Version(ctx); err != nil {
				return nil, err
			}
		}
	}
	var names []string
	for _, m := range steps {
		if m.version > done {
			names = append(names, m.name)
		}
	}
	return names, nil
}
