package config

import (
	"encoding"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"chancery/internal/pki"
)

// chooser is a string type with a fixed set of values.
type chooser interface{ Choices() []string }

var (
	durationType = reflect.TypeFor[time.Duration]()
	prefixType   = reflect.TypeFor[netip.Prefix]()
	keyTypeType  = reflect.TypeFor[pki.KeyType]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// set stores a value of the file in dst, or says what belongs there.
func set(dst reflect.Value, f reflect.StructField, value any) error {
	switch v := value.(type) {
	case variableText:
		return setText(dst, f, string(v))
	case string:
		if dst.Kind() != reflect.Slice && dst.Kind() != reflect.Bool && !isPlainInt(dst.Type(), f) {
			return setText(dst, f, v)
		}
	case int64:
		if dst.CanInt() && dst.Type() != durationType {
			return setInt(dst, f, v)
		}
	case bool:
		if dst.Kind() == reflect.Bool {
			dst.SetBool(v)
			return nil
		}
	case []any:
		if dst.Kind() == reflect.Slice {
			return setList(dst, f, v)
		}
	}
	return fmt.Errorf("%s belongs here, not %s", describe(f), found(value))
}

// isPlainInt reports whether t is a number that is not written as text.
func isPlainInt(t reflect.Type, f reflect.StructField) bool {
	return (t.Kind() == reflect.Int || t.Kind() == reflect.Int64) && t != durationType && f.Tag.Get("format") != "size"
}

// setList stores an array, element by element.
func setList(dst reflect.Value, f reflect.StructField, values []any) error {
	list := reflect.MakeSlice(dst.Type(), len(values), len(values))
	for i, v := range values {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("%s belongs here, not a list with %s in it", describe(f), found(v))
		}
		if err := setText(list.Index(i), f, s); err != nil {
			return err
		}
	}
	dst.Set(list)
	return nil
}

// setText stores text: a string of the file or an environment variable.
func setText(dst reflect.Value, f reflect.StructField, s string) error {
	if dst.CanAddr() && dst.Addr().Type().Implements(textType) {
		return setUnmarshal(dst, s)
	}
	switch {
	case dst.Type() == durationType:
		return setDuration(dst, f, s)
	case dst.Kind() == reflect.Slice:
		return setList(dst, f, splitList(s))
	case f.Tag.Get("format") == "size":
		n, err := ParseSize(s)
		if err != nil {
			return err
		}
		return setInt(dst, f, n)
	case dst.CanInt():
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return fmt.Errorf("%s belongs here, not %q", describe(f), s)
		}
		return setInt(dst, f, n)
	case dst.Kind() == reflect.Bool:
		if s != "true" && s != "false" {
			return fmt.Errorf("true or false belongs here, not %q", s)
		}
		dst.SetBool(s == "true")
		return nil
	}
	return setString(dst, f, s)
}

// setUnmarshal stores a value that parses itself.
func setUnmarshal(dst reflect.Value, s string) error {
	err := dst.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s))
	if err == nil {
		return nil
	}
	if dst.Type() == prefixType {
		return fmt.Errorf("%q is not a network; write one such as \"10.0.0.0/8\" or \"fd00::/8\"", s)
	}
	return err
}

// setDuration stores a duration; 0 only where the field says that it means
// something.
func setDuration(dst reflect.Value, f reflect.StructField, s string) error {
	d, err := ParseDuration(s)
	if err != nil {
		return err
	}
	if d == 0 && f.Tag.Get("zero") != "ok" {
		return errors.New("must be longer than 0")
	}
	dst.SetInt(int64(d))
	return nil
}

// setInt stores a number within the bounds of its field.
func setInt(dst reflect.Value, f reflect.StructField, n int64) error {
	low, high := bounds(f)
	if n < low || n > high {
		return fmt.Errorf("%d is out of range; %d to %d is allowed", n, low, high)
	}
	dst.SetInt(n)
	return nil
}

// bounds returns the min and max of a field's tags; sizes are 1 B to 1 GB.
func bounds(f reflect.StructField) (low, high int64) {
	if f.Tag.Get("format") == "size" {
		return 1, 1 << 30
	}
	low, _ = strconv.ParseInt(f.Tag.Get("min"), 10, 64)
	high, err := strconv.ParseInt(f.Tag.Get("max"), 10, 64)
	if err != nil {
		high = 1<<31 - 1
	}
	return low, high
}

// setString stores a string, checked by its type's choices or its format.
func setString(dst reflect.Value, f reflect.StructField, s string) error {
	if c := choices(dst.Type()); c != nil && !slices.Contains(c, s) {
		return fmt.Errorf("%q is none of %s", s, strings.Join(c, ", "))
	}
	if err := checkFormat(f.Tag.Get("format"), s); err != nil {
		return err
	}
	dst.SetString(s)
	return nil
}

// choices returns the allowed values of an enumeration type, or nil.
func choices(t reflect.Type) []string {
	if t == keyTypeType {
		return keyTypes()
	}
	if c, ok := reflect.Zero(t).Interface().(chooser); ok {
		return c.Choices()
	}
	return nil
}

// checkFormat checks text by the format tag of its field. Empty text means
// "not set" and is fine everywhere; Check knows what is required.
func checkFormat(format, s string) error {
	switch {
	case s == "":
		return nil
	case format == "url":
		return checkURL(s)
	case format == "addr":
		_, port, err := net.SplitHostPort(s)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return fmt.Errorf("%q is not an address; write host:port, such as \"127.0.0.1:8443\" or \":443\"", s)
		}
	}
	return nil
}

// splitList splits a comma-separated variable; empty text is an empty list.
func splitList(s string) []any {
	out := []any{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// describe names what belongs in a field, for messages and the manual.
func describe(f reflect.StructField) string {
	t := f.Type
	if t.Kind() == reflect.Slice {
		return "a list of " + plural(t.Elem(), f)
	}
	switch {
	case t == durationType:
		return `a duration such as "90m" or "7d"`
	case t == reflect.TypeFor[Rate]():
		return `a rate such as "300 per 3h"`
	case f.Tag.Get("format") == "size":
		return `a size such as "64KB"`
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return "a number"
	case choices(t) != nil:
		return "one of " + strings.Join(choices(t), ", ")
	case f.Tag.Get("format") == "url":
		return "a URL"
	case f.Tag.Get("format") == "addr":
		return "an address (host:port)"
	}
	return "a string"
}

// plural names the elements of a list.
func plural(t reflect.Type, f reflect.StructField) string {
	switch {
	case t == prefixType:
		return `networks such as "10.0.0.0/8"`
	case choices(t) != nil:
		return "any of " + strings.Join(choices(t), ", ")
	case f.Tag.Get("format") == "addr":
		return "addresses (host:port)"
	}
	return "strings"
}

// found names the TOML type of a value that does not belong.
func found(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("the string %q", v)
	case int64:
		return fmt.Sprintf("the number %d", v)
	case float64:
		return fmt.Sprintf("the number %g", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case []any, []map[string]any:
		return "a list"
	case time.Time:
		return "a date"
	}
	return "this"
}
