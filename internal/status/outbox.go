package status

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/db"
	"chancery/internal/loop"
)

// sink is where something outside must be told that status has changed.
type sink string

const (
	sinkPurge  sink = "purge"  // a hook in front of caches
	sinkBucket sink = "bucket" // an S3-compatible bucket
)

// The outbox is written in the transaction of the change it stands for. Several
// changes of one target before a delivery are one: what is delivered is always
// the present state. number tells a delivery whether another change came while
// it was under way.
var (
	qOutboxPut = db.SQL("status.put_outbox", `INSERT INTO status_outbox (sink, target, number, since, due_at, attempts)
		VALUES ($1, $2, 1, $3, $3, 0) ON CONFLICT (sink, target) DO UPDATE SET number = status_outbox.number + 1`)
	qOutboxClaim = db.SQL("status.claim_outbox", `UPDATE status_outbox SET due_at = $3
		WHERE sink = $1 AND target IN (SELECT target FROM status_outbox WHERE sink = $1 AND due_at <= $2
			ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED)
		RETURNING target, number, attempts`)
	qOutboxDone = db.SQL("status.delete_outbox", `DELETE FROM status_outbox WHERE sink = $1 AND target = $2 AND number = $3`)
	// A change came meanwhile: it is delivered next.
	qOutboxAgain = db.SQL("status.renew_outbox", `UPDATE status_outbox SET since = $3, due_at = $3, attempts = 0, error = NULL WHERE sink = $1 AND target = $2`)
	qOutboxRetry = db.SQL("status.retry_outbox", `UPDATE status_outbox SET attempts = attempts + 1, due_at = $3, error = $4 WHERE sink = $1 AND target = $2`)
	qOutboxAge   = db.SQL("status.get_outbox_age", `SELECT COALESCE(min(since), 0) FROM status_outbox WHERE sink = $1`)
)

const (
	outboxBatch = 200
	// outboxLease is how long one delivery may take before another replica
	// tries.
	outboxLease = 2 * time.Minute
)

// outboxBackoff spaces the tries of one target.
var outboxBackoff = loop.Backoff{Base: 2 * time.Second, Max: 10 * time.Minute}

// letter is one target that is to be delivered.
type letter struct {
	target   string
	number   int64
	attempts int
}

// put enters a change of a target for each configured sink.
func (s *Service) put(tx *db.Tx, target string, now time.Time, sinks ...sink) {
	for _, k := range sinks {
		if s.outside[k] != nil {
			tx.Queue(qOutboxPut, nil, k, target, now)
		}
	}
}

// deliver is one tick of the loop of a sink: it claims what is due and hands it
// to the sink, which returns an error for each letter (nil: delivered) or one
// for all.
func (s *Service) deliver(k sink) loop.Tick {
	return func(ctx context.Context) (n loop.Count, err error) {
		started := s.now()
		var due []letter
		err = s.db.Write(ctx, func(tx *db.Tx) (err error) {
			due, err = db.List(ctx, tx, qOutboxClaim, func(r *db.Row) letter { return letter{r.Text(), r.Int64(), r.Int()} },
				k, started, started.Add(outboxLease), outboxBatch)
			return err
		})
		if err != nil || len(due) == 0 {
			return n, errors.Join(err, s.measureOutbox(ctx, k))
		}
		n.Claimed, n.More = len(due), len(due) == outboxBatch
		results := s.outside[k](ctx, due)
		if err := s.settle(ctx, k, due, results, started); err != nil {
			return n, err
		}
		for _, err := range results {
			if err != nil {
				n.Failed++
				n.More = false
			}
		}
		n.Done = n.Claimed - n.Failed
		return n, errors.Join(s.measureOutbox(ctx, k))
	}
}

// settle records the outcome of deliveries.
func (s *Service) settle(ctx context.Context, k sink, due []letter, results []error, started time.Time) error {
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		for i, l := range due {
			if results[i] != nil {
				s.log.WarnContext(ctx, "status not delivered", "sink", string(k), "target", l.target, "attempts", l.attempts+1, "error", results[i].Error())
				tx.Queue(qOutboxRetry, nil, k, l.target, s.now().Add(outboxBackoff.Delay(l.attempts)), results[i].Error())
				continue
			}
			gone, err := tx.Exec(ctx, qOutboxDone, k, l.target, l.number)
			if err != nil {
				return err
			}
			if gone == 0 {
				tx.Queue(qOutboxAgain, nil, k, l.target, started)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record deliveries to %s: %w", k, err)
	}
	return nil
}

// measureOutbox sets the age of the oldest change that was not delivered.
func (s *Service) measureOutbox(ctx context.Context, k sink) error {
	since, err := db.Get(ctx, s.db.Read(), qOutboxAge, (*db.Row).Time, k)
	if err != nil {
		return fmt.Errorf("measure outbox: %w", err)
	}
	if since.IsZero() {
		s.metrics.undelivered[k].Store(0)
	} else {
		s.metrics.undelivered[k].Store(since.Unix())
	}
	return nil
}
