package packaging_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"chancery/internal/app"
	"chancery/internal/config"
	"chancery/internal/db/dbtest"
	"chancery/internal/httpd"
	"chancery/internal/testenv"
	"chancery/packaging"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDashboardsAreFresh(t *testing.T) {
	found, err := filepath.Glob("grafana/*.json")
	check(t, err)
	if len(found) != len(packaging.Dashboards()) {
		t.Errorf("there are %d files for %d dashboards", len(found), len(packaging.Dashboards()))
	}
	for _, d := range packaging.Dashboards() {
		want, err := d.JSON()
		check(t, err)
		got, err := os.ReadFile("grafana/" + d.UID + ".json")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what the program would write; run go generate ./packaging", d.UID)
		}
	}
}

// desc matches the text of a description of a metric.
var desc = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// measured returns the metrics of the whole program with their labels.
func measured(t *testing.T) map[string][]string {
	t.Helper()
	cfg := config.Default()
	cfg.Server.Data, cfg.Database.URL = t.TempDir(), dbtest.SQLiteURL(t)
	a, err := app.New(context.Background(), cfg, app.Options{Create: true})
	check(t, err)
	defer a.Close()
	httpd.NewMetrics(a.Metrics()) // which Run does
	out := map[string][]string{"up": {"job"}}
	all := make(chan *prometheus.Desc, 1000)
	a.Metrics().Describe(all)
	close(all)
	for d := range all {
		m := desc.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		out[m[1]] = append(strings.Split(m[2], ","), "le", "instance", "job")
	}
	return out
}

// Parts of a query.
var (
	metric = regexp.MustCompile(`\b((?:chancery|certificate|database|ca)_[a-z0-9_]+|up)\b(?:\{([^}]*)\})?`)
	by     = regexp.MustCompile(`by \(([^)]*)\)`)
	label  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!=|=)`)
	suffix = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// unknown returns what a query names that the program does not have.
func unknown(query string, known map[string][]string) (out []string) {
	var has []string
	for _, m := range metric.FindAllStringSubmatch(query, -1) {
		labels, ok := known[m[1]]
		if !ok {
			labels, ok = known[suffix.ReplaceAllString(m[1], "")]
		}
		if !ok {
			out = append(out, m[1])
		}
		has = append(has, labels...)
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, l[1]) {
				out = append(out, m[1]+"{"+l[1]+"}")
			}
		}
	}
	for _, m := range by.FindAllStringSubmatch(query, -1) {
		for _, l := range strings.Split(m[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(has, l) {
				out = append(out, "by "+l)
			}
		}
	}
	if len(has) == 0 {
		out = append(out, "no metric at all")
	}
	return out
}

func TestEveryMetricExists(t *testing.T) {
	known := measured(t)
	for _, d := range packaging.Dashboards() {
		for _, row := range d.Rows {
			for _, p := range row.Panels {
				if bad := unknown(p.Query, known); len(bad) > 0 {
					t.Errorf("%s, %s: the program has no %v", d.UID, p.Title, bad)
				}
			}
		}
	}
	text, err := os.ReadFile("prometheus/chancery.rules.yml")
	check(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	check(t, yaml.Unmarshal(text, &rules))
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			if bad := unknown(r.Expr, known); len(bad) > 0 {
				t.Errorf("%s: the program has no %v", r.Alert, bad)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d rules were read", n)
	}
	if bad := unknown(`rate(chancery_gone_total{x="1"}[5m])`, known); len(bad) == 0 {
		t.Error("a metric that does not exist was not noticed")
	}
}

func TestRulesFireWhenTheyShould(t *testing.T) {
	tool := testenv.NeedBinary(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "chancery.rules.yml"}, {"test", "rules", "chancery.test.yml"}} {
		cmd := exec.Command(tool, args...)
		cmd.Dir = "prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
