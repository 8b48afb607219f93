package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// EnvPrefix begins the variables that overlay the file:
// CHANCERY_SECTION_KEY, or CHANCERY_CA_NAME_KEY with hyphens in NAME written
// as underscores. Lists are separated by commas.
const EnvPrefix = "CHANCERY_"

// kubernetesLink matches variables that Kubernetes sets in every pod for a
// service that happens to be called chancery or chancery-ca.
var kubernetesLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// environ overlays variables, in sorted order so that messages are stable. A
// variable that begins with no section is somebody else's; one that does and
// names no key is a slip.
func (b *binder) environ(c *Config, environ []string) {
	vars := map[string]string{}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, EnvPrefix) {
			vars[name] = value
		}
	}
	root := reflect.ValueOf(c).Elem()
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		rest := strings.ToLower(strings.TrimPrefix(name, EnvPrefix))
		for _, section := range keysOf(root.Type()) {
			if key, ok := strings.CutPrefix(rest, section+"_"); ok && section != "" {
				b.variable(root, section, key, name, vars[name])
			}
		}
	}
}

// variable overlays one variable on one section.
func (b *binder) variable(root reflect.Value, section, key, name, value string) {
	f, _ := fieldOf(root.Type(), section)
	dst, dotted := root.FieldByIndex(f.Index), section
	if isMap(f.Type) {
		entry, rest := entryOf(dst, key)
		if entry == "" {
			if !kubernetesLink.MatchString(name) {
				b.fail(Source{Env: name}, section, "names no [%s.NAME] of the file", section)
			}
			return
		}
		b.overlayEntry(dst, entry, join(section, entry), rest, name, value)
		return
	}
	b.overlay(dst, dotted, key, name, value)
}

// entryOf finds the longest entry name that key begins with.
func entryOf(m reflect.Value, key string) (entry, rest string) {
	for _, k := range m.MapKeys() {
		as := strings.ReplaceAll(k.String(), "-", "_") + "_"
		if after, ok := strings.CutPrefix(key, as); ok && len(k.String()) > len(entry) {
			entry, rest = k.String(), after
		}
	}
	return entry, rest
}

// overlayEntry overlays a key of one map entry; entries are not addressable,
// so it is copied out and back.
func (b *binder) overlayEntry(m reflect.Value, entry, prefix, key, name, value string) {
	v := reflect.New(m.Type().Elem()).Elem()
	v.Set(m.MapIndex(reflect.ValueOf(entry)))
	b.overlay(v, prefix, key, name, value)
	m.SetMapIndex(reflect.ValueOf(entry), v)
}

// overlay sets one key of a section from text.
func (b *binder) overlay(dst reflect.Value, prefix, key, name, value string) {
	src := Source{Env: name}
	f, ok := fieldOf(dst.Type(), key)
	if !ok && collect(dst, key, join(prefix, key), "", &node{value: variableText(value)}) {
		return
	}
	if !ok {
		if !kubernetesLink.MatchString(name) {
			b.fail(src, join(prefix, key), "unknown key%s", hint(key, keysOf(dst.Type())))
		}
		return
	}
	if err := setText(dst.FieldByIndex(f.Index), f, value); err != nil {
		b.fail(src, join(prefix, key), "%s", err)
		return
	}
	b.sources[join(prefix, key)] = src
}
