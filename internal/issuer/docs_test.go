package issuer_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/BurntSushi/toml"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/acmedns"
	"chancery/internal/acme/solver/azuredns"
	"chancery/internal/acme/solver/clouddns"
	"chancery/internal/acme/solver/cloudflare"
	"chancery/internal/acme/solver/digitalocean"
	dnsexec "chancery/internal/acme/solver/exec"
	"chancery/internal/acme/solver/powerdns"
	"chancery/internal/acme/solver/rfc2136"
	"chancery/internal/acme/solver/route53"
	"chancery/internal/acme/solver/webhook"
	"chancery/internal/issuer"
	"chancery/internal/issuer/acme"
	"chancery/internal/issuer/digicert"
	"chancery/internal/issuer/entrust"
	"chancery/internal/issuer/exec"
	"chancery/internal/issuer/globalsign"
	"chancery/internal/issuer/sectigo"
	"chancery/internal/issuer/stepca"
	"chancery/internal/issuer/vault"
)

var tomlBlock = regexp.MustCompile("(?s)```toml\n(.*?)```")

// TestExamplesOfTheManual: each kind has an example in docs/issuers.md, and
// every key of every example exists.
func TestExamplesOfTheManual(t *testing.T) {
	issuers, providers := map[string]func() any{}, map[string]func() any{}
	for _, k := range []issuer.Kind{acme.Kind, stepca.Kind, vault.Kind, digicert.Kind, sectigo.Kind, entrust.Kind, globalsign.Kind, exec.Kind} {
		issuers[k.Name] = k.Config
	}
	for _, k := range []solver.Kind{rfc2136.Kind, powerdns.Kind, acmedns.Kind, route53.Kind, cloudflare.Kind, azuredns.Kind, clouddns.Kind, digitalocean.Kind, dnsexec.Kind, webhook.Kind} {
		providers[k.Name] = k.Config
	}
	text, err := os.ReadFile("../../docs/issuers.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, block := range tomlBlock.FindAllSubmatch(text, -1) {
		var doc struct{ Issuer, DNS map[string]map[string]any }
		if _, err := toml.Decode(string(block[1]), &doc); err != nil {
			t.Fatalf("%v:\n%s", err, block[1])
		}
		check(t, "issuer", doc.Issuer, issuers, seen, nil)
		check(t, "dns", doc.DNS, providers, seen, []string{"zones", "nameservers", "wait", "ttl"})
	}
	for name := range issuers {
		if !seen["issuer "+name] {
			t.Errorf("issuer kind %s has no example", name)
		}
	}
	for name := range providers {
		if !seen["dns "+name] {
			t.Errorf("DNS kind %s has no example", name)
		}
	}
}

// check decodes sections into what their kinds describe.
func check(t *testing.T, what string, sections map[string]map[string]any, kinds map[string]func() any, seen map[string]bool, common []string) {
	for name, keys := range sections {
		kind, _ := keys["kind"].(string)
		if kinds[kind] == nil {
			t.Errorf("[%s.%s]: no kind %q", what, name, kind)
			continue
		}
		seen[what+" "+kind] = true
		for k := range keys {
			if k == "kind" || slices.Contains(common, k) {
				delete(keys, k)
			}
		}
		text, err := toml.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		meta, err := toml.Decode(string(text), kinds[kind]())
		if err != nil {
			t.Errorf("[%s.%s]: %v", what, name, err)
		}
		for _, k := range meta.Undecoded() {
			t.Errorf("[%s.%s]: kind %s has no key %s", what, name, kind, k)
		}
	}
}
