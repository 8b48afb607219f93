package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// Source says where a value came from. The zero value is the default.
type Source struct {
	File string
	Line int
	Env  string // variable name
}

// String returns "chancery.toml:12", "$CHANCERY_LOG_LEVEL" or "default".
func (s Source) String() string {
	switch {
	case s.Env != "":
		return "$" + s.Env
	case s.File != "" && s.Line > 0:
		return fmt.Sprintf("%s:%d", s.File, s.Line)
	case s.File != "":
		return s.File
	}
	return "default"
}

// Problem is one thing that is wrong with the configuration, in one line.
type Problem struct {
	Source Source
	Key    string // dotted, "" when it concerns the whole file
	Text   string // what is wrong and what to write instead
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Key == "" {
		return p.Source.String() + ": " + p.Text
	}
	return p.Source.String() + ": " + p.Key + ": " + p.Text
}

// Load reads the file at path ("" = none) and overlays environ, a list of
// KEY=value as from os.Environ. Every problem it finds is a *Problem joined
// into the error, one line each; values that fit together badly are left to
// Check.
func Load(path string, environ []string) (*Config, error) {
	c := Default()
	b := &binder{sources: c.sources}
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, &Problem{Source: Source{File: path}, Text: readProblem(err)}
		}
		b.file(c, path, string(data))
	}
	b.environ(c, environ)
	if len(b.problems) > 0 {
		return nil, errors.Join(b.problems...)
	}
	return c, nil
}

// readProblem says why a file could not be read, and what to do.
func readProblem(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "no such file; `chancery config print` writes a complete one to start from"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return "cannot be read: " + err.Error()
}

// binder copies a parsed file and the environment into a Config and collects
// everything that does not fit.
type binder struct {
	sources  map[string]Source
	problems []error
}

// fail records one problem.
func (b *binder) fail(src Source, key, format string, args ...any) {
	b.problems = append(b.problems, &Problem{src, key, fmt.Sprintf(format, args...)})
}

// node is one value of the file with its line.
type node struct {
	value any              // nil for a table
	table map[string]*node // nil for a value
	line  int
}

// locator fails on every value, which makes the decoder say where it is: the
// library has positions, but shows them in errors only.
type locator struct{}

// UnmarshalTOML implements toml.Unmarshaler.
func (locator) UnmarshalTOML(any) error { return errors.New("located") }

// file parses a TOML document and binds it.
func (b *binder) file(c *Config, path, data string) {
	var root map[string]toml.Primitive
	md, err := toml.Decode(data, &root)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			b.fail(Source{File: path, Line: pe.Position.Line}, pe.LastKey, "%s", pe.Message)
			return
		}
		b.fail(Source{File: path}, "", "%s", err)
		return
	}
	tree := tree(&md, root, nil)
	b.table(reflect.ValueOf(c).Elem(), &node{table: tree}, "", path)
}

// tree resolves the primitives of a table, recursively.
func tree(md *toml.MetaData, table map[string]toml.Primitive, at toml.Key) map[string]*node {
	out := make(map[string]*node, len(table))
	for name, prim := range table {
		key := append(slices.Clone(at), name)
		n := new(node)
		var pe toml.ParseError
		if errors.As(md.PrimitiveDecode(prim, &locator{}), &pe) {
			n.line = pe.Position.Line
		}
		var sub map[string]toml.Primitive
		if err := md.PrimitiveDecode(prim, &n.value); err != nil {
			n.value = err // cannot happen: the document parsed
		}
		if _, ok := n.value.(map[string]any); ok && md.PrimitiveDecode(prim, &sub) == nil {
			n.value, n.table = nil, tree(md, sub, key)
			n.line = firstLine(n)
		}
		out[name] = n
	}
	return out
}

// table binds one table to a struct or a map of structs.
func (b *binder) table(dst reflect.Value, n *node, prefix, path string) {
	for _, name := range slices.Sorted(maps.Keys(n.table)) {
		child, key := n.table[name], join(prefix, name)
		src := Source{File: path, Line: child.line}
		switch field, ok := fieldOf(dst.Type(), name); {
		case !ok && child.table == nil && collect(dst, name, key, path, child):
			b.sources[key] = src
		case !ok:
			b.fail(src, key, "unknown key%s", hint(name, keysOf(dst.Type())))
		case child.table != nil && isMap(field.Type):
			b.entries(dst.FieldByIndex(field.Index), child, key, path)
		case child.table != nil && isSection(field.Type):
			b.table(dst.FieldByIndex(field.Index), child, key, path)
		case child.table != nil:
			b.fail(src, key, "a table stands where %s belongs", describe(field))
		case isMap(field.Type) || isSection(field.Type):
			b.fail(src, key, "this is a section; write [%s] on a line of its own", key)
		default:
			b.leaf(dst.FieldByIndex(field.Index), field, child.value, key, src)
		}
	}
}

// namePattern bounds what a [ca.NAME] or [profile.NAME] may be called: it is
// part of URLs.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

// entries binds the named tables of a map section. Authorities in a file
// replace the built-in one, because nobody wants a stray CA; profiles join it,
// because it does nothing unless an authority names it. What an entry leaves
// out comes from its template.
func (b *binder) entries(dst reflect.Value, n *node, key, path string) {
	if dst.Type() == reflect.TypeFor[map[string]CA]() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	for _, name := range slices.Sorted(maps.Keys(n.table)) {
		child, sub := n.table[name], join(key, name)
		src := Source{File: path, Line: child.line}
		if child.table == nil {
			b.fail(src, sub, "unknown key; write [%s.NAME] and put it there", key)
			continue
		}
		if !namePattern.MatchString(name) {
			b.fail(src, sub, "a name is 1 to 64 lower-case letters, digits and hyphens")
			continue
		}
		entry := template(dst.Type().Elem())
		b.table(entry, child, sub, path)
		dst.SetMapIndex(reflect.ValueOf(name), entry)
		b.sources[sub] = src
	}
}

// template returns an addressable copy of the defaults of a map entry.
func template(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch p := v.Addr().Interface().(type) {
	case *CA:
		*p = DefaultCA()
	case *Profile:
		*p = DefaultProfile()
	case *OIDC:
		*p = DefaultOIDC()
	case *CTLog:
		*p = DefaultCTLog()
	case *DNSProvider:
		*p = DefaultDNSProvider()
	case *Issuer:
		*p = DefaultIssuer()
	case *Target:
		*p = DefaultTarget()
	case *Certificate:
		*p = DefaultCertificate()
	case *AlertChannel:
		*p = DefaultAlertChannel()
	case *CloudSource:
		*p = DefaultCloudSource()
	}
	return v
}

// firstLine is the line of a table: its header's, or for one that only its
// children imply ([ca] of [ca.x]) the first child's.
func firstLine(n *node) int {
	line := n.line
	for _, child := range n.table {
		if n.line == 0 && child.line != 0 && (line == 0 || child.line < line) {
			line = child.line
		}
	}
	return line
}

// leaf binds one value.
func (b *binder) leaf(dst reflect.Value, f reflect.StructField, value any, key string, src Source) {
	if err := set(dst, f, value); err != nil {
		b.fail(src, key, "%s", err)
		return
	}
	b.sources[key] = src
}

// join appends a name to a dotted key.
func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

// fieldOf finds the field of a struct that a key names. What is embedded, as
// kinds of plug-ins do with what they share, counts as the struct's own.
func fieldOf(t reflect.Type, name string) (reflect.StructField, bool) {
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous && f.IsExported() && f.Tag.Get("toml") == name {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

// keysOf lists the keys of a struct.
func keysOf(t reflect.Type) []string {
	var keys []string
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous && f.IsExported() && f.Tag.Get("toml") != "" {
			keys = append(keys, f.Tag.Get("toml"))
		}
	}
	return keys
}

// isMap reports whether t is a map of named sections.
func isMap(t reflect.Type) bool { return t.Kind() == reflect.Map }

// isSection reports whether t is a section rather than a value.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && t.Field(0).Tag.Get("toml") != ""
}

// hint suggests the nearest known word, or lists them all.
func hint(word string, known []string) string {
	best, least := "", len(word)/3+2
	for _, k := range known {
		if d := distance(strings.ToLower(word), k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return "; there are " + strings.Join(known, ", ")
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
