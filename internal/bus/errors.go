package bus

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"chancery/internal/fault"
)

// Causes of refusals, to be asked for with errors.Is. The error around them is
// a *fault.Error of code Unavailable whose RetryAfter says when to try again.
var (
	// ErrFull says that a stream has no room: its consumers are behind.
	ErrFull = errors.New("stream is full")

	// ErrDown says that the server, or the leader of a stream, is away. A
	// message that was under way may have been stored: publish it again with
	// the same id.
	ErrDown = errors.New("bus is down")

	// ErrNobody says that nobody serves the subject of a request.
	ErrNobody = errors.New("nobody serves this subject")

	// ErrClaimLost is the cause of a handler's cancelled context when its
	// message could not be kept: another handler may have it now.
	ErrClaimLost = errors.New("claim on the message was lost")
)

// How long the refused should wait.
const (
	retryFull = 2 * time.Second // a stream drains in seconds or needs people
	retryDown = time.Second     // elections and restarts take about that long
)

// JetStream's error codes that we tell apart.
const (
	codeStoreFailed     = 10077 // limits of a stream, the text says which
	codeNoResources     = 10023
	codeMemoryExceeded  = 10028
	codeStorageExceeded = 10047
	codeTooManyRequests = 10167
)

// down refuses because the server is away.
func down(cause error) error {
	return fault.Wrap(errors.Join(ErrDown, cause), fault.Unavailable, "the message bus is not reachable; try again shortly").Retry(retryDown)
}

// full refuses because a stream has no room.
func full(stream string, cause error) error {
	return fault.Wrap(errors.Join(ErrFull, cause), fault.Unavailable, "the queue %q is full; try again when it has been worked off a little", stream).Retry(retryFull)
}

// publishError turns what a publish failed with into what the caller acts on.
func publishError(stream string, size int, err error) error {
	api, isAPI := errors.AsType[*jetstream.APIError](err)
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fault.Wrap(err, fault.TooLarge, "a message of %d bytes is more than the bus carries", size)
	case isAPI && outOfRoom(api):
		return full(stream, err)
	case errors.Is(err, context.Canceled) && !errors.Is(err, ErrDown):
		return err // the caller's own doing
	}
	return down(err)
}

// outOfRoom reports whether the server refused for want of room.
func outOfRoom(err *jetstream.APIError) bool {
	switch err.ErrorCode {
	case codeStoreFailed, codeNoResources, codeMemoryExceeded, codeStorageExceeded, codeTooManyRequests:
		return true
	}
	return false
}

// taken reports whether the server refused because a unique stream holds a
// message of this subject already.
func taken(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && api.ErrorCode == codeStoreFailed && strings.Contains(api.Description, "per subject")
}

// later asks for a message to come back after a while.
type later struct {
	after time.Duration
	cause error
}

// Error implements error.
func (e *later) Error() string { return "try again in " + e.after.String() + ": " + e.cause.Error() }

// Unwrap returns the reason.
func (e *later) Unwrap() error { return e.cause }

// Later is what a handler returns to get its message again after a while.
// It counts as an attempt.
func Later(after time.Duration, cause error) error { return &later{after, cause} }

// discard asks for a message to be dropped.
type discard struct{ cause error }

// Error implements error.
func (e *discard) Error() string { return "discard: " + e.cause.Error() }

// Unwrap returns the reason.
func (e *discard) Unwrap() error { return e.cause }

// Discard is what a handler returns when its message can never be handled: it
// is dropped and logged.
func Discard(cause error) error { return &discard{cause} }
