package server_test

import (
	"context"
	"fmt"
	"testing"

	"chancery/internal/acme/server"
	"chancery/internal/db/dbtest"
)

// The filter forgets nothing that was added, takes few names for others, and is
// begun anew when it is full.
func TestKnownNames(t *testing.T) {
	ctx, q := context.Background(), dbtest.Open(t, dbtest.SQLiteURL(t)).Read()
	k := server.NewKnownNames(true)
	none := func(account, name string) bool { return k.None(ctx, q, account, []string{"dns:" + name}) }
	if none("a", "x.test") {
		t.Error("the first question about an account is answered without the database")
	}
	if !none("a", "x.test") {
		t.Error("an account that has nothing may have something")
	}
	const names = 50_000
	for i := range names {
		k.Add("a", fmt.Sprintf("dns:n%d.test", i))
	}
	others := 0
	for i := range names {
		if none("a", fmt.Sprintf("n%d.test", i)) {
			t.Fatalf("n%d.test was forgotten", i)
		}
		if !none("a", fmt.Sprintf("other%d.test", i)) {
			others++
		}
	}
	if others > names/100 {
		t.Errorf("%d of %d names are taken for others", others, names)
	}
	if none("b", "n1.test"); !none("b", "n1.test") {
		t.Error("the name of one account is known of another")
	}
	for i := range 400_000 {
		k.Add("c", fmt.Sprintf("dns:c%d.test", i))
	}
	if none("a", "y.test") {
		t.Error("a filter that was begun anew knows of no account")
	}
	if !none("a", "y.test") || k.None(ctx, q, "a", nil) != true {
		t.Error("an account is not learned again")
	}
	if off := server.NewKnownNames(false); off.None(ctx, q, "a", nil) {
		t.Error("it is off, and says something")
	}
}
