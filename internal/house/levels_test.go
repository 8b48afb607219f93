package house

import (
	"strings"
	"testing"
)

// level places packages: each may import lower levels, its own parents, and
// the packages of the same level that its row names. A row holds for the
// package and everything below it, unless a longer row says otherwise.
type level struct {
	path  string
	level int
	same  []string // same-level packages that may be imported
}

// levels is the architecture as data. 0 is vocabulary and tools, 1 the
// platform, 2 the domain, 3 the edges, 4 the composition.
var levels = []level{
	{"internal/fault", 0, nil},
	{"internal/pki", 0, []string{"internal/fault"}},
	{"internal/obs", 0, nil},
	{"internal/loop", 0, []string{"internal/obs"}},
	{"internal/config", 0, []string{"internal/pki"}},
	{"internal/testenv", 0, nil},

	{"internal/db", 1, nil},
	{"internal/db/dbtest", 1, []string{"internal/db/schema"}},
	{"internal/db/schema", 0, nil},
	{"internal/bus", 1, nil},
	{"internal/keys", 1, nil},
	{"internal/dns", 1, nil},
	{"internal/httpd", 1, nil},
	{"internal/mailer", 1, nil},

	{"internal/job", 2, []string{"internal/audit"}},
	{"internal/audit", 2, nil},
	{"internal/limit", 2, nil},
	{"internal/token", 2, []string{"internal/audit"}},
	{"internal/ca", 2, []string{"internal/audit"}},
	{"internal/ct", 2, []string{"internal/ca"}},
	{"internal/status", 2, []string{"internal/audit", "internal/ca"}},
	{"internal/inventory", 2, []string{"internal/audit"}},
	{"internal/inventory/follow", 2, []string{"internal/audit", "internal/ca"}},
	{"internal/acme", 2, nil},
	{"internal/acme/challenge", 2, []string{"internal/acme/attest", "internal/acme/tkauth"}},
	{"internal/acme/perspective", 2, []string{"internal/acme/challenge"}},
	{"internal/acme/client", 2, []string{"internal/acme/challenge", "internal/issuer"}},
	{"internal/acme/solver", 2, []string{"internal/acme/challenge", "internal/issuer"}},
	{"internal/acme/solver/webhook", 2, []string{"internal/acme/solver/exec", "internal/issuer"}},
	{"internal/issuer", 2, []string{"internal/acme", "internal/ca", "internal/issuer/rest"}},
	{"internal/deploy", 2, []string{"internal/deploy", "internal/scan/probe"}},
	{"internal/scan", 2, []string{"internal/inventory", "internal/job", "internal/scan/probe", "internal/scan/verdict"}},
	{"internal/scan/pass", 2, []string{"internal/audit", "internal/inventory", "internal/scan"}},
	{"internal/scan/cloud", 2, nil},
	{"internal/scan/source", 2, []string{"internal/audit", "internal/inventory", "internal/scan/cloud"}},
	{"internal/ctwatch", 2, []string{"internal/audit", "internal/ca", "internal/inventory", "internal/scan/cloud"}},
	{"internal/alert", 2, []string{"internal/alert", "internal/audit", "internal/inventory", "internal/job"}},
	{"internal/fleet", 2, nil},
	{"internal/renew", 2, []string{"internal/acme", "internal/audit", "internal/deploy", "internal/inventory", "internal/issuer", "internal/job", "internal/limit", "internal/renew/rule"}},
	{"internal/renew/rule", 2, []string{"internal/issuer"}},

	{"internal/acme/server", 3, nil},
	{"internal/fleet/server", 3, nil},
	{"internal/fleet/agent", 3, nil},
	{"internal/fleet/alone", 3, nil},
	{"internal/api", 3, []string{"internal/acme/server", "internal/fleet/server"}},
	{"internal/api/client", 3, nil},
	{"internal/backup", 3, nil},
	{"internal/chaos", 3, nil},

	{"internal/app", 4, nil},
	{"internal/bench", 4, []string{"internal/app", "internal/bench/fleet"}},
	{"internal/e2e", 4, []string{"internal/app", "internal/bench"}},
	{"web", 3, []string{"web/bundle"}},
	{"cmd", 5, nil},
	{"packaging", 5, nil},
	{"internal/house", 5, nil},
	{"internal/config/gen", 5, nil},
}

// forbidden is the "must not" column: an import that a level would allow and
// the idea of the package does not.
var forbidden = []struct{ from, to, why string }{
	{"internal/pki", "net/http", "pki is pure functions"},
	{"internal/pki", "os", "pki is pure functions"},
	{"internal/limit", "net/http", "limits know keys and costs, not HTTP"},
	{"internal/ca", "net/http", "the CA knows neither HTTP nor ACME"},
	{"internal/ca", "internal/acme", "the CA knows neither HTTP nor ACME"},
	{"internal/status", "internal/acme", "status knows no ACME"},
	{"internal/renew", "net/http", "renewal decides; issuers and targets talk"},
	{"internal/keys", "internal/db", "keys are not in the database"},
	{"internal/issuer", "internal/db", "plug-ins have no tables"},
	{"internal/deploy", "internal/db", "plug-ins have no tables"},
	{"internal/acme", "internal/db", "the protocol has no tables; acme/server has"},
	{"internal/fleet/agent", "internal/db", "agents have no database"},
	{"internal/fleet/alone", "internal/db", "agents have no database"},
	{"internal/renew/rule", "internal/db", "rules are pure"},
	{"internal/acme/server", "internal/renew", "two products: our ACME server and our renewals"},
	{"internal/acme/server", "internal/scan", "two products: our ACME server and our scanner"},
	{"internal/scan", "internal/renew", "the scanner reports; renewal decides"},
}

// except are packages below a row of forbidden for which it does not hold.
var except = map[string]string{
	"internal/acme/server": "internal/acme", // the edge has the tables
}

// under reports whether path is root or below it.
func under(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// place finds the row of a package.
func place(path string) (level, bool) {
	best, ok := level{}, false
	for _, l := range levels {
		if under(path, l.path) && len(l.path) > len(best.path) {
			best, ok = l, true
		}
	}
	return best, ok
}

// allowed reports whether from may import to.
func allowed(from, to string, a, b level) bool {
	if b.level < a.level || under(from, to) {
		return true
	}
	if b.level > a.level {
		return false
	}
	for _, s := range a.same {
		if under(to, s) {
			return true
		}
	}
	return false
}

func TestImportsGoDown(t *testing.T) {
	for _, p := range read(t).pkgs {
		a, ok := place(p.rel())
		if !ok {
			t.Errorf("%s has no row in the table of levels_test.go; give it one", p.rel())
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if b, ok := place(to); ok && !allowed(p.rel(), to, a, b) {
				t.Errorf("%s (level %d) imports %s (level %d): move the type down, or name the package in the row", p.rel(), a.level, to, b.level)
			}
		}
	}
}

func TestForbiddenImports(t *testing.T) {
	for _, p := range read(t).pkgs {
		for _, rule := range forbidden {
			if !under(p.rel(), rule.from) || except[p.rel()] == rule.from {
				continue
			}
			for _, imp := range p.Imports {
				if to := strings.TrimPrefix(imp, module+"/"); under(to, rule.to) {
					t.Errorf("%s imports %s: %s", p.rel(), to, rule.why)
				}
			}
		}
	}
}

func TestNobodyImportsTheTop(t *testing.T) {
	for _, p := range read(t).pkgs {
		for _, imp := range p.Imports {
			if to := strings.TrimPrefix(imp, module+"/"); under(to, "internal/e2e") || under(to, "internal/house") || under(to, "cmd") {
				t.Errorf("%s imports %s, which is nobody's library", p.rel(), to)
			}
		}
	}
}
