package house

import (
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"

	"chancery/internal/alert"
)

// journalKinds returns the kinds of journal entries that the program writes:
// constants in audit.Entry, and constants passed to functions that put a
// parameter of theirs there.
func journalKinds(t *testing.T) []string {
	t.Helper()
	var kinds []string
	passed := map[string]int{} // package and function -> position of the parameter
	files := read(t).code()
	for _, f := range files {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				switch v := entryKind(n).(type) {
				case *ast.BasicLit:
					kinds = append(kinds, text(v))
				case *ast.Ident:
					if i := parameter(fn, v.Name); i >= 0 {
						passed[f.pkg+"."+fn.Name.Name] = i
					}
				}
				return true
			})
		}
	}
	for _, f := range files {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name := ""
			switch fun := call.Fun.(type) {
			case *ast.Ident:
				name = fun.Name
			case *ast.SelectorExpr:
				name = fun.Sel.Name
			}
			if i, ok := passed[f.pkg+"."+name]; ok && i < len(call.Args) {
				if lit, ok := call.Args[i].(*ast.BasicLit); ok {
					kinds = append(kinds, text(lit))
				}
			}
			return true
		})
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// entryKind returns the expression of Kind when n is an audit.Entry.
func entryKind(n ast.Node) ast.Expr {
	lit, ok := n.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	if sel, ok := lit.Type.(*ast.SelectorExpr); !ok || sel.Sel.Name != "Entry" {
		return nil
	}
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Kind" {
				return kv.Value
			}
		}
	}
	return nil
}

// parameter returns the position of a parameter of fn, or -1.
func parameter(fn *ast.FuncDecl, name string) int {
	i := 0
	for _, field := range fn.Type.Params.List {
		for _, n := range field.Names {
			if n.Name == name {
				return i
			}
			i++
		}
	}
	return -1
}

func text(lit *ast.BasicLit) string {
	if lit.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(lit.Value) // the parser took it
	return s
}

// TestRulesFollowTheJournal: what the shipped alert rules wait for is what the
// program writes.
func TestRulesFollowTheJournal(t *testing.T) {
	kinds := journalKinds(t)
	for _, known := range []string{"certificate.issue", "managed.stop", "managed.renew"} { // written in the three ways
		if !slices.Contains(kinds, known) {
			t.Fatalf("the kind %s was not found in the sources, so this test looks in the wrong way; it found %v", known, kinds)
		}
	}
	for _, r := range alert.Defaults() {
		for _, pattern := range slices.Concat(r.Entries, r.Clears) {
			begin, end, any := strings.Cut(pattern, "*")
			fits := func(kind string) bool {
				return kind == pattern || any && strings.HasPrefix(kind, begin) && strings.HasSuffix(kind, end)
			}
			if !slices.ContainsFunc(kinds, fits) {
				t.Errorf("the rule %s waits for %q in the journal, which nothing writes; there are %v", r.Name, pattern, kinds)
			}
		}
	}
}
