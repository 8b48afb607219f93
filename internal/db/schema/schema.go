// Package schema embeds the database schema as numbered, forward-only steps,
// one file per engine: NNNN_name.sqlite.sql and NNNN_name.postgres.sql. A step
// that has shipped is never edited; steps only add (expand, then contract).
package schema

import "embed"

// Files holds every step.
//
//go:embed *.sql
var Files embed.FS
