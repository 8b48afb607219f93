package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/acme/mailreply"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// Mail sends the messages of email-reply-00 (RFC 8823).
type Mail struct {
	// Address is the mailbox that messages are from and replies go to.
	Address string

	// Send hands a message to a mail server.
	Send func(ctx context.Context, to string, message []byte) error

	// Final reports whether an error of Send will stay, so that trying again is
	// of no use.
	Final func(err error) bool
}

// mailed is a row of acme_mail: the message of one challenge, and its reply.
type mailed struct {
	authzID, address, part1, messageID string

	attempts int
	problem  string // why it will never arrive, or ""
	reply    string // digest, or ""
	answered bool   // the client has said that it replied
}

const (
	mailBatch  = 16              // messages that one tick sends
	mailAtOnce = 8               // of these, at the same time
	mailLease  = 2 * time.Minute // after which another replica may try
	mailTries  = 8
	mailRetry  = 15 * time.Second // doubled with each failure
	mailTime   = 30 * time.Second // of one attempt
)

const mailColumns = `authz_id, address, part1, message_id, attempts, error, reply, answered`

var (
	qInsertMail = db.SQL("acme.insert_mail", `INSERT INTO acme_mail (authz_id, address, part1, message_id, attempts, answered, created_at, due_at, lease_until, lease_token)
		VALUES ($1, $2, $3, $4, 0, 0, $5, $5, 0, '')`)
	qMail      = db.SQL("acme.get_mail", `SELECT `+mailColumns+` FROM acme_mail WHERE authz_id = $1`)
	qMailPart1 = db.SQL("acme.get_mail_by_token", `SELECT `+mailColumns+` FROM acme_mail WHERE part1 = $1`)
	qClaimMail = db.SQL("acme.claim_mail", `UPDATE acme_mail SET lease_until = $2, lease_token = $3
		WHERE authz_id IN (SELECT authz_id FROM acme_mail WHERE due_at IS NOT NULL AND due_at <= $1 AND lease_until <= $1
			ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED) RETURNING `+mailColumns)
	qSettleMail = db.SQL("acme.settle_mail", `UPDATE acme_mail SET due_at = $3, attempts = attempts + 1, error = $4, lease_until = 0
		WHERE authz_id = $1 AND lease_token = $2`)
	qReplied    = db.SQL("acme.store_mail_reply", `UPDATE acme_mail SET reply = $2, due_at = NULL WHERE authz_id = $1 AND reply IS NULL`)
	qAnswered   = db.SQL("acme.note_mail_answer", `UPDATE acme_mail SET answered = 1 WHERE authz_id = $1`)
	qExpireMail = db.SQL("acme.delete_mail", `DELETE FROM acme_mail WHERE authz_id IN
		(SELECT authz_id FROM acme_mail WHERE created_at < $1 ORDER BY created_at LIMIT $2)`)
)

func scanMail(r *db.Row) mailed {
	m := mailed{authzID: r.Text(), address: r.Text(), part1: r.Text(), messageID: r.Text()}
	m.attempts, m.problem, m.reply, m.answered = r.Int(), r.Text(), r.Text(), r.Bool()
	return m
}

// newPart1 returns 144 random bits in base64url: a multiple of three octets, so
// that the two parts of a token can be joined as text or as octets.
func newPart1() string {
	var b [18]byte
	rand.Read(b[:]) // never fails; see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// mails are the messages that one address gets in a day, whoever asks for them.
func mails() limit.Rate { return limit.Rate{Count: 10, Per: day} }

// mayMail charges for a message to each mailbox among new authorizations.
func (s *Server) mayMail(fresh []Authorization, now time.Time) error {
	for i := range fresh {
		if fresh[i].part1 == "" {
			continue
		}
		if err := charges(now, with(nil, s.mailed, fresh[i].Identifier.Value, 1)); err != nil {
			return err
		}
	}
	return nil
}

// announce adds the message of z to the transaction that stores z.
func (z *Authorization) announce(tx *db.Tx) {
	if z.part1 != "" {
		tx.Queue(qInsertMail, nil, z.ID, z.Identifier.Value, z.part1, "<"+z.ID+"."+z.part1[:8]+"@"+z.mailDomain+">", z.CreatedAt)
	}
}

// SendMail sends what is due of the messages of email-reply-00. It returns what
// it did. Any number of replicas may run it.
func (s *Server) SendMail(ctx context.Context, now time.Time) (loop.Count, error) {
	if s.cfg.Mail == nil {
		return loop.Count{Backlog: -1}, nil
	}
	token := db.NewID(now)
	var due []mailed
	err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
		due, err = db.List(ctx, tx, qClaimMail, scanMail, now, now.Add(mailLease), token, mailBatch)
		return err
	})
	if err != nil {
		return loop.Count{Backlog: -1}, wrap("claim messages", err)
	}
	count, err := loop.Each(due, mailAtOnce, func(v *mailed) error { return s.sendOne(ctx, v, token, now) })
	count.Backlog, count.More = -1, len(due) == mailBatch
	return count, err
}

// sendOne sends one message and writes down what became of it.
func (s *Server) sendOne(ctx context.Context, v *mailed, token string, now time.Time) error {
	limited, cancel := context.WithTimeout(ctx, mailTime)
	defer cancel()
	m := mailreply.Challenge{From: s.cfg.Mail.Address, To: v.address, Part1: v.part1, MessageID: v.messageID, At: now}
	failed := s.cfg.Mail.Send(limited, v.address, m.Compose())
	var next time.Time
	var problem *string
	switch {
	case failed == nil:
	case s.cfg.Mail.Final(failed) || v.attempts+1 >= mailTries:
		problem = new("the message with the first part of the token could not be delivered")
		s.log.WarnContext(ctx, "challenge message not delivered", "authorization", v.authzID, "error", failed)
	default:
		next = now.Add(mailRetry << v.attempts)
		s.log.InfoContext(ctx, "challenge message is tried again", "authorization", v.authzID, "at", next, "error", failed)
	}
	return s.db.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		tx.Queue(qSettleMail, nil, v.authzID, token, next, problem)
		return nil
	})
}

// MailReply takes a reply whose signature verified. If its challenge has been
// answered already, it is validated now. Errors below 500 mean that the reply
// belongs to no challenge.
func (s *Server) MailReply(ctx context.Context, r *mailreply.Reply) error {
	v, err := db.Get(ctx, s.db.Read(), qMailPart1, scanMail, r.Part1)
	unknown := fault.New(fault.IncorrectResponse, "there is no challenge for %s that this answers", r.From.Value)
	if errors.Is(err, db.ErrNotFound) {
		return unknown
	}
	if err != nil {
		return wrap("find challenge of reply", err)
	}
	if v.address != r.From.Value || !slices.Contains(r.InReplyTo, v.messageID) || v.reply != "" {
		return unknown
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qReplied, db.ExactlyOne(unknown), v.authzID, r.Digest)
		return nil
	})
	if err != nil {
		return wrap("store reply", err)
	}
	// The client may have answered meanwhile: it writes first and reads then, too.
	if v, err = db.Get(ctx, s.db.Read(), qMail, scanMail, v.authzID); err != nil || !v.answered {
		return wrap("read challenge of reply", err)
	}
	return s.judgeMail(ctx, v.authzID)
}

// judgeMail starts the validation of a challenge that was answered before its
// reply came.
func (s *Server) judgeMail(ctx context.Context, authzID string) error {
	z, err := GetAuthorization(ctx, s.db.Read(), authzID)
	if err != nil {
		return err
	}
	a, i := s.cas[z.CA], z.find(challenge.EmailReply00)
	if a == nil || i < 0 || z.StateAt(time.Now()) != acme.AuthorizationPending {
		return nil
	}
	acct, err := s.account(ctx, z.AccountID, time.Now())
	if err != nil || acct == nil {
		return err
	}
	_, err = s.begin(ctx, time.Now(), &trial{ca: a, authz: z, index: i, thumbprint: acct.Thumbprint})
	return err
}

// answerMail notes that the client has answered a challenge. ready is false
// while its reply has not come.
func (s *Server) answerMail(ctx context.Context, authzID string) (ready bool, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qAnswered, nil, authzID)
		return nil
	})
	if err != nil {
		return false, wrap("note answer", err)
	}
	v, err := db.Get(ctx, s.db.Read(), qMail, scanMail, authzID)
	return v.reply != "" || v.problem != "", wrap("read message", err)
}

// replyOf returns what the validator of a trial by email-reply-00 needs, and
// puts the whole token into req.
func (s *Server) replyOf(ctx context.Context, t *trial, req *challenge.Request) error {
	v, err := db.Get(ctx, s.db.Read(), qMail, scanMail, t.authz.ID)
	if err != nil {
		return wrap("read message", err)
	}
	if v.problem != "" {
		return fault.New(fault.Connection, "%s: %s", v.address, v.problem)
	}
	req.Token = v.part1 + t.challenge().Token
	req.KeyAuthorization = acme.KeyAuthorization(req.Token, t.thumbprint)
	req.Reply = &challenge.MailReply{Digest: v.reply}
	return nil
}

// domainOf returns what follows the @ of an address.
func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

// person reports whether id names a mailbox or telephone numbers, which share
// their certificate with no host.
func person(id pki.Identifier) bool { return id.Type == pki.Email || id.Type == pki.TNAuthList }
