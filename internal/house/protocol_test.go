package house

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is a test in docs/protocol.md, with or without its package.
var namedTest = regexp.MustCompile("`(?:([a-z0-9]+)\\.)?(Test[A-Za-z0-9]+)`")

// TestProtocolNamesRealTests: a feature whose test was renamed or deleted must
// not stay in the list of what is tested.
func TestProtocolNamesRealTests(t *testing.T) {
	m := read(t)
	have := map[string]bool{}
	for _, f := range m.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				have[filepath.Base(f.pkg)+"."+fn.Name.Name] = true
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(m.root, "docs", "protocol.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rowsWithoutTest(string(text)) {
		t.Errorf("docs/protocol.md: no test, or no section, is named in %q", row)
	}
	found := namedTest.FindAllSubmatch(text, -1)
	if len(found) < 50 {
		t.Errorf("docs/protocol.md names only %d tests", len(found))
	}
	for _, n := range found {
		pkg := string(n[1])
		if pkg == "" {
			pkg = "server"
		}
		if !have[pkg+"."+string(n[2])] {
			t.Errorf("docs/protocol.md names %s, which no package %s has", n[0], pkg)
		}
	}
}

// section is what the middle column of a table must hold: the number of a
// section, or - where no text speaks.
var section = regexp.MustCompile(`^-$|\d`)

// rowsWithoutTest returns the rows of the tables that promise something and name
// no test, or no section.
func rowsWithoutTest(text string) (bad []string) {
	head := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			head = true
			continue
		}
		if head || strings.HasPrefix(line, "|--") {
			head = false // the header, then the rule below it
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if !namedTest.MatchString(cells[len(cells)-1]) || len(cells) == 3 && !section.MatchString(strings.TrimSpace(cells[1])) {
			bad = append(bad, line)
		}
	}
	return bad
}
