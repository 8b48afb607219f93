package renew

import (
	"context"
	"time"

	"chancery/internal/inventory"
)

// stocker puts certificates into the inventory, many in one batch: structural
// changes there happen one after the other in the whole fleet.
type stocker struct {
	store *inventory.Store
	now   func() time.Time
	in    chan stocking
}

// stocking is one certificate and where its inventory id goes.
type stocking struct {
	obs  inventory.Observation
	done chan<- stocked // capacity 1
}

type stocked struct {
	id  string
	err error
}

// maxStock bounds a batch.
const maxStock = 500

// put returns the inventory id of a certificate, "" without an inventory.
func (s *stocker) put(ctx context.Context, obs inventory.Observation) (string, error) {
	if s.store == nil {
		return "", nil
	}
	done := make(chan stocked, 1)
	select {
	case s.in <- stocking{obs, done}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	select {
	case r := <-done:
		return r.id, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// run stores what comes in, until ctx ends. A batch is what came while the one
// before was written.
func (s *stocker) run(ctx context.Context) {
	for {
		var batch []stocking
		select {
		case one := <-s.in:
			batch = append(batch, one)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(batch) < maxStock; {
			select {
			case one := <-s.in:
				batch = append(batch, one)
			default:
				more = false
			}
		}
		s.flush(ctx, batch)
	}
}

// flush stores one batch and tells each of its members what became of it.
func (s *stocker) flush(ctx context.Context, batch []stocking) {
	obs := make([]inventory.Observation, len(batch))
	for i := range batch {
		obs[i] = batch[i].obs
	}
	res, err := s.store.Put(ctx, obs, s.now())
	out := make([]stocked, len(batch))
	for i := range out {
		out[i].err = err
		if err == nil {
			out[i].id = res.IDs[i]
		}
	}
	for _, r := range res.Refused {
		out[r.Index].err = r.Err
	}
	for i := range batch {
		batch[i].done <- out[i]
	}
}
