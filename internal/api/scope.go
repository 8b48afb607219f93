package api

import (
	"context"
	"strings"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/renew"
	"chancery/internal/token"
)

// A sign-in may be limited to a part of the estate: some owners, authorities or
// profiles. Whoever has one sees and changes that part alone. What lies outside
// is answered as if it were not there; what cannot be held against the limit is
// refused by the access table.

// limited returns the caller's scope, and whether it is a part of the estate.
func limited(ctx context.Context) (token.Scope, bool) {
	scope := callerOf(ctx).scope
	return scope, !scope.Whole()
}

// outside is the answer about a thing that is not within the caller's scope,
// and about one that does not exist.
func outside(what, ref string) error {
	return fault.New(fault.NotFound, "there is no %s %.80q within what your sign-in is limited to", what, ref)
}

// narrow limits a question to the inventory to the caller's owners. Whoever is
// limited to anything else is refused by the access table.
func (s *Server) narrow(ctx context.Context, f *inventory.Filter) error {
	scope, is := limited(ctx)
	if !is {
		return nil
	}
	owners, err := s.cfg.Inventory.Owners(ctx)
	if err != nil {
		return err
	}
	f.Within = []string{}
	for _, owner := range owners {
		if scope.Covers(owner, "", "") {
			f.Within = append(f.Within, owner)
		}
	}
	return nil
}

// mayTouch holds a certificate of the inventory, or one that was issued here,
// against the caller's scope.
func (s *Server) mayTouch(ctx context.Context, id string) error {
	if _, is := limited(ctx); !is {
		return nil
	}
	_, err := s.getCertificate(ctx, &IDInput{ID: id})
	return err
}

// shows holds a certificate against the caller's scope.
func shows(ctx context.Context, ref string, v *KnownDetail) error {
	scope, is := limited(ctx)
	if !is {
		return nil
	}
	authority, profile := "", ""
	if v.Issuance != nil {
		authority, profile = v.Issuance.CA, v.Issuance.Profile
	}
	if !scope.Covers(v.Owner, authority, profile) {
		return outside("certificate", ref)
	}
	return nil
}

// covered returns the certificates of a page that lie within the caller's
// scope. Who an issued certificate belongs to is the inventory's to say, so the
// access table lets no scope of owners come here.
func covered(ctx context.Context, page []ca.Certificate) []ca.Certificate {
	scope, is := limited(ctx)
	if !is {
		return page
	}
	kept := page[:0]
	for _, c := range page {
		if scope.Covers("", c.CA, c.Profile) {
			kept = append(kept, c)
		}
	}
	return kept
}

// managedWithin reads a managed certificate that lies within the caller's
// scope. Its issuer may be anybody's CA, so no scope of authorities covers it.
func (s *Server) managedWithin(ctx context.Context, ref string) (renew.Managed, error) {
	m, err := renew.Get(ctx, s.cfg.DB.Read(), ref)
	scope, is := limited(ctx)
	if is && (fault.Is(err, fault.NotFound) || err == nil && !scope.Covers(m.Owner, "", m.Profile)) {
		return m, outside("managed certificate", ref)
	}
	return m, err
}

// managedLooks is how many pages of managed certificates one page of a limited
// caller may take.
const managedLooks = 20

// listWithin lists the managed certificates within the caller's scope: at most
// limit, and whether there may be more behind the last that was looked at.
func (s *Server) listWithin(ctx context.Context, q renew.ListQuery, limit int) (ms []renew.Managed, next string, err error) {
	scope, _ := limited(ctx)
	if len(scope.Owners) == 1 && len(scope.CAs)+len(scope.Profiles) == 0 && !strings.ContainsAny(scope.Owners[0], `*?[\`) && !q.Trouble && q.Issuer == "" {
		q.Owner = scope.Owners[0]
	}
	q.Limit = maxPage
	for range managedLooks {
		page, err := renew.List(ctx, s.cfg.DB.Read(), q)
		if err != nil {
			return nil, "", err
		}
		for i := range page {
			q.After = page[i].ID
			if !scope.Covers(page[i].Owner, "", page[i].Profile) {
				continue
			}
			if ms = append(ms, page[i]); len(ms) == limit {
				return ms, q.After, nil
			}
		}
		if len(page) < maxPage {
			return ms, "", nil
		}
	}
	return ms, q.After, nil
}
