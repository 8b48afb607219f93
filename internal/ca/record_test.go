package ca

import (
	"encoding/json/v2"
	"testing"

	"chancery/internal/audit"
)

// What is written by hand is what encoding/json writes, so that entries of the
// journal look the same as ever.
func TestRawEntriesAreJSON(t *testing.T) {
	for _, c := range []struct {
		data any
		raw  audit.Raw
	}{
		{intentData{"0a", "01ff", "00", ""}, intentData{"0a", "01ff", "00", ""}.raw()},
		{intentData{"0a", "01ff", "00", "0b"}, intentData{"0a", "01ff", "00", "0b"}.raw()},
		{issueData{"01ff", "00"}, issueData{"01ff", "00"}.raw()},
	} {
		want, err := json.Marshal(c.data)
		if err != nil || string(want) != string(c.raw) {
			t.Errorf("%s, encoding/json writes %s (%v)", c.raw, want, err)
		}
	}
}
