package token_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/token"
)

func TestMain(m *testing.M) { os.Exit(dbtest.Main(m)) }

var ctx = context.Background()

func TestVerify(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		now := time.Now()
		made, text, err := token.Create(ctx, d, token.Spec{Name: "x", Role: token.Viewer, Expires: time.Hour}, "test", now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := token.Verify(ctx, d.Read(), text, now)
		if err != nil || got.ID != made.ID || got.Role != token.Viewer {
			t.Fatal(got, err)
		}
		_, other, err := token.Create(ctx, d, token.Spec{Name: "y", Role: token.Admin}, "test", now)
		if err != nil {
			t.Fatal(err)
		}
		swapped := text[:len("cy_")+26] + other[len("cy_")+26:] // id of one, secret of the other
		for name, bad := range map[string]string{"empty": "", "cut": text[:len(text)-1], "longer": text + "A", "upper": strings.ToUpper(text),
			"swapped": swapped, "prefix": "xx_" + text[3:], "id": "cy_" + db.NewID(now) + text[len("cy_")+26:]} {
			if _, err := token.Verify(ctx, d.Read(), bad, now); !fault.Is(err, fault.Unauthorized) || fault.As(err).Status() != 401 || strings.Contains(err.Error(), text[30:]) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := token.Verify(ctx, d.Read(), text, now.Add(time.Hour)); !fault.Is(err, fault.Unauthorized) {
			t.Errorf("expired: %v", err)
		}
		if err := token.Revoke(ctx, d, made.ID, "test", now); err != nil {
			t.Fatal(err)
		}
		if _, err := token.Verify(ctx, d.Read(), text, now); !fault.Is(err, fault.Unauthorized) {
			t.Errorf("revoked: %v", err)
		}
	})
}

func TestSecretIsNotStored(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	_, text, err := token.Create(ctx, d, token.Spec{Name: "x", Role: token.Viewer}, "test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var dump strings.Builder
	if _, err := d.Dump(ctx, &dump); err != nil || strings.Contains(dump.String(), text[30:]) {
		t.Error("the database holds the secret", err)
	}
}

func TestCreateRefuses(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	for name, spec := range map[string]token.Spec{
		"no name":   {Role: token.Viewer},
		"long name": {Name: strings.Repeat("x", 65), Role: token.Viewer},
		"control":   {Name: "a\nb", Role: token.Viewer},
		"no role":   {Name: "x"},
		"role":      {Name: "x", Role: "root"},
		"past":      {Name: "x", Role: token.Viewer, Expires: -1},
	} {
		if _, _, err := token.Create(ctx, d, spec, "test", time.Now()); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnsureAdmin(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		path := filepath.Join(t.TempDir(), "admin.token")
		ensure := func(want bool) string {
			t.Helper()
			created, err := token.EnsureAdmin(ctx, d, path, time.Now())
			if err != nil || created != want {
				t.Fatalf("created %v, want %v: %v", created, want, err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatal(info, err)
			}
			b, _ := os.ReadFile(path)
			return strings.TrimSpace(string(b))
		}
		works := func(text string) bool {
			got, err := token.Verify(ctx, d.Read(), text, time.Now())
			return err == nil && got.Role == token.Admin
		}
		first := ensure(true)
		if !works(first) || ensure(false) != first {
			t.Fatal("the token does not work, or did not stay")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		second := ensure(true)
		if works(first) || !works(second) {
			t.Error("the token of a lost file still works, or the new one does not")
		}
		for _, foreign := range []string{"", "garbage", first, "cy_" + db.NewID(time.Now()) + "_" + strings.Repeat("A", 43)} {
			if err := os.WriteFile(path, []byte(foreign), 0o600); err != nil {
				t.Fatal(err)
			}
			third := ensure(true)
			if works(second) || !works(third) {
				t.Errorf("after a foreign file %.20q", foreign)
			}
			second = third
		}
		viewer, text, err := token.Create(ctx, d, token.Spec{Name: token.BootstrapName, Role: token.Viewer}, "test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ensure(true) // the file held a token, but not an admin's
		if got, err := token.Get(ctx, d.Read(), viewer.ID); err != nil || !got.RevokedAt.IsZero() {
			t.Error("the token of a person was revoked", err)
		}
	})
}

// A token that others can read counts as known.
func TestEnsureAdminRefusesReadableFile(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	path := filepath.Join(t.TempDir(), "admin.token")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := token.EnsureAdmin(ctx, d, path, time.Now()); !fault.Is(err, fault.Precondition) {
		t.Error(err)
	}
}
