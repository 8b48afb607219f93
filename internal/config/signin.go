package config

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// SignIn is the [sign_in] section.
type SignIn struct {
	// How long a person stays signed in at the most.
	Life time.Duration `toml:"life"`

	// After how long without any use a sign-in ends.
	Idle time.Duration `toml:"idle"`
}

// OIDC is one [oidc.NAME] section.
type OIDC struct {
	// What the button says. Empty: NAME.
	Title string `toml:"title"`

	// URL of the provider, as its discovery document names it.
	Issuer string `toml:"issuer" format:"url"`

	// Client that this server is registered as. Its redirect URL is
	// SERVER-URL/auth/callback/NAME.
	ClientID string `toml:"client_id"`

	// File with the client's secret. Empty: a public client, which PKCE alone
	// protects. Read at each sign-in.
	ClientSecretFile string `toml:"client_secret_file"`

	// File with the roots (PEM) that the provider's certificate must chain to.
	// Empty: those of the system.
	RootsFile string `toml:"roots_file"`

	// Scopes to ask for beside openid.
	Scopes []string `toml:"scopes"`

	// Claim of the ID token, or else of the user info, whose values grants
	// speak of.
	Claim string `toml:"claim"`

	// Who may do what, in order; the first that matches decides, and nobody
	// else gets in. Each reads "VALUE: ROLE", where VALUE may contain * and ROLE
	// is viewer, auditor, approver, operator or admin, and may go on with the
	// part of the estate that it is limited to: "pay-team: operator
	// owners=pay,pay-* cas=corp profiles=tls".
	Grants []Grant `toml:"grants"`
}

// Grant is one rule of [oidc.NAME] grants.
type Grant struct {
	Value, Role           string
	Owners, CAs, Profiles []string
}

// grantRoles are the roles that a grant may name.
var grantRoles = []string{"viewer", "auditor", "approver", "operator", "admin"}

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *Grant) UnmarshalText(b []byte) error {
	bad := func(what string) error {
		return fmt.Errorf("%q: %s; write one such as \"pki-admins: admin\" or \"pay-team: operator owners=pay\"", b, what)
	}
	// The value may hold colons; what follows the last one is the rule.
	i := strings.LastIndex(string(b), ":")
	if i < 0 {
		return bad("there is no colon between value and role")
	}
	words := strings.Fields(string(b[i+1:]))
	*g = Grant{Value: strings.TrimSpace(string(b[:i]))}
	if _, err := path.Match(g.Value, ""); err != nil || g.Value == "" || len(words) == 0 {
		return bad("a value and a role belong here")
	}
	for _, r := range grantRoles {
		if words[0] == r {
			g.Role = r
		}
	}
	if g.Role == "" {
		return bad("the role is none of " + strings.Join(grantRoles, ", "))
	}
	for _, w := range words[1:] {
		name, list, ok := strings.Cut(w, "=")
		into := map[string]*[]string{"owners": &g.Owners, "cas": &g.CAs, "profiles": &g.Profiles}[name]
		if !ok || into == nil || *into != nil || list == "" {
			return bad("after the role come owners=, cas= or profiles=, each once, with names separated by commas")
		}
		*into = strings.Split(list, ",")
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (g Grant) MarshalText() ([]byte, error) {
	text := g.Value + ": " + g.Role
	for _, part := range []struct {
		name string
		list []string
	}{{"owners", g.Owners}, {"cas", g.CAs}, {"profiles", g.Profiles}} {
		if len(part.list) > 0 {
			text += " " + part.name + "=" + strings.Join(part.list, ",")
		}
	}
	return []byte(text), nil
}

// Approval is the [approval] section.
type Approval struct {
	// Operations of the API that happen only when a second person agrees, by
	// the operationId of docs/openapi.yaml, such as "revoke-certificates" or
	// "create-root". Plans (dry_run) never wait.
	Operations []string `toml:"operations"`

	// How long a request waits for somebody to decide.
	Expires time.Duration `toml:"expires"`

	// Let an administrator act alone in an emergency, who must then give a
	// reason (chancery --break-glass REASON). It is journaled and logged.
	BreakGlass bool `toml:"break_glass"`
}

// DefaultOIDC returns the values of a provider that sets nothing.
func DefaultOIDC() OIDC {
	return OIDC{Scopes: []string{"profile", "email"}, Claim: "groups"}
}

// oidc checks [oidc.NAME].
func (k *checker) oidc(key string, o OIDC) {
	k.must(o.Issuer != "", key+".issuer", "must be set: the URL of the provider")
	k.must(o.ClientID != "", key+".client_id", "must be set: what the provider calls this server")
	k.must(o.Claim != "", key+".claim", "must be set: grants speak of its values")
	k.must(len(o.Grants) > 0, key+".grants", "grants nothing to anybody, so nobody could sign in")
}
