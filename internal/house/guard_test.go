package house

import (
	"go/ast"
	"testing"
)

// guarded are functions that make trust, each with the packages that may call
// it: whoever is added here must hold what the function asks for.
var guarded = map[string]map[string]string{
	"ca.NewGrant": {
		"internal/acme/server": "makes evidence from opened, sealed proofs",
		"internal/app":         "certifies the names of its own HTTPS listener, agents, and what operators assigned to agents",
	},
	"challenge.Corroborate":    {"internal/acme/perspective": "asked every remote itself, by pinned keys"},
	"challenge.CorroborateCAA": {"internal/acme/perspective": "asked every remote itself, by pinned keys"},
	"ca.NewOperator": {
		"internal/issuer/local": "passes on what the operator configured, and nothing else",
	},
}

func TestTrustIsMadeInFewPlaces(t *testing.T) {
	for _, f := range read(t).files {
		if f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok {
				if may := guarded[x.Name+"."+sel.Sel.Name]; may != nil && may[f.pkg] == "" {
					t.Errorf("%s uses %s.%s; only %v may", f.path, x.Name, sel.Sel.Name, may)
				}
			}
			return true
		})
	}
}
