-- Where followers of the journal stand. lease_token says which process moves
-- the row on; backfill is the last id of the walk over what there was before
-- the follower began, NULL when that is done.
CREATE TABLE follower (
	name        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	seq         BIGINT NOT NULL,
	backfill    TEXT COLLATE "C",
	lease_until BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL
);

-- Scans that are repeated. next_at is when the next pass begins.
CREATE TABLE scan_schedule (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name        TEXT COLLATE "C" NOT NULL UNIQUE,
	targets     TEXT COLLATE "C" NOT NULL,
	kind        TEXT COLLATE "C" NOT NULL CHECK (kind IN ('observe', 'fetch', 'dual', 'features')),
	site        TEXT COLLATE "C" NOT NULL,
	period_ms   BIGINT NOT NULL,
	jitter_ms   BIGINT NOT NULL,
	enabled     BIGINT NOT NULL,
	next_at     BIGINT NOT NULL,
	created_by  TEXT COLLATE "C" NOT NULL,
	created_at  BIGINT NOT NULL,
	updated_at  BIGINT NOT NULL
);
CREATE INDEX scan_schedule_due ON scan_schedule (site, next_at) WHERE enabled = 1;

-- One run of a schedule. It is done when every shard is.
CREATE TABLE scan_pass (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	schedule_id TEXT COLLATE "C" NOT NULL,
	kind        TEXT COLLATE "C" NOT NULL,
	site        TEXT COLLATE "C" NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('running', 'done', 'cancelled', 'failed')),
	targets     BIGINT NOT NULL,
	duplicates  BIGINT NOT NULL,
	summary     TEXT COLLATE "C" NOT NULL,
	error       TEXT COLLATE "C" NOT NULL,
	started_at  BIGINT NOT NULL,
	finished_at BIGINT
);
CREATE INDEX scan_pass_of ON scan_pass (schedule_id, id);
CREATE INDEX scan_pass_running ON scan_pass (schedule_id) WHERE state = 'running';

-- A part of a pass. Whoever holds the lease scans it; batches is how many
-- batches of results the holder sent, stored how many of them the writer has
-- put into the inventory. It is done when both are equal.
CREATE TABLE scan_shard (
	pass_id     TEXT COLLATE "C" NOT NULL,
	number      BIGINT NOT NULL,
	site        TEXT COLLATE "C" NOT NULL,
	targets     TEXT COLLATE "C" NOT NULL,
	size        BIGINT NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'running', 'sent', 'done')),
	attempts    BIGINT NOT NULL,
	lease_until BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL,
	batches     BIGINT NOT NULL,
	stored      BIGINT NOT NULL,
	results     BIGINT NOT NULL,
	refused     BIGINT NOT NULL,
	summary     TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (pass_id, number)
);
CREATE INDEX scan_shard_open ON scan_shard (site, lease_until, pass_id, number) WHERE state <> 'done';

-- Batches that are in the inventory, while their shard is not done: a batch
-- that comes again is not counted again.
CREATE TABLE scan_batch (
	pass_id     TEXT COLLATE "C" NOT NULL,
	shard       BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL,
	number      BIGINT NOT NULL,
	PRIMARY KEY (pass_id, shard, lease_token, number)
);
