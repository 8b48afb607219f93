package api_test

import (
	"strings"
	"testing"

	"chancery/internal/ca"
)

// countBlocked returns 1 if the key with this hash is blocked.
func countBlocked(t *testing.T, w *world, hash [32]byte) int {
	t.Helper()
	if ca.Blocked(ctx, w.db.Read(), hash) != nil {
		return 1
	}
	return 0
}

// dump returns the whole content of the database.
func dump(t *testing.T, w *world) string {
	t.Helper()
	var b strings.Builder
	_, err := w.db.Dump(ctx, &b)
	check(t, err)
	return b.String()
}
