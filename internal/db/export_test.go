package db

import "context"

// Table is a live table, for the schema parity test.
type Table = table

// Tables lists the live schema.
func (d *DB) Tables(ctx context.Context) ([]Table, error) { return d.tables(ctx) }

// MigrateTo stops at a step, for upgrade tests.
var MigrateTo = (*DB).migrateTo
