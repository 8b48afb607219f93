package house

import (
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// asvs are the requirements of OWASP ASVS 4.0.3 at levels 1 and 2, by section;
// numbers that are missing were withdrawn or belong to level 3.
var asvs = map[string]string{
	"1.1": "1 2 3 4 5 6 7", "1.2": "1 2 3 4", "1.4": "1 4 5", "1.5": "1 2 3 4", "1.6": "1 2 3 4", "1.7": "1 2", "1.8": "1 2", "1.9": "1 2", "1.10": "1",
	"1.11": "1 2", "1.12": "2", "1.14": "1 2 3 4 5 6",
	"2.1": "1 2 3 4 5 6 7 8 9 10 11 12", "2.2": "1 2 3", "2.3": "1 2 3", "2.4": "1 2 3 4 5", "2.5": "1 2 3 4 5 6 7", "2.6": "1 2 3", "2.7": "1 2 3 4 5 6",
	"2.8": "1 2 3 4 5 6", "2.9": "1 2 3", "2.10": "1 2 3 4",
	"3.1": "1", "3.2": "1 2 3 4", "3.3": "1 2 3 4", "3.4": "1 2 3 4 5", "3.5": "1 2 3", "3.7": "1",
	"4.1": "1 2 3 5", "4.2": "1 2", "4.3": "1 2 3",
	"5.1": "1 2 3 4 5", "5.2": "1 2 3 4 5 6 7 8", "5.3": "1 2 3 4 5 6 7 8 9 10", "5.4": "1 2 3", "5.5": "1 2 3 4",
	"6.1": "1 2 3", "6.2": "1 2 3 4 5 6", "6.3": "1 2", "6.4": "1 2",
	"7.1": "1 2 3 4", "7.2": "1 2", "7.3": "1 3 4", "7.4": "1 2 3",
	"8.1": "1 2 3 4", "8.2": "1 2 3", "8.3": "1 2 3 4 5 6 7 8",
	"9.1": "1 2 3", "9.2": "1 2 3 4",
	"10.2": "1 2", "10.3": "1 2 3",
	"11.1": "1 2 3 4 5 6 7 8",
	"12.1": "1 2 3", "12.2": "1", "12.3": "1 2 3 4 5 6", "12.4": "1 2", "12.5": "1 2", "12.6": "1",
	"13.1": "1 3 4 5", "13.2": "1 2 3 5 6", "13.3": "1 2", "13.4": "1 2",
	"14.1": "1 2 3 4", "14.2": "1 2 3 4 5 6", "14.3": "2 3", "14.4": "1 2 3 4 5 6 7", "14.5": "1 2 3 4",
}

var (
	asvsRow    = regexp.MustCompile(`^\| ([0-9., ]+) \| [^|]+ \| (.+) \|$`)
	asvsState  = regexp.MustCompile(`^(design|n/a|operator|not met): \S`)
	testOfPage = regexp.MustCompile("`([a-z0-9]+)\\.(Test[A-Za-z0-9]+)`")
)

// TestSecurityPageIsTrue: docs/security.md speaks of every requirement, once,
// and each test that it relies on exists.
func TestSecurityPageIsTrue(t *testing.T) {
	m := read(t)
	have := map[string]bool{}
	for _, f := range m.files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && fn.Recv == nil {
				have[filepath.Base(f.pkg)+"."+fn.Name.Name] = true
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(m.root, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range testOfPage.FindAllStringSubmatch(string(text), -1) {
		if !have[n[1]+"."+n[2]] {
			t.Errorf("docs/security.md names %s, which no package %s has", n[0], n[1])
		}
	}
	seen := map[string]int{}
	for line := range strings.Lines(string(text)) {
		row := asvsRow.FindStringSubmatch(strings.TrimSpace(line))
		if row == nil {
			continue
		}
		if !testOfPage.MatchString(row[2]) && !asvsState.MatchString(row[2]) {
			t.Errorf("docs/security.md: %s names no test, and does not say why: %s", row[1], row[2])
		}
		for _, number := range strings.Split(row[1], ", ") {
			seen[number]++
		}
	}
	for section, numbers := range asvs {
		for _, n := range strings.Fields(numbers) {
			number := section + "." + n
			if seen[number] != 1 {
				t.Errorf("docs/security.md speaks %d times of %s", seen[number], number)
			}
			delete(seen, number)
		}
	}
	for _, number := range slices.Sorted(maps.Keys(seen)) {
		t.Errorf("docs/security.md has %s, which is no requirement of level 2", number)
	}
}
