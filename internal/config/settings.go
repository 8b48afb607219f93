package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// settings are the keys of a section that only its kind knows.
type settings struct {
	nodes map[string]*node
	path  string // of the file
	key   string // dotted, of the section
}

// plugin is a section with settings.
type plugin interface{ more() *settings }

func (s *settings) bind(key string, into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("bind %s: not a pointer to a struct", key)
	}
	b := &binder{sources: map[string]Source{}}
	b.table(v.Elem(), &node{table: s.nodes}, key, s.path)
	return errors.Join(b.problems...)
}

// collect keeps a key for the kind of a section, and reports whether dst is
// such a section.
func collect(dst reflect.Value, name, key, path string, n *node) bool {
	if !dst.CanAddr() {
		return false
	}
	p, ok := dst.Addr().Interface().(plugin)
	if !ok {
		return false
	}
	s := p.more()
	nodes := maps.Clone(s.nodes) // sections are copied; maps would be shared
	if nodes == nil {
		nodes = map[string]*node{}
	}
	nodes[name] = n
	s.nodes, s.key = nodes, strings.TrimSuffix(key, "."+name)
	if path != "" {
		s.path = path
	}
	return true
}

// variableText is a setting that came from a variable: text, whatever its type.
type variableText string

// plain returns the settings as TOML, by key. Values whose key sounds like a
// secret are replaced.
func (s *settings) plain() (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		value := s.nodes[name].value
		for _, word := range []string{"secret", "password", "token", "hmac"} {
			if strings.Contains(name, word) && !strings.HasSuffix(name, "_file") {
				value = "xxxxx"
			}
		}
		lines = append(lines, name+" = "+plainValue(value))
	}
	return lines
}

// plainValue writes one value as TOML.
func plainValue(value any) string {
	switch v := value.(type) {
	case variableText:
		// Its type is not known here; what looks like a number, a truth value or
		// a list is one.
		if _, err := strconv.ParseInt(string(v), 10, 64); err == nil || v == "true" || v == "false" {
			return string(v)
		}
		if strings.Contains(string(v), ",") {
			return plainValue(splitList(string(v)))
		}
		return quote(string(v))
	case string:
		return quote(v)
	case []any:
		parts := make([]string, len(v))
		for i := range v {
			parts[i] = plainValue(v[i])
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(value)
}
