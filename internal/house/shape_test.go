package house

import (
	"bufio"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
)

// Bounds of the shape of the code.
const (
	maxFileLines  = 700
	maxMainLines  = 60
	maxMedian     = 12
	maxP90        = 50
	maxInterfaces = 25
)

// longFiles are files that may be longer, each with its reason.
var longFiles = map[string]string{}

func TestOnePackageComment(t *testing.T) {
	m := read(t)
	for _, p := range m.pkgs {
		var docs []string
		for _, f := range m.files {
			if f.pkg == p.rel() && !f.test && f.ast.Doc != nil {
				docs = append(docs, f.ast.Doc.Text())
			}
		}
		want := "Package " + p.Name + " "
		if p.Name == "main" {
			want = "Command " + filepath.Base(p.ImportPath) + " "
		}
		switch {
		case len(p.GoFiles) == 0:
		case len(docs) != 1:
			t.Errorf("%s has %d package comments; write one", p.rel(), len(docs))
		case !strings.HasPrefix(docs[0], want):
			t.Errorf("%s: the package comment must begin %q", p.rel(), want)
		}
	}
}

func TestFileLength(t *testing.T) {
	for _, f := range read(t).files {
		if f.lines > maxFileLines && longFiles[f.path] == "" {
			t.Errorf("%s has %d lines; split it by concept, or give a reason in longFiles", f.path, f.lines)
		}
		if filepath.Base(f.path) == "main.go" && f.lines > maxMainLines {
			t.Errorf("%s has %d lines, more than %d; main only starts things", f.path, f.lines, maxMainLines)
		}
	}
	for path := range longFiles {
		if _, err := os.Stat(filepath.Join(read(t).root, path)); err != nil {
			t.Errorf("longFiles names %s, which is gone", path)
		}
	}
}

func TestFunctionLength(t *testing.T) {
	m := read(t)
	var lengths []int
	for _, f := range m.code() {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				lengths = append(lengths, max(m.line(fn.Body.Rbrace)-m.line(fn.Body.Lbrace)-1, 1))
			}
		}
	}
	slices.Sort(lengths)
	median, p90 := lengths[len(lengths)/2], lengths[len(lengths)*9/10]
	t.Logf("%d functions: median %d lines, p90 %d, longest %d", len(lengths), median, p90, lengths[len(lengths)-1])
	if median > maxMedian || p90 > maxP90 {
		t.Errorf("functions are too long: median %d (at most %d), p90 %d (at most %d)", median, maxMedian, p90, maxP90)
	}
}

// line returns the line of a position.
func (t *tree) line(p token.Pos) int { return t.fset.Position(p).Line }

func TestInterfacesAreFew(t *testing.T) {
	var names []string
	for _, f := range read(t).code() {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if _, ok := spec.Type.(*ast.InterfaceType); ok {
					names = append(names, f.pkg+"."+spec.Name.Name)
				}
			}
			return true
		})
	}
	t.Logf("%d interfaces: %s", len(names), strings.Join(names, ", "))
	if len(names) > maxInterfaces {
		t.Errorf("%d interfaces, more than %d; an interface belongs to a plug point", len(names), maxInterfaces)
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range read(t).files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function; let a constructor do it", f.path)
			}
		}
	}
}

// unfinished matches words that mark work left undone.
var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func TestNothingIsLeftUndone(t *testing.T) {
	for _, f := range read(t).files {
		for _, group := range f.ast.Comments {
			if word := unfinished.FindString(group.Text()); word != "" {
				t.Errorf("%s says %s; do it, or write it down where users see it", f.path, word)
			}
		}
	}
}

// snake is how log keys and metric names are spelled.
var snake = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// attrFuncs are the slog constructors whose first argument is a key.
var attrFuncs = []string{"String", "Int", "Int64", "Uint64", "Bool", "Duration", "Time", "Any", "Float64", "Group"}

func TestLogKeysAreSnakeCase(t *testing.T) {
	for _, f := range read(t).code() {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains(attrFuncs, sel.Sel.Name) {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "slog" {
				return true
			}
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				if key, err := strconv.Unquote(lit.Value); err != nil || !snake.MatchString(key) {
					t.Errorf("%s: log key %s is not snake_case", f.path, lit.Value)
				}
			}
			return true
		})
	}
}

func TestMetricsAreFieldsNotGlobals(t *testing.T) {
	for _, f := range read(t).code() {
		for _, imp := range f.ast.Imports {
			if strings.HasSuffix(imp.Path.Value, `prometheus/promauto"`) {
				t.Errorf("%s imports promauto, which registers with a global", f.path)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "prometheus" && strings.HasPrefix(sel.Sel.Name, "Default") && sel.Sel.Name != "DefBuckets" {
					t.Errorf("%s uses prometheus.%s, which is global", f.path, sel.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestModulesAreChosen(t *testing.T) {
	root := read(t).root
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		t.Fatal(err)
	}
	chosen := modules(t)
	for _, r := range mod.Require {
		if r.Indirect {
			continue
		}
		if !chosen[r.Mod.Path] {
			t.Errorf("%s is not in modules.txt; add it with the reason, or do without", r.Mod.Path)
		}
		delete(chosen, r.Mod.Path)
	}
	for path := range chosen {
		t.Errorf("modules.txt names %s, which go.mod does not require any more", path)
	}
}

// modules reads modules.txt: "path  reason" a line.
func modules(t *testing.T) map[string]bool {
	f, err := os.Open("modules.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]bool{}
	for s := bufio.NewScanner(f); s.Scan(); {
		path, reason, _ := strings.Cut(strings.TrimSpace(s.Text()), " ")
		switch {
		case path == "" || path[0] == '#':
		case strings.TrimSpace(reason) == "":
			t.Errorf("modules.txt: %s has no reason", path)
		default:
			out[path] = true
		}
	}
	return out
}

// TestRatios reports; the figures are for people to judge.
func TestRatios(t *testing.T) {
	m := read(t)
	code, tests, comments := 0, 0, 0
	for _, f := range m.files {
		if f.test {
			tests += f.lines
			continue
		}
		code += f.lines
		for _, g := range f.ast.Comments {
			comments += m.line(g.End()) - m.line(g.Pos()) + 1
		}
	}
	t.Logf("%d lines of code (%d %% comments), %d of tests: %.2f tests to code", code, comments*100/code, tests, float64(tests)/float64(code))
}
