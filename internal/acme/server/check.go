package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/keys"
)

// stuckAfter is how long an order may be in processing (invariant I6).
const stuckAfter = time.Minute

// checkPage is how many rows Check reads at once.
const checkPage = 500

var qWalkAuthz = db.SQL("acme.walk_authorizations", `SELECT `+authzColumns+` FROM acme_authz WHERE id > $1 ORDER BY id LIMIT $2`)

// Check verifies this package's share of the invariants of issuance over one
// state of the database: I6 (no order is stuck in processing) and I3 (a valid
// authorization has a proof that a validator made, for exactly its identifier
// and account, and a valid order has the certificate that its names say).
// secrets are those of Config. err is only for a failure to read.
func Check(ctx context.Context, q db.Q, secrets *keys.Sealer, now time.Time, report func(ca.Finding)) error {
	proofs, err := proofSealer(secrets)
	if err != nil {
		return err
	}
	if err := checkOrders(ctx, q, now, report); err != nil {
		return err
	}
	return checkAuthzs(ctx, q, proofs, report)
}

func checkOrders(ctx context.Context, q db.Q, now time.Time, report func(ca.Finding)) error {
	for after := ""; ; {
		page, err := ListOrders(ctx, q, after, checkPage)
		if err != nil || len(page) == 0 {
			return err
		}
		for i := range page {
			if err := checkOrder(ctx, q, &page[i], now, report); err != nil {
				return err
			}
		}
		after = page[len(page)-1].ID
	}
}

func checkOrder(ctx context.Context, q db.Q, o *Order, now time.Time, report func(ca.Finding)) error {
	bad := func(invariant, format string, args ...any) {
		report(ca.Finding{Invariant: invariant, Subject: "order:" + o.ID, Problem: fmt.Sprintf(format, args...)})
	}
	switch {
	case o.State == acme.OrderProcessing && now.Sub(o.ClaimedAt) > stuckAfter:
		bad("I6", "the order has been in processing since %s", o.ClaimedAt.Format(time.RFC3339))
	case o.State == acme.OrderReady && o.AuthzPending != 0:
		bad("I3", "the order is ready although %d authorizations are not valid", o.AuthzPending)
	}
	if o.State != acme.OrderValid {
		return nil
	}
	c, err := ca.Get(ctx, q, o.CertificateID)
	if err != nil {
		if fault.Is(err, fault.NotFound) {
			bad("I3", "the order is valid, but its certificate does not exist")
			return nil
		}
		return err
	}
	names := make([]string, len(o.Identifiers))
	for i, id := range o.Identifiers {
		names[i] = id.Value
	}
	have := slices.Sorted(slices.Values(c.Names))
	slices.Sort(names)
	switch {
	case c.State != ca.StateIssued || c.OrderID != o.ID || c.AccountID != o.AccountID:
		bad("I3", "the order is valid, but its certificate %s is %s and belongs to order %q of account %q", c.ID, c.State, c.OrderID, c.AccountID)
	case !slices.Equal(names, have):
		bad("I3", "the certificate %s is for %v, the order for %v", c.ID, have, names)
	}
	return nil
}

func checkAuthzs(ctx context.Context, q db.Q, proofs *challenge.Sealer, report func(ca.Finding)) error {
	after := ""
	for {
		n := 0
		err := q.All(ctx, qWalkAuthz, func(r *db.Row) error {
			z, err := scanAuthz(r)
			if err != nil {
				return err
			}
			n, after = n+1, z.ID
			checkAuthz(&z, proofs, report)
			return nil
		}, after, checkPage)
		if err != nil || n < checkPage {
			return err
		}
	}
}

// checkAuthz verifies the proof of a valid authorization. The base URL may
// have changed since, so of the account's URL only the path counts.
func checkAuthz(z *Authorization, proofs *challenge.Sealer, report func(ca.Finding)) {
	if z.State != acme.AuthorizationValid {
		return
	}
	bad := func(problem string) {
		report(ca.Finding{Invariant: "I3", Subject: "authorization:" + z.ID, Problem: problem})
	}
	proof, err := proofs.Open(z.Proof)
	switch {
	case err != nil:
		bad("it is valid without a proof that a validator made: " + err.Error())
	case !strings.HasSuffix(proof.AccountURL(), "/acme/"+z.CA+accountDir+z.AccountID),
		!proof.Covers(z.Identifier, proof.AccountURL()), proof.Method() != z.Method, z.Subdomains && !proof.Subdomains():
		bad("its proof is about another identifier, account or method")
	}
}
