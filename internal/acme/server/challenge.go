package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/perspective"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/obs"
)

var (
	qProve = db.SQL("acme.prove_authorization", `UPDATE acme_authz SET state = 'valid', challenges = $2, method = $3, proof = $4, caa = $5,
			validated_at = $6, expires_at = $7
		WHERE id = $1 AND state = 'pending' AND expires_at > $6
			AND EXISTS (SELECT 1 FROM acme_account WHERE id = $8 AND state = 'valid')`)
	qCountProof = db.SQL("acme.count_authorization", `UPDATE acme_order SET authz_pending = authz_pending - 1,
			state = CASE WHEN authz_pending = 1 THEN 'ready' ELSE state END
		WHERE id = $1 AND state = 'pending' AND authz_pending > 0`)
	qFailAuthz = db.SQL("acme.fail_authorization", `UPDATE acme_authz SET state = 'invalid', challenges = $2 WHERE id = $1 AND state = 'pending'`)
	qFailOrder = db.SQL("acme.fail_order", `UPDATE acme_order SET state = 'invalid', error = $2 WHERE id = $1 AND state IN ('pending', 'ready')`)
)

// validation is one run of a challenge. result and err may be read once done
// is closed.
type validation struct {
	done   chan struct{}
	result Challenge
	err    error // it could not be decided: the challenge is pending still
}

// trial is what a validation is about.
type trial struct {
	ca         *authority
	authz      Authorization
	index      int // of the challenge
	thumbprint string

	attestation []byte // device-attest-01: the response
	token       string // tkauth-01: the response

	ctx context.Context // that of the server, with the trace of the request that began it

	record *perspective.Record // what remote perspectives said, once prove is done; nil if nobody was asked
}

func (t *trial) challenge() *Challenge { return &t.authz.Challenges[t.index] }

// find returns the index of the challenge of a type, or -1.
func (z *Authorization) find(t challenge.Type) int {
	for i := range z.Challenges {
		if z.Challenges[i].Type == t {
			return i
		}
	}
	return -1
}

// running returns the type of the challenge of z that is being validated by
// this process, or "".
func (s *Server) running(z *Authorization) challenge.Type {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range z.Challenges {
		if s.validating[z.ID+"/"+string(z.Challenges[i].Type)] != nil {
			return z.Challenges[i].Type
		}
	}
	return ""
}

// postChallenge answers POST to a challenge (RFC 8555 section 7.5.1). A
// response starts the validation, or joins one that runs, and the answer waits
// for its result for a while, so that the client need not poll.
func (s *Server) postChallenge(m *message) (*httpd.Reply, error) {
	z, err := s.authz(m, m.PathValue("authz"))
	if err != nil {
		return nil, err
	}
	i := z.find(challenge.Type(m.PathValue("type")))
	if i < 0 {
		return nil, noSuch("challenge")
	}
	m.link(m.ca.authzURL(z.ID), "up")
	c, running := z.Challenges[i], challenge.Type("")
	switch {
	case m.jws.PostAsGet():
		running = s.running(&z)
	case z.StateAt(m.now) == acme.AuthorizationExpired:
		return nil, fault.New(fault.Malformed, "the authorization has expired; make a new order")
	default:
		resp, err := acme.Decode[acme.ChallengeResponse](m.jws.Payload)
		if err != nil {
			return nil, err
		}
		if z.State == acme.AuthorizationPending && c.State == acme.ChallengePending {
			if c, running, err = s.respond(m, z, i, resp); err != nil {
				return nil, err
			}
		}
	}
	o := c.object(m.ca, &z, running)
	r := object(m.Request, http.StatusOK, &o)
	if o.Status == acme.ChallengeProcessing {
		r.RetryAfter = time.Second
	}
	return r, nil
}

// respond validates and waits. running is not "" when the result is not known yet.
func (s *Server) respond(m *message, z Authorization, i int, resp acme.ChallengeResponse) (c Challenge, running challenge.Type, err error) {
	c = z.Challenges[i]
	t := &trial{ca: m.ca, authz: z, index: i, thumbprint: m.key.Thumbprint}
	if c.Type == challenge.DeviceAttest01 {
		if t.attestation, err = attestation(resp); err != nil {
			return c, "", err
		}
	}
	if c.Type == challenge.TKAuth01 {
		if t.token, err = authorityToken(resp); err != nil {
			return c, "", err
		}
	}
	if c.Type == challenge.EmailReply00 {
		if ready, err := s.answerMail(m.ctx, z.ID); !ready || err != nil {
			return c, c.Type, err
		}
	}
	v, err := s.begin(m.ctx, m.now, t)
	if err != nil {
		return c, "", err
	}
	if s.cfg.ChallengeWait < 0 {
		return c, c.Type, nil
	}
	done, idle := s.gate.wait(m.ctx, v.done, s.cfg.ChallengeWait)
	if m.idle = idle; done {
		return v.result, "", v.err
	}
	return c, c.Type, nil
}

// begin starts a validation, or returns the one that runs.
func (s *Server) begin(ctx context.Context, now time.Time, t *trial) (*validation, error) {
	key := t.authz.ID + "/" + string(t.challenge().Type)
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.validating[key]; v != nil {
		return v, nil
	}
	if err := s.limits.failure(t.authz.AccountID, t.authz.Identifier, now); err != nil {
		return nil, err
	}
	t.ctx = obs.Carry(ctx, s.ctx) // the validation outlives the request
	v := &validation{done: make(chan struct{})}
	err := s.pool.TrySubmit(t.authz.AccountID, func() {
		defer func() {
			s.mu.Lock()
			delete(s.validating, key)
			s.mu.Unlock()
			close(v.done)
		}()
		v.err = errInterrupted // stays if the validator panics
		v.result, v.err = s.validate(t)
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "too many validations are waiting; nothing was tried, try again").Retry(2 * time.Second)
	}
	s.validating[key] = v
	return v, nil
}

var errInterrupted = fault.New(fault.Unavailable, "the validation was interrupted; try again").Retry(time.Second)

// settleTimeout bounds the write of a result, after however long it took.
const settleTimeout = 10 * time.Second

// validate runs a trial to its end and stores the result.
func (s *Server) validate(t *trial) (c Challenge, err error) {
	start := time.Now()
	fault.Point("acme.before_validation")
	traced, span := obs.Step(t.ctx, "acme.validate")
	span.Str("acme.challenge", string(t.challenge().Type))
	limit, cancel := context.WithTimeout(traced, s.cfg.ValidationTimeout)
	defer cancel()
	proof, caa, err := s.prove(limit, t)
	measure(s.ops.validate, start, err)
	span.End(err)
	c = *t.challenge()
	if s.ctx.Err() != nil {
		return c, errInterrupted
	}
	ctx, done := context.WithTimeout(t.ctx, settleTimeout)
	defer done()
	now := time.Now()
	switch f := fault.As(err); {
	case f == nil:
		c.State, c.Validated = acme.ChallengeValid, proof.At()
		if err = s.settleValid(ctx, t, c, proof, caa, now); errors.Is(err, errSpent) {
			c.State, c.Validated, c.Error = acme.ChallengeInvalid, now, acme.NewProblem(errSpent)
			err = s.settleInvalid(ctx, t, c, errSpent)
		}
	case f.Status() >= http.StatusInternalServerError:
		s.keepRecord(t.authz.ID, t.authz.Identifier, c.Type, t.record, t.actor())
		s.log.Error("validation failed on our side", "authorization", t.authz.ID, "type", string(c.Type), "error", err)
		return c, err
	default:
		s.log.Info("validation refused", "authorization", t.authz.ID, "type", string(c.Type),
			"identifier", t.authz.Identifier.Value, "error", err.Error(), "steps", challenge.StepsOf(err))
		s.limits.failed(t.authz.AccountID, t.authz.Identifier, now)
		c.State, c.Validated, c.Error = acme.ChallengeInvalid, now, acme.NewProblem(f)
		err = s.settleInvalid(ctx, t, c, f)
	}
	if errors.Is(err, errSettled) {
		return s.settled(ctx, t)
	}
	fault.Point("acme.after_validation")
	return c, err
}

// errSettled means that another request or replica settled the authorization.
var errSettled = errors.New("the authorization is settled")

var unsettled = db.ExactlyOne(errSettled)

// settled returns the challenge as somebody else left it.
func (s *Server) settled(ctx context.Context, t *trial) (c Challenge, err error) {
	c = *t.challenge()
	one := s.db.Read().One(ctx, qAuthz, func(r *db.Row) {
		var z Authorization
		if z, err = scanAuthz(r); err == nil {
			if i := z.find(c.Type); i >= 0 {
				c = z.Challenges[i]
			}
		}
	}, t.authz.ID)
	return c, wrap("read settled authorization", errors.Join(one, err))
}

// prove runs the validator and, at the same time, checks CAA: a name that may
// not be issued is refused now, not at the end. Remote perspectives, if there
// are any, look meanwhile, and what was found here counts only with them.
func (s *Server) prove(ctx context.Context, t *trial) (challenge.Proof, challenge.Clearance, error) {
	req, err := s.request(ctx, t)
	if err != nil {
		return challenge.Proof{}, challenge.Clearance{}, err
	}
	type verdict struct {
		clearance challenge.Clearance
		err       error
	}
	method := t.challenge().Type
	if err := s.enoughRemotes(t.ca, t.authz.Identifier, time.Now()); err != nil {
		return challenge.Proof{}, challenge.Clearance{}, err
	}
	round := s.cfg.Perspectives.Ask(ctx, perspective.Question{Method: method, Request: req, Issuers: t.ca.CAAIdentities})
	defer round.Stop()
	caa := make(chan verdict, 1)
	go func() {
		clearance, err := t.ca.CAA.Check(ctx, t.authz.Identifier, method, req.AccountURL)
		caa <- verdict{clearance, err}
	}()
	proof, err := s.cfg.Validators.Validate(ctx, method, req)
	if err != nil {
		return challenge.Proof{}, challenge.Clearance{}, err
	}
	v := <-caa
	if v.err != nil {
		return challenge.Proof{}, challenge.Clearance{}, v.err
	}
	clearance := v.clearance
	proof, clearance, t.record, err = round.Confirm(proof, clearance)
	return proof, clearance, err
}

// request returns what the validator of a trial needs.
func (s *Server) request(ctx context.Context, t *trial) (req challenge.Request, err error) {
	c := t.challenge()
	req = challenge.Request{Identifier: t.authz.Identifier, AccountURL: t.ca.accountURL(t.authz.AccountID), Subdomains: t.authz.Subdomains}
	if c.Type == challenge.DNSPersist01 {
		req.Persist, err = s.persistTerms(ctx, t.ca, t.authz.AccountID, t.thumbprint)
		return req, err
	}
	req.Token, req.KeyAuthorization = c.Token, acme.KeyAuthorization(c.Token, t.thumbprint)
	if c.Type == challenge.DeviceAttest01 {
		req.Device, err = s.device(ctx, t)
	}
	if c.Type == challenge.TKAuth01 {
		req.Authority, err = s.authorityOf(ctx, t)
	}
	if c.Type == challenge.EmailReply00 {
		err = s.replyOf(ctx, t, &req)
	}
	return req, err
}

// settleValid stores a proof, and makes the order ready if it was the last one.
func (s *Server) settleValid(ctx context.Context, t *trial, c Challenge, proof challenge.Proof, caa challenge.Clearance, now time.Time) error {
	z, challenges := &t.authz, t.with(c)
	row := &struct {
		sealed, clearance []byte
		challenges        string
		now, lasts        time.Time
	}{challenges: encodeChallenges(challenges), now: now, lasts: t.ca.lasts(proof, now)}
	var err error
	if row.sealed, err = s.proofs.Seal(proof); err != nil {
		return err
	}
	if row.clearance, err = s.proofs.SealClearance(caa); err != nil {
		return err
	}
	if c.Type == challenge.DNSPersist01 {
		defer s.accounts.forget(z.AccountID) // it learns of its first success
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qProve, unsettled, &z.ID, &row.challenges, (*string)(&t.challenge().Type), &row.sealed, &row.clearance, &row.now, &row.lasts, &z.AccountID)
		spend(tx, proof)
		if t.challenge().Type == challenge.DNSPersist01 {
			tx.Queue(qPersisted, nil, z.AccountID, row.now)
		}
		if z.OrderID != "" {
			tx.Queue(qCountProof, nil, &z.OrderID)
		}
		return t.note(tx)
	})
	if err != nil {
		s.recent.drop(z.AccountID, z.ID)
		return err
	}
	valid := *z
	valid.State, valid.Method, valid.Proof, valid.CAA, valid.Validated, valid.ExpiresAt = acme.AuthorizationValid, c.Type, row.sealed, row.clearance,
		stored(row.now), stored(row.lasts)
	valid.Challenges = challenges
	s.recent.proved(&valid)
	return nil
}

// settleInvalid stores a failure, which ends the order too (RFC 8555 section
// 7.1.6).
func (s *Server) settleInvalid(ctx context.Context, t *trial, c Challenge, why *fault.Error) error {
	text := encodeChallenges(t.with(c))
	z := &t.authz
	defer s.recent.drop(z.AccountID, z.ID)
	id := z.Identifier
	problem := problemText(fault.New(why.Code, "%s", why.Detail).
		WithSub(fault.Sub{Code: why.Code, Detail: why.Detail, IdentifierType: string(id.Type), IdentifierValue: id.Value}))
	return s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qFailAuthz, unsettled, z.ID, text)
		if z.OrderID != "" {
			tx.Queue(qFailOrder, nil, z.OrderID, problem)
		}
		return t.note(tx)
	})
}

// with returns the challenges of the trial with c in its place.
func (t *trial) with(c Challenge) []Challenge {
	list := slices.Clone(t.authz.Challenges)
	list[t.index] = c
	return list
}
