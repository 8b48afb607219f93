package house

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// module is the import path of the module.
const module = "chancery"

// pkg is one package as the go command lists it.
type pkg struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

// rel is the import path without the module: "internal/ca", "cmd/chancery".
func (p pkg) rel() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

// file is one parsed source file.
type file struct {
	path  string // relative to the module root
	pkg   string // rel of its package
	test  bool
	lines int
	ast   *ast.File
}

// tree is the parsed module.
type tree struct {
	root  string
	pkgs  []pkg
	files []file
	fset  *token.FileSet
}

// load reads the module once for all tests.
var load = sync.OnceValues(func() (*tree, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "list", "-e", "-tags", "pkcs11,awskms,azurekms", "-json=ImportPath,Name,Dir,GoFiles,TestGoFiles,XTestGoFiles,Imports", "./...")
	cmd.Dir = root
	// What a tag adds is held to the same conventions; pkcs11 implies cgo.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil, fmt.Errorf("go list: %w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	t := &tree{root: root, fset: token.NewFileSet()}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return nil, err
		}
		t.pkgs = append(t.pkgs, p)
		if err := t.parse(p); err != nil {
			return nil, err
		}
	}
})

// parse adds the files of one package.
func (t *tree) parse(p pkg) error {
	for i, names := range [][]string{p.GoFiles, p.TestGoFiles, p.XTestGoFiles} {
		for _, name := range names {
			path := filepath.Join(p.Dir, name)
			parsed, err := parser.ParseFile(t.fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(t.root, path)
			if err != nil {
				return err
			}
			t.files = append(t.files, file{rel, p.rel(), i > 0, t.fset.File(parsed.FileStart).LineCount(), parsed})
		}
	}
	return nil
}

// read returns the module or ends the test.
func read(t *testing.T) *tree {
	t.Helper()
	m, err := load()
	if err != nil {
		t.Fatalf("read module: %v", err)
	}
	return m
}

// code returns the files that are neither tests nor generated.
func (t *tree) code() []file {
	var out []file
	for _, f := range t.files {
		if !f.test && !ast.IsGenerated(f.ast) {
			out = append(out, f)
		}
	}
	return out
}
