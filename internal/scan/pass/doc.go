// Package pass repeats scans: schedules, the passes that they begin, and how
// the results of a pass reach the inventory.
//
// A pass is cut into shards of targets, each a row with a lease. Whoever holds
// the lease scans the targets and publishes batches of results on the bus; the
// writer puts each batch into the inventory and counts it in the row of its
// shard. A shard is done when all batches that its scanner sent are counted.
//
// Nothing but rows is needed to go on. A scanner that dies loses its lease and
// another one scans the shard again; a bus that forgets batches leaves the
// shard short of them, and its lease ends, too; a batch that comes twice is
// counted once. A full stream, and a store that does not take writes, slow the
// scanner: nothing is dropped and nothing piles up in memory.
package pass
