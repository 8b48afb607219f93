package inventory_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// TestKeyGroups: the words for groups of keys find what their members find, in
// lists and in exact counts.
func TestKeyGroups(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, now := context.Background(), time.Now().UTC()
		if err := inventory.Seed(ctx, d, 3000, now); err != nil {
			t.Fatal(err)
		}
		s := inventory.New(d)
		count := func(query string) int64 {
			t.Helper()
			f, err := inventory.Parse(query, now)
			if err != nil {
				t.Fatal(err)
			}
			n, err := s.Count(ctx, f)
			if err != nil || !n.Exact {
				t.Fatalf("%s: %+v %v", query, n, err)
			}
			return n.N
		}
		for group, members := range map[string]string{"key:weak": "key:rsa1024", "key:post-quantum": "key:ml-dsa-65", "key:classical": "key:p256 key:p384 key:rsa1024 key:rsa2048 key:rsa4096 key:ed25519",
			"key:weak key:post-quantum": "key:rsa1024 key:ml-dsa-65", "key:weak key:p256": "key:rsa1024 key:p256"} {
			for _, more := range []string{"", " status:active expires:<60d", " env:prod"} {
				if got, want := count(group+more), count(members+more); got != want || want == 0 {
					t.Errorf("%s%s: %d, want %d", group, more, got, want)
				}
			}
		}
		f, err := inventory.Parse("key:weak status:any", now)
		if err != nil {
			t.Fatal(err)
		}
		page, err := s.List(ctx, inventory.Query{Filter: f, Limit: 1000})
		if err != nil || int64(len(page.Certificates)) != count("key:rsa1024 status:any") {
			t.Errorf("%d listed, %v", len(page.Certificates), err)
		}
		for i := range page.Certificates {
			if page.Certificates[i].KeyType != "rsa1024" {
				t.Errorf("%+v", page.Certificates[i])
			}
		}
		if n := count("key:weak issuer:nobody"); n != 0 {
			t.Errorf("%d weak keys of nobody", n)
		}
	})
}

func TestPolicies(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx, now := context.Background(), time.Now().UTC()
		if err := inventory.Seed(ctx, d, 3000, now); err != nil {
			t.Fatal(err)
		}
		s := inventory.New(d)
		p, err := s.PutPolicy(ctx, inventory.Policy{Name: "no-weak-keys", Query: "key:weak", Severity: "critical", Mode: inventory.Shadow, Note: "ask for P-256"}, "token:a", now)
		if err != nil || p.ID == "" || p.CreatedBy != "token:a" {
			t.Fatalf("%+v %v", p, err)
		}
		r, err := s.CheckPolicy(ctx, p.Query, now)
		if err != nil || !r.Violations.Exact || r.Violations.N == 0 || r.Violations.N >= r.Of.N || len(r.Sample) != 20 || len(r.Owners.Values) == 0 {
			t.Fatalf("%+v %v", r, err)
		}
		for _, c := range r.Sample {
			if c.KeyType != "rsa1024" || c.Status != inventory.Active {
				t.Errorf("%+v", c)
			}
		}
		changed, err := s.PutPolicy(ctx, inventory.Policy{Name: "no-weak-keys", Query: "key:weak env:prod", Severity: "warning", Mode: inventory.Shadow}, "token:b", now.Add(time.Hour))
		if err != nil || changed.ID != p.ID || changed.CreatedBy != "token:a" || changed.UpdatedBy != "token:b" || changed.Query != "key:weak env:prod" || changed.Note != "" {
			t.Errorf("%+v %v", changed, err)
		}
		all, err := s.Policies(ctx, "", 10)
		if err != nil || len(all) != 1 {
			t.Errorf("%+v %v", all, err)
		}
		if err := s.DropPolicy(ctx, "no-weak-keys", "token:b", now); err != nil {
			t.Error(err)
		}
		if err := s.DropPolicy(ctx, "no-weak-keys", "token:b", now); !fault.Is(err, fault.NotFound) {
			t.Errorf("deleted twice: %v", err)
		}
		if _, err := s.Policy(ctx, "no-weak-keys"); !fault.Is(err, fault.NotFound) {
			t.Errorf("shown when deleted: %v", err)
		}
	})
}

func TestPoliciesThatAreWrong(t *testing.T) {
	s := inventory.New(dbtest.Open(t, dbtest.SQLiteURL(t)))
	for _, c := range []struct {
		p    inventory.Policy
		want string
	}{
		{inventory.Policy{Name: "Big", Query: "key:weak", Severity: "info", Mode: inventory.Shadow}, "name"},
		{inventory.Policy{Name: "a", Query: "key:weak", Severity: "dreadful", Mode: inventory.Shadow}, "severity"},
		{inventory.Policy{Name: "a", Query: "key:weak", Severity: "info", Mode: "loud"}, "mode"},
		{inventory.Policy{Name: "a", Query: "  ", Severity: "info", Mode: inventory.Shadow}, "every certificate would"},
		{inventory.Policy{Name: "a", Query: "colour:red", Severity: "info", Mode: inventory.Shadow}, "unknown key"},
		{inventory.Policy{Name: "a", Query: "key:weak", Severity: "info", Mode: inventory.Shadow, Note: "a\nb"}, "control characters"},
		{inventory.Policy{Name: "a", Query: "owner:none", Severity: "info", Mode: inventory.Enforce}, "with owner: cannot be enforced"},
		{inventory.Policy{Name: "a", Query: "key:weak endpoint:www.test:443", Severity: "info", Mode: inventory.Enforce}, "with endpoint: cannot be enforced"},
		{inventory.Policy{Name: "a", Query: "key:weak status:expired", Severity: "info", Mode: inventory.Enforce}, "with status: cannot be enforced"},
	} {
		if _, err := s.PutPolicy(context.Background(), c.p, "x", time.Now()); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.p, err, c.want)
		}
	}
}

// TestRefuse: what a policy in force refuses is what its query would find.
func TestRefuse(t *testing.T) {
	d := dbtest.Open(t, dbtest.SQLiteURL(t))
	ctx, now := context.Background(), time.Now().UTC()
	s := inventory.New(d)
	base := inventory.Proposal{Issuer: "Example Issuing CA 1", Key: "p256", Names: []string{"www.pay.example.com", "pay.example.com"}, NotBefore: now, NotAfter: now.AddDate(0, 0, 90)}
	if err := s.Refuse(&base); !fault.Is(err, fault.Unavailable) {
		t.Errorf("before the policies were read: %v", err)
	}
	for _, c := range []struct {
		query  string
		refuse bool
	}{
		{"key:p256", true}, {"key:rsa2048", false}, {"key:weak", false}, {"key:classical", true}, {"key:post-quantum", false},
		{"expires:>60d", true}, {"expires:>100d", false}, {"expires:<60d", false}, {"key:p256 expires:>100d", false},
		{"name:pay.example.com", true}, {"name:*.pay.example.com", true}, {"name:*.example.com", true}, {"name:example.com", false}, {"name:*.www.pay.example.com", false}, {"example.com", true}, {"ay.example.com", false},
		{"issuer:\"Issuing CA\"", true}, {"issuer:R11", false}, {"pay", true}, {"pay shop", false}, {"ca:no key:p256", true}, {"key:p256 status:active", true},
	} {
		if _, err := s.PutPolicy(ctx, inventory.Policy{Name: "the-one", Query: c.query, Severity: "info", Mode: inventory.Enforce, Note: "ask us"}, "x", now); err != nil {
			t.Fatal(err)
		}
		err := s.Refuse(&base)
		if (err != nil) != c.refuse || c.refuse && (!fault.Is(err, fault.BadCSR) || !strings.Contains(err.Error(), "the-one") || !strings.Contains(err.Error(), "ask us")) {
			t.Errorf("%s: %v", c.query, err)
		}
	}
	// Another process hears of it when it reads them again; a shadow refuses nothing.
	other := inventory.New(d)
	if err := other.LoadPolicies(ctx, now); err != nil {
		t.Fatal(err)
	}
	if other.Refuse(&base) == nil {
		t.Error("another process does not go by the policy")
	}
	if _, err := s.PutPolicy(ctx, inventory.Policy{Name: "the-one", Query: "key:p256", Severity: "info", Mode: inventory.Shadow}, "x", now); err != nil {
		t.Fatal(err)
	}
	if err := s.Refuse(&base); err != nil {
		t.Errorf("a shadow refuses: %v", err)
	}
}
