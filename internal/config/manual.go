package config

import (
	"embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

//go:generate go run ./gen

// source is the text of the structs above. The manual is made from it when it
// is asked for, so that it cannot be out of date.
//
//go:embed agents.go
//go:embed alert.go
//go:embed certificate.go
//go:embed config.go
//go:embed ctlog.go
//go:embed dns.go
//go:embed find.go
//go:embed keys.go
//go:embed mail.go
//go:embed perspective.go
//go:embed plugin.go
//go:embed profile.go
//go:embed signin.go
//go:embed source.go
//go:embed source.go
//go:embed status.go
var source embed.FS

// Manual returns the reference of every section and key, as Markdown.
func Manual() (string, error) {
	docs, err := fieldDocs()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(manualHead)
	root := reflect.TypeFor[Config]()
	def := reflect.ValueOf(Default()).Elem()
	for f := range root.Fields() {
		if !f.IsExported() {
			continue
		}
		name, t, v := f.Tag.Get("toml"), f.Type, def.FieldByIndex(f.Index)
		if isMap(t) {
			name, t = name+".NAME", t.Elem()
			v = template(t)
		}
		fmt.Fprintf(&b, "\n## [%s]\n\n%s\n", name, docs["Config."+f.Name])
		manualSection(&b, name, t, v, docs)
	}
	return b.String(), nil
}

// manualHead explains what holds for every key.
const manualHead = `# Configuration

` + "`chancery serve --config FILE`" + ` reads one TOML file. Every key has a default, so an empty file works. Each key can
also be set by the variable named with it, which wins over the file; lists are separated by commas there. An unknown key,
a wrong type or a value out of range is refused with file, line and key: ` + "`chancery config check --config FILE`" + ` says so
without starting anything, and ` + "`chancery config print`" + ` shows the effective values and where each came from.

Durations are written "90s", "15m", "12h", "7d"; sizes "64KB", "10MB" (powers of 1024).
`

// manualSection writes the keys of one section, and then the sections in it.
func manualSection(b *strings.Builder, name string, t reflect.Type, v reflect.Value, docs map[string]string) {
	var inner []reflect.StructField
	for f := range t.Fields() {
		if !f.IsExported() {
			continue
		}
		key := f.Tag.Get("toml")
		if isSection(f.Type) {
			inner = append(inner, f)
			continue
		}
		env := EnvPrefix + strings.ToUpper(strings.ReplaceAll(name, ".", "_")+"_"+key)
		fmt.Fprintf(b, "\n### %s\n\n%s\n\n", key, docs[t.Name()+"."+f.Name])
		fmt.Fprintf(b, "- value: %s%s\n- default: `%s`\n- variable: `%s`\n", describe(f), rangeText(f), literal(v.FieldByIndex(f.Index), f), env)
	}
	for _, f := range inner {
		sub := name + "." + f.Tag.Get("toml")
		fmt.Fprintf(b, "\n## [%s]\n\n%s\n", sub, docs[t.Name()+"."+f.Name])
		manualSection(b, sub, f.Type, v.FieldByIndex(f.Index), docs)
	}
}

// rangeText is the range of a number, as part of the manual.
func rangeText(f reflect.StructField) string {
	if f.Tag.Get("max") == "" {
		return ""
	}
	low, high := bounds(f)
	return fmt.Sprintf(", %d to %d", low, high)
}

// fieldDocs returns the comment of every struct field, by "Type.Field".
func fieldDocs() (map[string]string, error) {
	docs := map[string]string{}
	files, err := source.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("list sources: %w", err)
	}
	for _, f := range files {
		file := f.Name()
		text, err := source.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if st, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range st.Fields.List {
					docs[spec.Name.Name+"."+f.Names[0].Name] = strings.TrimSpace(f.Doc.Text())
				}
			}
			return false
		})
	}
	return docs, nil
}
