// Package loop runs background work: Every ticks at intervals, Each works on
// what a tick claimed, Pool bounds what runs at once, Backoff spaces retries and
// Breaker stops calling what is down. Nothing here knows what the work means,
// and nothing starts by itself: a constructor returns a value, Run blocks until
// its context ends.
package loop
