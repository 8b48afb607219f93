package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Target is one [[target]]: a place where certificates are put into service.
type Target struct {
	// What the target is called: in commands, logs and the names of its files.
	Name string `toml:"name"`

	// What sort of target it is; `chancery targets kinds` lists them. The keys
	// of each kind, written beside these, are in docs/deploy.md.
	Kind string `toml:"kind"`

	// Where the server is asked what it serves after a change: "host:port", or
	// "smtp://host:port" where something is said before TLS begins. "none": it
	// is not asked. Must be set for kinds that serve TLS.
	Probe []string `toml:"probe"`

	// How long the server may go on showing the old certificates after a
	// reload.
	Settle time.Duration `toml:"settle"`

	// How long a renewal waits for others, so that they share one reload.
	// Urgent ones do not wait.
	Collect time.Duration `toml:"collect" zero:"ok"`

	// When the target may be changed: "02:00-05:00", "sat,sun 22:00-06:00",
	// "mon-fri 02:00-04:00 Europe/Berlin". Empty: always. Urgent changes do not
	// wait.
	Windows []string `toml:"windows"`

	settings Settings
}

// DefaultTarget returns what a [[target]] is unless it says otherwise.
func DefaultTarget() Target { return Target{Settle: 15 * time.Second, Collect: 15 * time.Minute} }

// Settings returns the keys that belong to the kind.
func (t Target) Settings() Settings { return t.settings }

// Settings are the keys of an entry that belong to a kind of plug-in and not
// to the section. They are kept as they were written until somebody who knows
// the kind decodes them.
type Settings struct {
	path string // file
	key  string // dotted key of the entry, for messages
	line int
	node *node // the kind's keys
	all  *node // those of the section, too
}

// NewSettings makes settings from values, for entries that come from elsewhere
// than a file. Values are those of TOML: string, int64, bool, []any.
func NewSettings(key string, values map[string]any) Settings {
	n := &node{table: map[string]*node{}}
	for name, v := range values {
		n.table[name] = &node{value: v}
	}
	return Settings{key: key, node: n, all: n}
}

// Decode stores the settings in the struct that into points to, whose fields
// have toml tags as those of this package have, and their defaults already.
// Embedded structs count as part of it. Every key that does not fit is a
// *Problem of the joined error.
func (s Settings) Decode(into any) error {
	if s.node == nil {
		return nil
	}
	b := &binder{sources: map[string]Source{}}
	b.table(reflect.ValueOf(into).Elem(), s.node, s.key, s.path)
	return errors.Join(b.problems...)
}

// Problem returns a problem with the entry as a whole, or with one of its keys
// when the text begins with "key: ".
func (s Settings) Problem(err error) error {
	key, text := s.key, err.Error()
	line := s.line
	if name, rest, ok := strings.Cut(text, ": "); ok && s.all != nil && !strings.ContainsAny(name, " \t") {
		if n := s.all.table[name]; n != nil {
			key, text, line = join(key, name), rest, n.line
		}
	}
	return &Problem{Source{File: s.path, Line: line}, key, text}
}

// headerPattern matches the header of a list entry, and keyPattern the
// beginning of a line that sets a key.
var (
	headerPattern = regexp.MustCompile(`^\s*(\[\[?)\s*([A-Za-z0-9_-]+)\s*\]`)
	keyPattern    = regexp.MustCompile(`^\s*"?([A-Za-z0-9_-]+)"?\s*=`)
)

// place finds the lines of list entries in the text: the library has one
// position per key, and entries of a list share their keys.
func place(entries []*node, name, text string) {
	at, n := -1, 0
	for line := range strings.Lines(text) {
		n++
		if m := headerPattern.FindStringSubmatch(line); m != nil {
			if m[1] == "[[" && m[2] == name {
				at++
			}
			if m[1] != "[[" || m[2] != name || at >= len(entries) {
				continue
			}
			entries[at].line = n
			for _, child := range entries[at].table {
				child.line = n
			}
			continue
		}
		if m := keyPattern.FindStringSubmatch(line); m != nil && at >= 0 && at < len(entries) {
			if child := entries[at].table[m[1]]; child != nil && child.line == entries[at].line {
				child.line = n
			}
		}
	}
}

// isList reports whether t is a list of sections, written [[name]].
func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice && isSection(t.Elem()) }

// list binds the entries of a [[section]].
func (b *binder) list(dst reflect.Value, n *node, key, path string) {
	out := reflect.MakeSlice(dst.Type(), len(n.list), len(n.list))
	for i, child := range n.list {
		entry := out.Index(i)
		entry.Set(template(dst.Type().Elem()))
		b.entry(entry, child, fmt.Sprintf("%s.%s", key, entryName(child, i)), path)
	}
	dst.Set(out)
}

// entryName is how an entry is called in messages: by its name, or by its
// place when it has none.
func entryName(n *node, i int) string {
	if name := n.table["name"]; name != nil {
		if s, ok := name.value.(string); ok && s != "" {
			return s
		}
	}
	return fmt.Sprint(i + 1)
}

// entry binds the keys that the section knows, and keeps the others for the
// kind.
func (b *binder) entry(dst reflect.Value, n *node, key, path string) {
	own, rest := &node{table: map[string]*node{}}, &node{table: map[string]*node{}}
	for name, child := range n.table {
		if _, ok := fieldOf(dst.Type(), name); ok {
			own.table[name] = child
		} else {
			rest.table[name] = child
		}
	}
	b.table(dst, own, key, path)
	b.sources[key] = Source{File: path, Line: firstLine(n)}
	s := Settings{path: path, key: key, line: firstLine(n), node: rest, all: n}
	switch t := dst.Addr().Interface().(type) {
	case *Target:
		t.settings = s
	case *AlertChannel:
		t.settings = s
	}
}

// targets checks the [[target]] entries as far as they need no kind.
func (k *checker) targets() {
	seen := map[string]bool{}
	for i, t := range k.c.Target {
		key := "target." + t.Name
		if t.Name == "" {
			key = fmt.Sprintf("target.%d", i+1)
		}
		k.must(namePattern.MatchString(t.Name), key+".name", "a name is 1 to 64 lower-case letters, digits and hyphens")
		k.must(!seen[t.Name], key+".name", "there are two targets with this name")
		k.must(t.Kind != "", key+".kind", "must be set; `chancery targets kinds` lists what there is")
		seen[t.Name] = true
	}
}

// entries of a list print their common keys and then the kind's own.
func (p *printer) settings(s Settings) {
	if s.node == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.node.table)) {
		n := s.node.table[name]
		if n.table != nil || n.list != nil {
			continue // no kind has any: Decode refuses it
		}
		fmt.Fprintf(&p.b, "%s = %s # %s\n", name, raw(n.value), Source{File: s.path, Line: n.line})
	}
}

// raw writes a value of a file as TOML.
func raw(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = raw(v[i])
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v)
}
