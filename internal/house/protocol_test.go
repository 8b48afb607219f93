package house

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// namedTest is a test in a table of promises, with or without its package.
var namedTest = regexp.MustCompile("`(?:([a-z0-9]+)\\.)?(Test[A-Za-z0-9]+)`")

// promises are pages that name the tests of what they claim: what a name without
// a package belongs to, how many names there are at least, and whether every row
// of a table has one.
var promises = []struct {
	page, usual string
	least       int
	rows        bool
}{
	{"protocol.md", "server", 50, true},
	{"compare.md", "", 70, true},
	{"design/renewal.md", "", 20, false},
}

// TestPromisesNameRealTests: a feature whose test was renamed or deleted must
// not stay in the list of what is tested.
func TestPromisesNameRealTests(t *testing.T) {
	m := read(t)
	have := testsOf(t, m.root)
	for _, p := range promises {
		text, err := os.ReadFile(filepath.Join(m.root, "docs", p.page))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rowsWithoutTest(string(text)) {
			if !p.rows {
				break
			}
			t.Errorf("docs/%s: no test, or no section, is named in %q", p.page, row)
		}
		found := namedTest.FindAllSubmatch(text, -1)
		if len(found) < p.least {
			t.Errorf("docs/%s names only %d tests", p.page, len(found))
		}
		for _, n := range found {
			pkg := string(n[1])
			if pkg == "" {
				pkg = p.usual
			}
			if !have[pkg+"."+string(n[2])] {
				t.Errorf("docs/%s names %s, which no package %s has", p.page, n[0], pkg)
			}
		}
	}
}

// testFunc is a test in a file, whatever the build tags of the file are.
var testFunc = regexp.MustCompile(`(?m)^func (Test[A-Za-z0-9]+)\(t \*testing\.T\)`)

// testsOf finds every test below a directory, by the name of its own directory.
func testsOf(t *testing.T, root string) map[string]bool {
	t.Helper()
	have := map[string]bool{}
	for _, top := range []string{"internal", "cmd", "packaging", "web"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, f := range testFunc.FindAllSubmatch(text, -1) {
				have[filepath.Base(filepath.Dir(path))+"."+string(f[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return have
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
