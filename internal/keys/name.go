package keys

import (
	"strings"

	"chancery/internal/fault"
)

// maxName bounds the name of a key, in octets.
const maxName = 64

// CheckName returns a *fault.Error (invalid) unless name is one that every
// store can take: safe as a file name on any system, unable to leave a
// directory, and without a character that a URI would have to escape.
func CheckName(name string) error {
	ok := name != "" && len(name) <= maxName && strings.Trim(name, ".-_") == name && !strings.Contains(name, "..")
	for i := range len(name) {
		c := name[i]
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || strings.IndexByte(".-_", c) >= 0)
	}
	if !ok {
		return fault.New(fault.Invalid, "%.80q is not a key name; use 1 to %d of a-z, 0-9, '.', '-' and '_', with a letter or digit at both ends", name, maxName)
	}
	return nil
}
