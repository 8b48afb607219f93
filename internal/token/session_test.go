package token_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/token"
)

func TestSessionEnds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, at := context.Background(), time.UnixMilli(1_800_000_000_000)
		s := token.NewSessions(d, 12*time.Hour, time.Hour)
		who := token.Who{Actor: "user:corp/1", Name: "Ada", Role: token.Operator, Scope: token.Scope{Owners: []string{"pay"}}}
		n, text, err := s.Open(ctx, who, at)
		if err != nil {
			t.Fatal(err)
		}
		open := func(s *token.Sessions, text string, at time.Time) bool {
			got, err := s.Verify(ctx, text, at)
			if err != nil && !fault.Is(err, fault.Unauthorized) {
				t.Fatal(err)
			}
			if err == nil && (got.Actor != who.Actor || got.Role != who.Role || got.Scope.Owners[0] != "pay") {
				t.Fatalf("%+v", got)
			}
			return err == nil
		}
		if !open(s, text, at.Add(59*time.Minute)) || !open(s, text, at.Add(118*time.Minute)) {
			t.Error("a session that is used ends")
		}
		if _, err := s.Tick(ctx, at.Add(119*time.Minute)); err != nil {
			t.Fatal(err)
		}
		other := token.NewSessions(d, 12*time.Hour, time.Hour) // another replica, which saw nothing of it
		if !open(other, text, at.Add(170*time.Minute)) {
			t.Error("another replica does not know that it was used")
		}
		if open(token.NewSessions(d, 12*time.Hour, time.Hour), text, at.Add(200*time.Minute)) {
			t.Error("an idle session goes on")
		}
		for i := range 13 {
			s.Use(n.ID, at.Add(time.Duration(i)*time.Hour))
		}
		if open(s, text, at.Add(12*time.Hour)) {
			t.Error("a session outlives its life")
		}
		if open(s, text[:len(text)-1]+"!", at) || open(s, "", at) || open(s, strings.Repeat("_", 70), at) {
			t.Error("a wrong cookie opens")
		}
		if err := s.Close(ctx, &n, at); err != nil || open(s, text, at) {
			t.Error("a closed session opens", err)
		}
	})
}

// A session made with a token ends with it.
func TestSessionOfAToken(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	ctx, at := context.Background(), time.Now()
	tok, _, err := token.Create(ctx, d, token.Spec{Name: "x", Role: token.Viewer}, "test", at)
	if err != nil {
		t.Fatal(err)
	}
	s := token.NewSessions(d, time.Hour, time.Hour)
	_, text, err := s.Open(ctx, token.Who{Actor: "token:" + tok.ID, Role: token.Viewer, TokenID: tok.ID}, at)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(ctx, text, at); err != nil {
		t.Fatal(err)
	}
	if err := token.Revoke(ctx, d, tok.ID, "test", at); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(ctx, text, at); !fault.Is(err, fault.Unauthorized) {
		t.Error("the session outlives its token:", err)
	}
}

func TestScope(t *testing.T) {
	s := token.Scope{Owners: []string{"pay", "web-*"}, CAs: []string{"corp"}}
	for _, c := range []struct {
		owner, ca, profile string
		want               bool
	}{
		{"pay", "corp", "tls", true}, {"web-eu", "corp", "", true}, {"web", "corp", "", false},
		{"pay", "default", "", false}, {"", "corp", "", false}, {"pay", "", "", false}, {"*", "corp", "", false},
	} {
		if got := s.Covers(c.owner, c.ca, c.profile); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if !(&token.Scope{}).Covers("", "", "") {
		t.Error("the zero scope restricts")
	}
	for _, bad := range []token.Scope{{Owners: []string{""}}, {CAs: []string{"["}}, {Profiles: []string{"a/b"}}, {Owners: make([]string, 65)}} {
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// What each role may do, and nothing else.
func TestRoles(t *testing.T) {
	want := map[token.Role]string{token.Viewer: "read", token.Auditor: "read audit", token.Approver: "read approve",
		token.Operator: "read operate", token.Admin: "read audit operate approve administer", "": "", "root": ""}
	for role, list := range want {
		for _, p := range []token.Permission{token.Read, token.Audit, token.Operate, token.Approve, token.Administer, token.Public, "all"} {
			may := p != "" && strings.Contains(" "+list+" ", " "+string(p)+" ")
			if role.Allows(p) != may {
				t.Errorf("%q may %q: %v", role, p, role.Allows(p))
			}
		}
	}
}
