-- Where followers of the journal stand. lease_token says which process moves
-- the row on; backfill is the last id of the walk over what there was before
-- the follower began, NULL when that is done.
CREATE TABLE follower (
	name        TEXT NOT NULL PRIMARY KEY,
	seq         INTEGER NOT NULL,
	backfill    TEXT,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT;

-- Scans that are repeated. next_at is when the next pass begins.
CREATE TABLE scan_schedule (
	id          TEXT NOT NULL PRIMARY KEY,
	name        TEXT NOT NULL UNIQUE,
	targets     TEXT NOT NULL,
	kind        TEXT NOT NULL CHECK (kind IN ('observe', 'fetch', 'dual', 'features')),
	site        TEXT NOT NULL,
	period_ms   INTEGER NOT NULL,
	jitter_ms   INTEGER NOT NULL,
	enabled     INTEGER NOT NULL,
	next_at     INTEGER NOT NULL,
	created_by  TEXT NOT NULL,
	created_at  INTEGER NOT NULL,
	updated_at  INTEGER NOT NULL
) STRICT;
CREATE INDEX scan_schedule_due ON scan_schedule (site, next_at) WHERE enabled = 1;

-- One run of a schedule. It is done when every shard is.
CREATE TABLE scan_pass (
	id          TEXT NOT NULL PRIMARY KEY,
	schedule_id TEXT NOT NULL,
	kind        TEXT NOT NULL,
	site        TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('running', 'done', 'cancelled', 'failed')),
	targets     INTEGER NOT NULL,
	duplicates  INTEGER NOT NULL,
	summary     TEXT NOT NULL,
	error       TEXT NOT NULL,
	started_at  INTEGER NOT NULL,
	finished_at INTEGER
) STRICT;
CREATE INDEX scan_pass_of ON scan_pass (schedule_id, id);
CREATE INDEX scan_pass_running ON scan_pass (schedule_id) WHERE state = 'running';

-- A part of a pass. Whoever holds the lease scans it; batches is how many
-- batches of results the holder sent, stored how many of them the writer has
-- put into the inventory. It is done when both are equal.
CREATE TABLE scan_shard (
	pass_id     TEXT NOT NULL,
	number      INTEGER NOT NULL,
	site        TEXT NOT NULL,
	targets     TEXT NOT NULL,
	size        INTEGER NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'sent', 'done')),
	attempts    INTEGER NOT NULL,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL,
	batches     INTEGER NOT NULL,
	stored      INTEGER NOT NULL,
	results     INTEGER NOT NULL,
	refused     INTEGER NOT NULL,
	summary     TEXT NOT NULL,
	PRIMARY KEY (pass_id, number)
) STRICT;
CREATE INDEX scan_shard_open ON scan_shard (site, lease_until, pass_id, number) WHERE state <> 'done';

-- Batches that are in the inventory, while their shard is not done: a batch
-- that comes again is not counted again.
CREATE TABLE scan_batch (
	pass_id     TEXT NOT NULL,
	shard       INTEGER NOT NULL,
	lease_token TEXT NOT NULL,
	number      INTEGER NOT NULL,
	PRIMARY KEY (pass_id, shard, lease_token, number)
) STRICT;
