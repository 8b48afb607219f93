package token

import (
	"encoding/json/v2"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"chancery/internal/fault"
)

// Permission is one class of operations of the control plane.
type Permission string

// Permissions. Public needs no sign-in at all.
const (
	Public     Permission = ""
	Read       Permission = "read"       // look at everything but secrets and who may do what
	Audit      Permission = "audit"      // look at who may do what; export and prove the journal
	Operate    Permission = "operate"    // revoke, renew, deploy, scan, edit what is known
	Approve    Permission = "approve"    // let somebody else's request happen, or refuse it
	Administer Permission = "administer" // authorities, policies, tokens, everything
)

// Role is what somebody may do.
type Role string

// Roles.
const (
	Viewer   Role = "viewer"
	Auditor  Role = "auditor"
	Approver Role = "approver"
	Operator Role = "operator"
	Admin    Role = "admin"
)

// Roles lists every role.
var Roles = []Role{Viewer, Auditor, Approver, Operator, Admin}

// grants is what each role may do.
var grants = map[Role][]Permission{
	Viewer:   {Read},
	Auditor:  {Read, Audit},
	Approver: {Read, Approve},
	Operator: {Read, Operate},
	Admin:    {Read, Audit, Operate, Approve, Administer},
}

// Valid reports whether r is a known role.
func (r Role) Valid() bool { return grants[r] != nil }

// Permissions returns what r may do; nothing for a role that is not known.
func (r Role) Permissions() []Permission { return slices.Clone(grants[r]) }

// Allows reports whether somebody in role r may do what needs a permission. An
// unknown role allows nothing, and nothing allows an unknown permission.
func (r Role) Allows(need Permission) bool { return slices.Contains(grants[r], need) }

// Needing returns the roles that allow a permission.
func Needing(need Permission) (roles []Role) {
	for _, r := range Roles {
		if r.Allows(need) {
			roles = append(roles, r)
		}
	}
	return roles
}

// Scope narrows what a role may see and change to a part of the estate. Each
// list holds names or patterns with "*" (path.Match without "/"); an empty list
// is no restriction, and the zero Scope restricts nothing.
type Scope struct {
	Owners   []string `json:"owners,omitempty"`   // of certificates; certificates without an owner are outside any owner scope
	CAs      []string `json:"cas,omitempty"`      // names of authorities as in the ACME path
	Profiles []string `json:"profiles,omitempty"` // certificate profiles
}

// Whole reports whether s restricts nothing.
func (s *Scope) Whole() bool { return len(s.Owners)+len(s.CAs)+len(s.Profiles) == 0 }

// Bounds of a scope.
const (
	maxScope   = 64  // entries of a list
	maxPattern = 253 // bytes of an entry
)

// Check returns an invalid fault for a scope that cannot mean anything.
func (s *Scope) Check() error {
	for name, list := range map[string][]string{"owners": s.Owners, "cas": s.CAs, "profiles": s.Profiles} {
		if len(list) > maxScope {
			return fault.New(fault.Invalid, "scope %s has %d entries, at most %d are allowed", name, len(list), maxScope)
		}
		for _, p := range list {
			if _, err := path.Match(p, "x"); err != nil || p == "" || len(p) > maxPattern || strings.ContainsAny(p, "/\x00") || !utf8.ValidString(p) {
				return fault.New(fault.Invalid, "scope %s: %.64q is not a name or a pattern with *", name, p)
			}
		}
	}
	return nil
}

// Covers reports whether a thing lies within s. An attribute that the thing
// does not have is "", which only an empty list covers: what cannot be judged
// is outside.
func (s *Scope) Covers(owner, ca, profile string) bool {
	return match(s.Owners, owner) && match(s.CAs, ca) && match(s.Profiles, profile)
}

func match(list []string, value string) bool {
	if len(list) == 0 {
		return true
	}
	for _, p := range list {
		if ok, err := path.Match(p, value); ok && err == nil && value != "" {
			return true
		}
	}
	return false
}

// EncodeScope returns the text of a scope in a row.
func EncodeScope(s Scope) string {
	b, err := json.Marshal(s)
	if err != nil { // strings alone; invalid UTF-8 cannot come here past Check
		return unreadable
	}
	return string(b)
}

// unreadable is the text of a scope that nobody may use.
const unreadable = "!"

// DecodeScope reads the text of a row; "" is the whole estate, as rows had it
// before there were scopes. A text that cannot be read covers nothing.
func DecodeScope(text string) Scope {
	var s Scope
	if text != "" && json.Unmarshal([]byte(text), &s, json.RejectUnknownMembers(true)) != nil {
		return Scope{Owners: []string{unreadable}, CAs: []string{unreadable}, Profiles: []string{unreadable}}
	}
	return s
}
