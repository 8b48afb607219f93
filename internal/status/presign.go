package status

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/loop"
)

const (
	// signBatch is the most answers that one tick renews.
	signBatch = 20_000
	// signChunk is how many answers are listed under one lock and handed to one
	// worker.
	signChunk = 512
)

// presign renews answers that are due, so that no client has to wait for a
// signature. It also forgets certificates that expired long ago.
func (s *Service) presign(ctx context.Context) (n loop.Count, err error) {
	if !s.loaded.Load() {
		return n, nil
	}
	if err := s.syncBooks(); err != nil { // certificates of signers end with time
		return n, err
	}
	now := minutes(s.now())
	oldest := now
	for _, b := range *s.books.Load() {
		b.forget(now - uint32(keepExpired/time.Minute))
		if err := s.presignBook(ctx, b, now, &oldest, &n); err != nil {
			return n, err
		}
	}
	n.More = n.Claimed >= signBatch
	s.metrics.oldest.Store(int64(oldest) * 60)
	return n, nil
}

// presignBook renews the answers of one authority. No more than signWorkers
// sign at once: the rest of the machine is for those who wait.
func (s *Service) presignBook(ctx context.Context, b *book, now uint32, oldest *uint32, n *loop.Count) error {
	g, gen := b.current(now)
	if g == nil {
		return nil // what is kept is served until it ends
	}
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(s.signWorkers)
	var done, failed atomic.Int64
	for at := (place{}); !at.end() && n.Claimed < signBatch; {
		var due []fact
		at, due = s.due(b, at, gen, now, oldest)
		n.Claimed += len(due)
		workers.Go(func() error { return s.renewAll(ctx, b, due, &done, &failed) })
	}
	err := workers.Wait()
	n.Done += int(done.Load())
	n.Failed += int(failed.Load())
	if errors.Is(err, errNoSigner) {
		return nil
	}
	return err
}

// due lists answers that should be signed anew: a bounded number from a place
// on, with the place to go on with.
func (s *Service) due(b *book, at place, gen uint16, now uint32, oldest *uint32) (next place, due []fact) {
	gens := *b.gens.Load()
	next = b.each(at, func(f *fact, se seal) bool {
		if se.at != 0 {
			*oldest = min(*oldest, se.at)
		}
		fresh := se.at >= s.turn(f, now) && se.at != 0
		// An answer whose signer ends earlier than it should is due as soon as
		// there is another signer.
		if fresh && se.gen != gen && gens[se.gen].end < se.at+s.validity {
			fresh = false
		}
		if !fresh {
			due = append(due, *f)
		}
		return len(due) < signChunk
	})
	return next, due
}

// renewAll signs answers. One that changed meanwhile is signed when it is asked
// for, or by the next tick.
func (s *Service) renewAll(ctx context.Context, b *book, due []fact, done, failed *atomic.Int64) error {
	for i := range due {
		switch _, _, err := s.renew(ctx, b, &due[i], bySHA1); {
		case err == nil:
			done.Add(1)
			s.metrics.presigned.Inc()
		case !errors.Is(err, errChanged):
			failed.Add(int64(len(due) - i))
			return err
		}
	}
	return nil
}
