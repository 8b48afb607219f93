package pass

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"time"

	"chancery/internal/bus"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/scan"
)

// Consumer is the name of the writer's consumer.
const Consumer = "writer"

var (
	qMark  = db.SQL("pass.insert_batch", `INSERT INTO scan_batch (pass_id, shard, lease_token, number) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`)
	qCount = db.SQL("pass.count_batch", `UPDATE scan_shard SET stored = stored + 1, results = results + $4, refused = refused + $5, lease_until = CASE WHEN lease_until < $6::bigint AND state = 'sent' THEN $6::bigint ELSE lease_until END,
			state = CASE WHEN state = 'sent' AND stored + 1 >= batches THEN 'done' ELSE state END
		WHERE pass_id = $1 AND number = $2 AND lease_token = $3`)
	qToken  = db.SQL("pass.get_token", `SELECT lease_token FROM scan_shard WHERE pass_id = $1 AND number = $2`)
	qUnmark = db.SQL("pass.delete_batch", `DELETE FROM scan_batch WHERE pass_id = $1 AND shard = $2 AND lease_token = $3 AND number = $4`)
)

// Write puts batches from the bus into the inventory until ctx ends.
func (s *Service) Write(ctx context.Context) error {
	c, err := s.cfg.Bus.Consumer(bus.ConsumerConfig{Stream: Stream, Name: Consumer, Workers: s.cfg.Writers, Cap: writerCap, AckWait: 30 * time.Second,
		// The store may be away for long; what is given up is scanned again.
		MaxDeliver: 10000})
	if err != nil {
		return err
	}
	return c.Run(ctx, s.handle)
}

// writerCap is how many batches may be under way to the store in the whole
// fleet: beyond that they wait on the bus, not in memory.
const writerCap = 64

// again is when a batch is tried again that the store could not take.
const again = time.Second

// handle stores one batch.
func (s *Service) handle(ctx context.Context, m bus.Message) error {
	var e envelope
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return bus.Discard(fmt.Errorf("batch does not parse: %w", err))
	}
	// A shard that is scanned again makes what its last scanner sent worthless:
	// storing it all would only delay what counts.
	token, err := db.Get(ctx, s.cfg.DB.Read(), qToken, (*db.Row).Text, e.Pass, e.Shard)
	if err == nil && token != e.Token {
		return nil
	}
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return bus.Later(again, err)
	}
	start := time.Now()
	b, err := scan.Decode(e.Batch)
	var refused []Refusal
	if err == nil {
		refused, err = s.Store(ctx, &b)
	}
	lost := len(refused)
	if f, bad := errors.AsType[*fault.Error](err); bad && (f.Code == fault.Invalid || f.Code == fault.TooLarge) {
		// It will never be better: the pass must end without it, and say so.
		s.cfg.Log.ErrorContext(ctx, "batch of scan results is damaged", "pass", e.Pass, "shard", e.Shard, "batch", e.Number, "error", err)
		lost, err = max(len(b.Reports), 1), nil
	}
	if err != nil {
		return bus.Later(again, err)
	}
	if err := s.count(ctx, &e, len(b.Reports), lost); err != nil {
		return bus.Later(again, err)
	}
	s.m.stored(len(b.Reports), time.Since(start))
	return nil
}

// Refusal is a certificate that the inventory did not take, and why.
type Refusal struct {
	Target string
	Err    error
}

// Store puts a batch into the inventory at once. What is refused is returned;
// an error means that nothing was stored.
func (s *Service) Store(ctx context.Context, b *scan.Batch) ([]Refusal, error) {
	obs, err := b.Observations()
	if err != nil || len(obs) == 0 {
		return nil, err
	}
	res, err := s.cfg.Inventory.Put(ctx, obs, time.Now())
	if err != nil {
		return nil, err
	}
	var refused []Refusal
	for _, r := range res.Refused {
		where := "a certificate that came along"
		if e := obs[r.Index].Endpoint; e != nil {
			where = fmt.Sprintf("%s:%d", e.Host, e.Port)
		}
		refused = append(refused, Refusal{where, r.Err})
	}
	return refused, nil
}

// count counts a stored batch in its shard, once, whoever else counts it.
func (s *Service) count(ctx context.Context, e *envelope, results, refused int) error {
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		fresh, err := tx.Exec(ctx, qMark, e.Pass, e.Shard, e.Token, e.Number)
		if err != nil || fresh == 0 {
			return err
		}
		counted, err := tx.Exec(ctx, qCount, e.Pass, e.Shard, e.Token, results, refused, time.Now().Add(s.cfg.StoreLease))
		if err == nil && counted == 0 { // of a scan that was given up, or a pass that ended
			tx.Queue(qUnmark, nil, e.Pass, e.Shard, e.Token, e.Number)
		}
		return err
	})
}
