package pass

import (
	"context"
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
)

// maxAttempts is how often a shard may be given up half way before its pass
// fails: a shard that brings every scanner down must not go around for ever. A
// scan that ended, and whose results were lost on their way, is not counted.
const maxAttempts = 10

// Shard is a part of a pass in the hands of a scanner.
type shard struct {
	pass    string
	number  int
	targets []scan.Target
	kind    scan.Kind
	token   string
	sent    int // batches
}

var (
	qClaim = db.SQL("pass.claim_shard", `UPDATE scan_shard SET state = 'running', lease_until = $3, lease_token = $4,
			attempts = attempts + CASE WHEN state = 'sent' THEN 0 ELSE 1 END,
			batches = 0, stored = 0, results = 0, refused = 0
		WHERE (pass_id, number) IN (SELECT pass_id, number FROM scan_shard WHERE site = $1 AND state <> 'done' AND lease_until < $2 AND attempts < 10
			ORDER BY lease_until, pass_id, number LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING pass_id, number, targets`)
	// Looked at before the claim, so that an idle scanner writes nothing.
	qWaiting  = db.SQL("pass.find_shard", `SELECT number FROM scan_shard WHERE site = $1 AND state <> 'done' AND lease_until < $2 AND attempts < 10 LIMIT 1`)
	qKind     = db.SQL("pass.get_kind", `SELECT kind FROM scan_pass WHERE id = $1`)
	qForget   = db.SQL("pass.forget_batches", `DELETE FROM scan_batch WHERE pass_id = $1 AND shard = $2`)
	qRenew    = db.SQL("pass.renew_shard", `UPDATE scan_shard SET lease_until = $4 WHERE pass_id = $1 AND number = $2 AND lease_token = $3 AND state = 'running'`)
	qHandBack = db.SQL("pass.release_shard", `UPDATE scan_shard SET state = 'waiting', lease_until = 0, attempts = attempts - 1
		WHERE pass_id = $1 AND number = $2 AND lease_token = $3 AND state = 'running'`)
	qSent = db.SQL("pass.mark_sent", `UPDATE scan_shard SET state = CASE WHEN stored >= $4::bigint THEN 'done' ELSE 'sent' END, batches = $4::bigint, lease_until = $5, summary = $6
		WHERE pass_id = $1 AND number = $2 AND lease_token = $3 AND state = 'running'`)
)

// errLease says that somebody else scans the shard, or nobody needs to.
var errLease = errors.New("the lease of the shard was lost")

// claim takes a shard that is waiting or was given up, or returns nil.
func (s *Service) claim(ctx context.Context, now time.Time) (*shard, error) {
	if _, err := db.Get(ctx, s.cfg.DB.Read(), qWaiting, (*db.Row).Int, s.cfg.Site, now); err != nil {
		if errors.Is(err, db.ErrNotFound) {
			return nil, nil
		}
		return nil, fmt.Errorf("look for a shard: %w", err)
	}
	var found *shard
	var text string
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		found = nil
		token := db.NewID(now)
		err := tx.One(ctx, qClaim, func(r *db.Row) {
			found = &shard{pass: r.Text(), number: r.Int(), token: token}
			text = r.Text()
		}, s.cfg.Site, now, now.Add(s.cfg.Lease), token)
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		tx.Queue(qForget, nil, found.pass, found.number)
		found.kind, err = kindOf(ctx, tx, found.pass)
		return err
	})
	if err != nil || found == nil {
		return nil, err
	}
	targets := scan.NewTargets(scan.TargetConfig{Protocol: probe.TLS})
	if err := targets.Read(strings.NewReader(text)); err != nil {
		return nil, fmt.Errorf("read targets of pass %s, part %d: %w", found.pass, found.number, err)
	}
	found.targets = targets.List()
	return found, nil
}

func kindOf(ctx context.Context, tx *db.Tx, pass string) (kind scan.Kind, err error) {
	err = tx.One(ctx, qKind, func(r *db.Row) { kind = scan.Kind(r.Text()) }, pass)
	return kind, err
}

// work is the tick of a scanner: it scans one shard.
func (s *Service) work(ctx context.Context) (n loop.Count, err error) {
	sh, err := s.claim(ctx, time.Now())
	if err != nil || sh == nil {
		return n, err
	}
	n.Claimed, n.More = 1, true
	if err := s.scan(ctx, sh); err != nil {
		n.Failed = 1
		return n, fmt.Errorf("scan pass %s, part %d: %w", sh.pass, sh.number, err)
	}
	n.Done = 1
	return n, nil
}

// scan scans a shard while it holds the lease.
func (s *Service) scan(ctx context.Context, sh *shard) (err error) {
	ctx, span := obs.Begin(ctx, "scan.shard")
	defer func() { span.End(err) }()
	span.Str("scan.pass", sh.pass)
	span.Int("scan.targets", len(sh.targets))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var renewing sync.WaitGroup
	renewing.Go(func() { s.renew(ctx, sh, cancel) })
	sum, err := s.cfg.Scan(ctx, sh.kind, sh.targets, s.sink(sh))
	cancel(nil)
	renewing.Wait()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errLease):
		return nil // another one is at it, or the pass was cancelled
	case err == nil && sum.Remaining == 0:
		return s.sent(context.WithoutCancel(ctx), sh, &sum)
	}
	// A short time of its own: the context may have ended with the program.
	back, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if e := s.handBack(back, sh); e != nil {
		err = errors.Join(err, e)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// handBack lets another scanner begin at once.
func (s *Service) handBack(ctx context.Context, sh *shard) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, qHandBack, sh.pass, sh.number, sh.token)
		return err
	})
}

// renew extends the lease until ctx ends, and cancels the scan when it is lost.
// A database that is away is no loss: nobody else gets the lease then.
func (s *Service) renew(ctx context.Context, sh *shard, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(s.cfg.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		n := int64(0)
		err := s.cfg.DB.Write(ctx, func(tx *db.Tx) (err error) {
			n, err = tx.Exec(ctx, qRenew, sh.pass, sh.number, sh.token, time.Now().Add(s.cfg.Lease))
			return err
		})
		if err == nil && n == 0 {
			cancel(errLease)
			return
		}
	}
}

// envelope is a batch on the bus. Batch is what scan.Encode wrote.
type envelope struct {
	Pass   string         `json:"pass"`
	Shard  int            `json:"shard"`
	Token  string         `json:"token"`
	Number int            `json:"number"`
	Batch  jsontext.Value `json:"batch"`
}

// sink publishes batches. A full stream, and a bus that is away, are errors
// with RetryAfter: the scanner slows down and comes again with the batch.
func (s *Service) sink(sh *shard) scan.Sink {
	var rest [][]byte // of a batch that was refused half way
	return func(ctx context.Context, results []scan.Result) (err error) {
		if rest == nil {
			if rest, err = scan.Encode(sh.kind, results); err != nil {
				return err
			}
		}
		for len(rest) > 0 {
			text, err := json.Marshal(envelope{sh.pass, sh.number, sh.token, sh.sent, rest[0]})
			if err != nil {
				return fmt.Errorf("encode batch: %w", err)
			}
			id := fmt.Sprintf("%s.%d.%s.%d", sh.pass, sh.number, sh.token, sh.sent)
			if err := s.cfg.Bus.Publish(ctx, Stream, id, text); err != nil {
				s.m.slowed.Inc()
				return err
			}
			sh.sent++
			rest = rest[1:]
		}
		rest = nil
		s.m.published(results)
		return nil
	}
}

// sent records that a shard is scanned. It tries until the database takes it,
// for as long as a lease: after that somebody scans the shard again.
func (s *Service) sent(ctx context.Context, sh *shard, sum *scan.Summary) error {
	part := shardSummary(sum)
	text, err := json.Marshal(part)
	if err != nil {
		return fmt.Errorf("encode summary: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Lease)
	defer cancel()
	for failures := 0; ; failures++ {
		err = s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
			_, err := tx.Exec(ctx, qSent, sh.pass, sh.number, sh.token, sh.sent, time.Now().Add(s.cfg.StoreLease), string(text))
			return err
		})
		if err == nil || !fault.Is(err, fault.Unavailable) {
			return err
		}
		if e := retry.Sleep(ctx, failures); e != nil {
			return err
		}
	}
}

// retry spaces attempts to reach the database.
var retry = loop.Backoff{Base: 100 * time.Millisecond, Max: 2 * time.Second}
