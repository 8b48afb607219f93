package inventory

import (
	"context"
	"fmt"
	"slices"

	"chancery/internal/pki"
)

// keyGroups are words that stand for all kinds of keys of a certain strength.
var keyGroups = map[string]func(pki.Strength) bool{
	"weak":         pki.Strength.Weak,
	"post-quantum": func(s pki.Strength) bool { return s.Quantum > 0 },
	"classical":    func(s pki.Strength) bool { return s.Known && s.Quantum == 0 },
}

// isKey reports whether a kind of key is meant by one of words.
func isKey(words []string, key string) bool {
	return slices.ContainsFunc(words, func(word string) bool {
		group := keyGroups[word]
		return word == key || group != nil && group(pki.StrengthOf(key))
	})
}

// resolveKeys replaces groups by the kinds of keys that there are; the
// roll-ups know them.
func (s *Store) resolveKeys(ctx context.Context, c *conditions) error {
	if !slices.ContainsFunc(c.keys, func(word string) bool { return keyGroups[word] != nil }) {
		return nil
	}
	all := &conditions{managed: -1, ca: -1, expires: anyTime, seen: anyTime}
	sums, err := s.tally(ctx, all, covering(ByKey, ByStatus), ByKey)
	if err != nil {
		return fmt.Errorf("find kinds of keys: %w", err)
	}
	words := c.keys
	c.keys = nil
	for key := range sums {
		if isKey(words, key) {
			c.keys = append(c.keys, key)
		}
	}
	slices.Sort(c.keys)
	c.never = c.never || len(c.keys) == 0
	return nil
}
