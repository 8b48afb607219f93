package server_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"chancery/internal/acme/server"
	"chancery/internal/db/dbtest"
)

// TestEABSecretCanBePasted makes many secrets: as an argument of a command
// line, none may look like an option.
func TestEABSecretCanBePasted(t *testing.T) {
	w := newWorld(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	for range 400 {
		_, secret, err := server.CreateEAB(t.Context(), w.db, w.secret, "default", "team", "token:ops", 0)
		if err != nil {
			t.Fatal(err)
		}
		if text := base64.RawURLEncoding.EncodeToString(secret); strings.HasPrefix(text, "-") {
			t.Fatalf("secret %s looks like an option", text)
		}
	}
}
