package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/ca"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Limits of a revocation by query.
const (
	// confirmAbove is how many certificates may be revoked without "confirm".
	confirmAbove = 10
	// maxBulk is how many certificates one call may revoke. A query that fits
	// more is refused before anything is done.
	maxBulk = 10000
	// planSample is how many certificates a plan shows.
	planSample = 20
	// bulkTime leaves the answer a chance before the connection's time is up.
	bulkTime = 45 * time.Second
)

func (s *Server) revocations() {
	tag := []string{"Certificates"}
	register(s, huma.Operation{OperationID: "revoke-certificate", Method: http.MethodPost, Path: "/certs/{id}/revoke", Tags: tag,
		Summary: "Revoke one certificate, for ever"}, s.revokeCertificate)
	register(s, huma.Operation{OperationID: "revoke-certificates", Method: http.MethodPost, Path: "/certs/revoke", Tags: tag,
		Summary:     "Plan or do the revocation of every issued certificate that fits a query",
		Description: "Call it with dry_run first; then again with the plan that it returned, so that exactly those certificates are revoked. More than 10 need confirm, more than 10000 are refused: make an incident of those."}, s.revokeCertificates)
}

// reasonText says which reasons there are.
const reasonText = "unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn, or its number"

// parseReason reads a reason by its name in RFC 5280 or its number.
func parseReason(text string) (pki.Reason, error) {
	if code, err := strconv.Atoi(text); err == nil {
		return ca.CheckReason(code)
	}
	for r := pki.Unspecified; r <= pki.AACompromise; r++ {
		if r.Valid() && strings.EqualFold(r.String(), text) {
			return ca.CheckReason(int(r))
		}
	}
	return 0, fault.New(fault.BadRevocationReason, "reason %.32q is unknown; use %s", text, reasonText)
}

type revokeInput struct {
	IDInput
	Body struct {
		Reason   string `json:"reason,omitempty" default:"unspecified" maxLength:"32" doc:"unspecified, keyCompromise, affiliationChanged, superseded, cessationOfOperation or privilegeWithdrawn, or its number"`
		BlockKey bool   `json:"block_key,omitempty" doc:"Also refuse its key for ever; with keyCompromise only"`
	}
}

func (s *Server) revokeCertificate(ctx context.Context, in *revokeInput) (*bodyOf[Certificate], error) {
	reason, err := parseReason(in.Body.Reason)
	if err != nil {
		return nil, err
	}
	if in.Body.BlockKey && reason != pki.KeyCompromise {
		return nil, fault.New(fault.Invalid, "block_key goes with the reason keyCompromise only")
	}
	if err := s.mayTouch(ctx, in.ID); err != nil {
		return nil, err
	}
	id, err := s.issuedID(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	c, err := s.cfg.CA.Revoke(ctx, ca.Revocation{CertificateID: id, Reason: reason, Actor: actorOf(ctx), BlockKey: in.Body.BlockKey})
	if err != nil {
		return nil, err
	}
	s.revoked(ca.Changed{ID: c.ID, AuthorityID: c.AuthorityID, Serial: c.Serial, Shard: c.Shard, IssuedAt: c.IssuedAt, NotAfter: c.NotAfter,
		RevokedAt: c.RevokedAt, Reason: c.Reason})
	return &bodyOf[Certificate]{viewCertificate(c, now())}, nil
}

// issuedID returns the id that the books of the CA have for a certificate: the
// inventory has another one when the renewal engine told it of the certificate
// before the journal did.
func (s *Server) issuedID(ctx context.Context, ref string) (string, error) {
	_, err := ca.Get(ctx, s.cfg.DB.Read(), ref)
	if !fault.Is(err, fault.NotFound) {
		return ref, err
	}
	known, inventoryErr := s.cfg.Inventory.Get(ctx, ref)
	if fault.Is(inventoryErr, fault.NotFound) || fault.Is(inventoryErr, fault.Invalid) {
		return "", err
	}
	if inventoryErr != nil {
		return "", inventoryErr
	}
	c, err := s.issuedRow(ctx, &known.Certificate)
	if err != nil {
		return "", err
	}
	if c == nil {
		return "", fault.New(fault.NotFound, "certificate %.80q was not issued by an authority of this installation: ask its own CA to revoke it", ref)
	}
	return c.ID, nil
}

// revoked tells the rest of the process about new revocations.
func (s *Server) revoked(done ...ca.Changed) {
	if s.cfg.Revoked != nil && len(done) > 0 {
		s.cfg.Revoked(done)
	}
	s.changed()
}

type bulkRevokeInput struct {
	Body struct {
		Query   string `json:"q" minLength:"1" maxLength:"1024" doc:"Which certificates, as in list-certificates"`
		Reason  string `json:"reason,omitempty" default:"unspecified" maxLength:"32" doc:"As in revoke-certificate"`
		DryRun  bool   `json:"dry_run,omitempty" doc:"Only say what would be done"`
		Confirm bool   `json:"confirm,omitempty" doc:"Needed for more than 10 certificates"`
		Plan    string `json:"plan,omitempty" maxLength:"64" doc:"plan of a dry run: refuse if other certificates fit by now"`
	}
}

// Revocation is the plan and the outcome of a revocation by query.
type Revocation struct {
	Plan    string        `json:"plan" doc:"Names exactly the certificates that fit"`
	Matched int           `json:"matched" doc:"Issued, unexpired, unrevoked certificates that fit"`
	Sample  []Certificate `json:"sample" nullable:"false" doc:"The first 20 of them"`
	DryRun  bool          `json:"dry_run"`
	Revoked int           `json:"revoked"`
	Already int           `json:"already" doc:"Revoked by somebody else meanwhile"`
	Left    int           `json:"left" doc:"Not revoked yet; the same call again takes them up"`
	Problem string        `json:"problem,omitempty" doc:"Why some are left"`
}

func (s *Server) revokeCertificates(ctx context.Context, in *bulkRevokeInput) (*bodyOf[Revocation], error) {
	reason, err := parseReason(in.Body.Reason)
	if err != nil {
		return nil, err
	}
	found, err := s.revocable(ctx, in.Body.Query)
	if err != nil {
		return nil, err
	}
	out := Revocation{Plan: ca.DigestOf(found), Matched: len(found), DryRun: in.Body.DryRun, Sample: []Certificate{}}
	for i := range found[:min(len(found), planSample)] {
		out.Sample = append(out.Sample, viewCertificate(&found[i], now()))
	}
	if in.Body.DryRun {
		return &bodyOf[Revocation]{out}, nil
	}
	if in.Body.Plan != "" && in.Body.Plan != out.Plan {
		return nil, fault.New(fault.Conflict, "other certificates fit than when the plan was made (now %d); look at a new plan with dry_run", len(found))
	}
	if len(found) > confirmAbove && !in.Body.Confirm {
		return nil, fault.New(fault.Precondition, "this revokes %d certificates, more than %d; look at the plan with dry_run, then send confirm", len(found), confirmAbove)
	}
	s.revokeAll(ctx, found, reason, &out)
	return &bodyOf[Revocation]{out}, nil
}

// revocable returns the certificates that fit and can be revoked.
func (s *Server) revocable(ctx context.Context, text string) ([]ca.Certificate, error) {
	at := now()
	query, err := ca.ParseQuery(text, at)
	if err != nil {
		return nil, err
	}
	var found []ca.Certificate
	for after := ""; ; {
		page, err := ca.Find(ctx, s.cfg.DB.Read(), query, after, maxPage)
		if err != nil {
			return nil, err
		}
		for _, c := range page.Certificates {
			if c.Status(at) == ca.StatusIssued {
				found = append(found, c)
			}
		}
		if len(found) > maxBulk {
			return nil, fault.New(fault.Precondition, "more than %d certificates fit; make it an incident (POST /incidents, or certs revoke --incident), or narrow the query by ca:, profile: or issued:", maxBulk)
		}
		if after = page.Next; after == "" {
			return found, nil
		}
	}
}

// revokeAll revokes what was found, in the journal's batches, and wakes whoever
// must know once.
func (s *Server) revokeAll(ctx context.Context, found []ca.Certificate, reason pki.Reason, out *Revocation) {
	ctx, cancel := context.WithTimeout(ctx, bulkTime)
	defer cancel()
	ids := make([]string, len(found))
	for i := range found {
		ids[i] = found[i].ID
	}
	done, err := s.cfg.CA.RevokeMany(ctx, ids, ca.Revocation{Reason: reason, Actor: actorOf(ctx)})
	s.revoked(done...)
	out.Revoked = len(done)
	if err == nil { // every chunk was looked at: what is missing was revoked before
		out.Already = len(found) - len(done)
		return
	}
	out.Left = len(found) - len(done)
	out.Problem = "the time of one call was up"
	if ctx.Err() == nil {
		s.log.ErrorContext(ctx, "bulk revocation not finished", "revoked", out.Revoked, "left", out.Left, "error", err)
		out.Problem = fault.As(err).Detail
	}
}
