// Package bus carries hints, batches of work, caps and cached values between
// the parts and the replicas of the program. The engine is NATS JetStream:
// embedded in the process by default (no listener, streams in memory), or an
// external server or cluster named by a URL. After Open the code is the same.
//
// # The rule
//
// Nothing on the bus is the only copy of anything. Whoever publishes work can
// derive it again from rows of the database, whoever caches can compute again,
// whoever waits for a hint polls as well. Losing every message, or the whole
// bus, costs latency and nothing else; so Open succeeds while an external
// server is away, and the program runs without it.
//
// # Contracts
//
// Streams (Publish, Consumer): at least once. Publish returning nil means that
// the stream holds the message: in memory when embedded, on the disks of a
// majority when external (flushed late: a power cut of all of them may take
// the last minutes). A full stream refuses, it never drops: Publish returns a
// *fault.Error of code Unavailable with a RetryAfter, and the publisher
// slows down. Order is that of publishing, but messages are handled side by
// side and a retried one comes later, so handlers must not depend on it, and
// must be idempotent. The server hands a message out again when it was neither
// settled nor extended within AckWait. Messages in the hands of handlers never
// exceed the consumer's cap, over all processes.
//
// Hints (Notify, Watch, Wake): at most once, not stored. Those missed while
// the connection was down are announced as one hint with Missed set.
//
// Requests (Request, Serve): at most once; the caller has the time-out and
// decides whether to ask again.
//
// Caches: a value may vanish at any time, and an old one may be read for as
// long as its TTL after a Delete that failed.
package bus
