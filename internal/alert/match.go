package alert

import (
	"regexp"
	"slices"
	"strings"

	"chancery/internal/fault"
)

// Matcher compares one label of an alert with a pattern: NAME=PATTERN, or
// NAME!=PATTERN, where * stands for any text.
type Matcher string

// Bounds of what people may write.
const (
	maxMatchers = 16
	maxText     = 500 // bytes of a matcher, a reason, a pattern
)

// labelName is what the label of a matcher looks like.
var labelName = regexp.MustCompile(`^[a-z][a-z_]{0,31}$`)

// Check returns an *fault.Error (invalid) when m is none.
func (m Matcher) Check() error {
	name, pattern, _ := m.parts()
	if !labelName.MatchString(name) || pattern == "" || len(m) > maxText {
		return fault.New(fault.Invalid, "%.80q is no matcher; write LABEL=PATTERN or LABEL!=PATTERN, such as team=web or subject=certificate:*", string(m))
	}
	return nil
}

// parts splits m.
func (m Matcher) parts() (name, pattern string, not bool) {
	name, pattern, _ = strings.Cut(string(m), "=")
	name, not = strings.CutSuffix(name, "!")
	return name, pattern, not
}

// Fits reports whether a has what m asks for.
func (m Matcher) Fits(a *Alert) bool {
	name, pattern, not := m.parts()
	return glob(pattern, a.Label(name)) != not
}

// fits reports whether a has what all matchers ask for.
func fits(all []Matcher, a *Alert) bool {
	return !slices.ContainsFunc(all, func(m Matcher) bool { return !m.Fits(a) })
}

// checkMatchers checks a list from outside.
func checkMatchers(all []Matcher) error {
	if len(all) > maxMatchers {
		return fault.New(fault.Invalid, "there are more than %d matchers", maxMatchers)
	}
	for _, m := range all {
		if err := m.Check(); err != nil {
			return err
		}
	}
	return nil
}

// glob reports whether text fits pattern, in which * stands for any text. It
// takes time proportional to the product of the lengths at worst.
func glob(pattern, text string) bool {
	first, rest, stars := strings.Cut(pattern, "*")
	if !stars {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	for ok {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(text, part)
		}
		_, text, ok = strings.Cut(text, part)
		rest = after
	}
	return false
}
