package db

import (
	"context"
	"errors"
)

// litePool are the read connections: some for every statement, and half as many
// more that long ones (see Long) leave alone. A few that take milliseconds would
// otherwise hold them all, and what takes microseconds, such as an agent's
// question, would queue behind them.
type litePool struct {
	free chan *liteConn
	long chan struct{} // holds a token for each long statement that runs
	size int           // connections that were added
}

// newLitePool returns an empty pool in which up to long long statements run at
// once, and how many connections it wants.
func newLitePool(long int) (p *litePool, connections int) {
	connections = long + (long+1)/2
	return &litePool{free: make(chan *liteConn, connections), long: make(chan struct{}, long)}, connections
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
