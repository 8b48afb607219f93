package solvertest

import (
	"os"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"chancery/internal/testenv"
)

// pdnsSchema is where Debian puts the schema of PowerDNS's SQLite backend.
const pdnsSchema = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql"

// makeDatabase makes an empty database of PowerDNS.
func makeDatabase(t testing.TB, path string) {
	t.Helper()
	text, err := os.ReadFile(pdnsSchema)
	if err != nil {
		text, err = os.ReadFile("/usr/share/doc/pdns-backend-sqlite3/schema.sqlite3.sql")
	}
	if err != nil {
		testenv.Skip(t, "the schema of PowerDNS's SQLite backend is not installed (pdns-backend-sqlite3)")
	}
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite, sqlite.OpenCreate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := sqlitex.ExecuteScript(conn, string(text), nil); err != nil {
		t.Fatal(err)
	}
}
