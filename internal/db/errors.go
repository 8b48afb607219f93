package db

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"zombiezen.com/go/sqlite"

	"chancery/internal/fault"
)

// ErrConflict is in the chain of an error caused by a unique or primary key.
var ErrConflict = errors.New("db: key exists")

// retryAfter is what callers are told when the database cannot serve: short,
// because a full disk or a fail-over is noticed by its end, not its start.
const retryAfter = 5 * time.Second

// unavailable wraps cause as a 503 with Retry-After.
func unavailable(cause error) error {
	return fault.Wrap(cause, fault.Unavailable, "the database cannot serve this request now; nothing was stored, try again").Retry(retryAfter)
}

// sqliteError names the statement and classifies an engine error.
func sqliteError(name string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", name, err)
	code := sqlite.ErrCode(err)
	switch code {
	case sqlite.ResultConstraintUnique, sqlite.ResultConstraintPrimaryKey, sqlite.ResultConstraintRowID:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	switch code.ToPrimary() {
	case sqlite.ResultFull, sqlite.ResultIOErr, sqlite.ResultReadOnly, sqlite.ResultCantOpen,
		sqlite.ResultBusy, sqlite.ResultLocked, sqlite.ResultNoMem, sqlite.ResultCorrupt, sqlite.ResultNotADB:
		return unavailable(err)
	case sqlite.ResultInterrupt:
		return fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return err
}

// postgresError names the statement and classifies an engine error.
func postgresError(name string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", name, err)
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		switch {
		case pe.Code == "23505":
			return fmt.Errorf("%w: %w", ErrConflict, err)
		case pe.Code == "25006", // read-only transaction: a fail-over is under way
			pe.Code[:2] == "08", pe.Code[:2] == "53", pe.Code[:2] == "57", pe.Code[:2] == "58":
			return unavailable(err)
		}
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	var ne net.Error
	var ce *pgconn.ConnectError
	if errors.As(err, &ce) || errors.As(err, &ne) || pgconn.SafeToRetry(err) {
		return unavailable(err)
	}
	return unavailable(err) // broken connection: EOF, reset, closed pool
}

// serializationFailure reports whether a PostgreSQL transaction lost a race and
// must simply run again (SQLSTATE 40001, 40P01).
func serializationFailure(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == "40001" || pe.Code == "40P01")
}
