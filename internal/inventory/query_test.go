package inventory_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"chancery/internal/fault"
	"chancery/internal/inventory"
)

func TestParse(t *testing.T) {
	d := func(text string) time.Time {
		at, err := time.Parse(time.DateOnly, text)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	for text, want := range map[string]inventory.Filter{
		"":                                     {},
		"owner:pay team:core":                  {Owners: []string{"pay"}, Teams: []string{"core"}},
		`owner:"Pay & Co" owner:b`:             {Owners: []string{"Pay & Co", "b"}},
		"key:RSA-2048 key:P-256 key:ML-DSA-65": {Keys: []string{"rsa2048", "p256", "ml-dsa-65"}},
		"status:active source:ct source:scan":  {Statuses: []inventory.Status{inventory.Active}, Source: inventory.FromCT | inventory.FromScan},
		"name:WWW.example.com":                 {Name: inventory.Host{Name: "www.example.com", Exact: true}},
		"name:*.example.com":                   {Name: inventory.Host{Name: "example.com", Below: true}},
		"pay.example.com":                      {Name: inventory.Host{Name: "pay.example.com", Exact: true, Below: true}},
		"endpoint:www.example.com:443":         {Endpoint: inventory.Host{Name: "www.example.com", Exact: true}, Port: 443},
		"endpoint:[2001:db8::1]:8443":          {Endpoint: inventory.Host{Name: "2001:db8::1", Exact: true}, Port: 8443},
		"endpoint:2001:db8::1":                 {Endpoint: inventory.Host{Name: "2001:db8::1", Exact: true}},
		"tag:app=shop tag:tier=1":              {Tags: []string{"app=shop", "tier=1"}},
		"Gold fish":                            {Words: []string{"gold", "fish"}},
		"serial:0A:0B fingerprint:" + strings.Repeat("AB", 32): {Serial: "0a0b", Fingerprint: strings.Repeat("ab", 32)},
		// Now is 2026-03-10 12:30. Days are whole UTC days.
		"expires:<14d":                   {Expires: inventory.Range{To: d("2026-03-25")}},
		"expires:>14d":                   {Expires: inventory.Range{From: d("2026-03-25")}},
		"expires:<=2026-03-25":           {Expires: inventory.Range{To: d("2026-03-26")}},
		"expires:2026-04-01..2026-04-30": {Expires: inventory.Range{From: d("2026-04-01"), To: d("2026-05-01")}},
		"expires:>1d expires:<2w":        {Expires: inventory.Range{From: d("2026-03-12"), To: d("2026-03-25")}},
		"expires:<12h":                   {Expires: inventory.Range{To: epoch.Add(12 * time.Hour)}},
		"seen:<7d":                       {Seen: inventory.Range{From: d("2026-03-03")}},
		"seen:>1y":                       {Seen: inventory.Range{To: d("2025-03-10")}},
		"managed:no ca:yes":              {Managed: new(false), CA: new(true)},
	} {
		f, err := inventory.Parse(text, epoch)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, f); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"ownr:pay":                       "unknown key \"ownr\"; keys are: owner team env",
		"www.example.com:443":            "endpoint:www.example.com:443",
		"owner:":                         "no value",
		`owner:"pay`:                     "not closed",
		`owner:"a"b`:                     "put a space",
		`a"b`:                            "quotation mark inside",
		"status:fine":                    "active superseded expired",
		"source:moon":                    "ca import scan",
		"key:rsa2048;drop":               "not a kind of key",
		"name:*pay*":                     "for part of a name give the word alone",
		"name:a.example name:b.example":  "given once",
		"expires:14d":                    "write <14d",
		"expires:<14x":                   "neither a duration",
		"expires:<99999999999999d":       "neither a duration",
		"expires:<200y":                  "neither a duration",
		"expires:2026-05-01..2026-04-01": "ends before it begins",
		"tag:app":                        "name=value",
		"tag:A b=c":                      "name=value",
		"endpoint:a.example:0":           "port",
		"endpoint:a.example:99999":       "port",
		"endpoint:a.example:":            "port",
		"fingerprint:abcd":               "hexadecimal",
		"id:42":                          "not the id",
		"managed:maybe":                  "yes or no",
		"a":                              "at least 2",
		"aa bb cc dd":                    "at most 3",
		"owner:a\x00b":                   "control characters",
		"owner:\xff":                     "UTF-8",
		strings.Repeat("a ", 2000):       "longer than",
		strings.Repeat("owner:a ", 50):   "more than 40 terms",
	} {
		_, err := inventory.Parse(text, epoch)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.As(err).Detail, want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
}

// A filter's text means the same filter.
func FuzzParse(f *testing.F) {
	for text := range queries {
		f.Add(text)
	}
	f.Add(`owner:"a \"b\" c" endpoint:[2001:db8::1]:443 "x:y" expires:>3h seen:2026-01-01..2026-02-01`)
	f.Fuzz(func(t *testing.T, text string) {
		a, err := inventory.Parse(text, epoch)
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Fatal(err)
			}
			return
		}
		again := a.String()
		b, err := inventory.Parse(again, epoch)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, again, err)
		}
		if b.String() != again {
			t.Fatalf("%q became %q, then %q", text, again, b.String())
		}
	})
}
