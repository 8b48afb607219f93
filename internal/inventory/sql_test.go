package inventory_test

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

// fullScan matches the plan steps that read a whole table.
var fullScan = map[db.Engine]*regexp.Regexp{
	db.SQLite:   regexp.MustCompile(`(?m)^SCAN (\w+)$`),
	db.Postgres: regexp.MustCompile(`Seq Scan on (\w+)`),
}

// Every statement compiles on both engines, and none reads a whole table
// unless it says so; on SQLite, paged statements need no sorting either.
func TestStatements(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := context.Background()
		for _, s := range db.Statements() {
			if !strings.HasPrefix(s.Name, "inventory.") {
				continue
			}
			if err := d.Prepare(ctx, s); err != nil {
				t.Errorf("%s: %v", s.Name, err)
				continue
			}
			plan, err := d.Explain(ctx, s)
			if err != nil {
				t.Errorf("%s: %v", s.Name, err)
				continue
			}
			if found := fullScan[d.Engine()].FindString(plan); found != "" && !s.FullScan {
				t.Errorf("%s: %s\n%s", s.Name, found, plan)
			}
			paged := strings.HasPrefix(s.Name, "inventory.list_") && strings.Contains(s.Text, "ORDER BY") && !strings.Contains(s.Name, "_ids")
			if d.Engine() == db.SQLite && paged && strings.Contains(plan, "TEMP B-TREE FOR ORDER BY") && !strings.Contains(s.Text, "ANY($1::text[]) ORDER BY") {
				t.Errorf("%s sorts:\n%s", s.Name, plan)
			}
		}
	})
}
