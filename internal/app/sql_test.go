package app_test

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"

	_ "chancery/internal/app" // registers every statement of the program
	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

// Every statement compiles on both engines, under the one text it has.
func TestEveryStatementPrepares(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		for _, s := range db.Statements() {
			if err := d.Prepare(context.Background(), s); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
	})
}

// fullScan matches the plan steps that read a whole table.
var fullScan = map[db.Engine]*regexp.Regexp{
	db.SQLite:   regexp.MustCompile(`(?m)^SCAN (\w+)$`),
	db.Postgres: regexp.MustCompile(`Seq Scan on (\w+)`),
}

// No statement reads a whole table unless it says so (db.Scan).
func TestNoStatementScansATable(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		for _, s := range db.Statements() {
			if s.FullScan || strings.HasPrefix(strings.TrimSpace(strings.ToUpper(s.Text)), "INSERT INTO") && !strings.Contains(s.Text, "SELECT") {
				continue
			}
			plan, err := d.Explain(context.Background(), s)
			if err != nil {
				t.Errorf("%s: %v", s.Name, err)
				continue
			}
			for _, m := range fullScan[d.Engine()].FindAllStringSubmatch(plan, -1) {
				// A scan of a sub-select's result costs what the sub-select gave.
				if !strings.Contains(plan, "CO-ROUTINE "+m[1]+"\n") {
					t.Errorf("%s: %s; add an index, or mark it db.Scan with the reason\n%s", s.Name, m[0], plan)
				}
			}
		}
	})
}
