package db

import (
	"context"
	"errors"
)

// litePool are the read connections. Long statements (see Long) share half of
// them. A few that take milliseconds would otherwise hold them all, and what
// takes microseconds, such as an agent's question, would queue behind them: more
// of them at once than there are cores gains nothing anyway.
type litePool struct {
	free chan *liteConn
	long chan struct{} // holds a token for each long statement that runs
	size int           // connections that were added
}

func newLitePool(size int) *litePool {
	return &litePool{free: make(chan *liteConn, size), long: make(chan struct{}, max(size/2, 1))}
}

// add puts a new connection into the pool.
func (p *litePool) add(c *liteConn) {
	p.size++
	p.free <- c
}

// with runs fn with a connection that nobody else has meanwhile.
func (p *litePool) with(ctx context.Context, long bool, fn func(*liteConn) error) error {
	if long {
		select {
		case p.long <- struct{}{}:
			defer func() { <-p.long }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case c := <-p.free:
		defer func() { p.free <- c }()
		return fn(c)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close waits for the connections that are in use, and closes all.
func (p *litePool) close() error {
	var err error
	for range p.size {
		err = errors.Join(err, (<-p.free).close())
	}
	return err
}
