package config

import (
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Print writes the effective configuration as TOML that Load reads back, with
// the source of each value that is not the default. Secrets are replaced.
func (c *Config) Print(w io.Writer) error {
	p := &printer{c: c}
	root := reflect.ValueOf(c).Elem()
	for f := range root.Type().Fields() {
		if !f.IsExported() {
			continue
		}
		name, v := f.Tag.Get("toml"), root.FieldByIndex(f.Index)
		if !isMap(f.Type) {
			p.section(name, v)
			continue
		}
		for _, entry := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			section := reflect.New(f.Type.Elem()).Elem()
			section.Set(v.MapIndex(entry))
			p.section(name+"."+entry.String(), section)
		}
	}
	if _, err := io.WriteString(w, p.b.String()); err != nil {
		return fmt.Errorf("print config: %w", err)
	}
	return nil
}

// printer builds the text.
type printer struct {
	c *Config
	b strings.Builder
}

// section writes one table with every key.
func (p *printer) section(name string, v reflect.Value) {
	if p.b.Len() > 0 {
		p.b.WriteByte('\n')
	}
	fmt.Fprintf(&p.b, "[%s]\n", name)
	for f := range v.Type().Fields() {
		if !f.IsExported() {
			continue
		}
		key := f.Tag.Get("toml")
		line := key + " = " + literal(v.FieldByIndex(f.Index), f)
		if src := p.c.sources[name+"."+key]; src != (Source{}) {
			line += " # " + src.String()
		}
		p.b.WriteString(line + "\n")
	}
	if !v.CanAddr() {
		return
	}
	if plug, ok := v.Addr().Interface().(plugin); ok {
		for _, line := range plug.more().plain() {
			p.b.WriteString(line + "\n")
		}
	}
}

// literal writes a value as TOML.
func literal(v reflect.Value, f reflect.StructField) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return strconv.Quote(FormatDuration(x))
	case fmt.Stringer:
		return strconv.Quote(x.String())
	case int64:
		return strconv.Quote(FormatSize(x))
	}
	switch v.Kind() {
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = literal(v.Index(i), f)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.String:
		return quote(redact(f.Tag.Get("format"), v.String()))
	}
	return fmt.Sprint(v.Interface())
}

// quote writes a TOML basic string, whose escapes are fewer than Go's.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// redact replaces the password of a database URL, in the user part or among
// the parameters, and those of the servers of a bus. A URL that does not parse
// is hidden whole.
func redact(format, s string) string {
	if format == "bus" {
		urls := strings.Split(s, ",")
		for i := range urls {
			urls[i] = redact("database", urls[i])
		}
		return strings.Join(urls, ",")
	}
	if format != "database" || !strings.Contains(s, "://") {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return "xxxxx"
	}
	if q := u.Query(); q.Has("password") {
		q.Set("password", "xxxxx")
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}
