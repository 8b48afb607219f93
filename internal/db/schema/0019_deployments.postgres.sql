-- What one target got at once, with one reload, and what became of it: live of
-- items are in service, and of the others error and detail are what the last one
-- said. Old rows are deleted.
CREATE TABLE deploy_batch (
	id       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	target   TEXT COLLATE "C" NOT NULL,
	began_at BIGINT NOT NULL,
	took_ms  BIGINT NOT NULL,
	items    BIGINT NOT NULL,
	live     BIGINT NOT NULL,
	error    TEXT COLLATE "C" NOT NULL,
	detail   TEXT COLLATE "C" NOT NULL
);
CREATE INDEX deploy_batch_target ON deploy_batch (target, id);

-- The batch that decided a placement last; what a target should serve; and what
-- fails anywhere.
ALTER TABLE managed_target ADD COLUMN batch_id TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX managed_target_of ON managed_target (target, managed_id);
CREATE INDEX managed_target_failing ON managed_target (managed_id) WHERE attempt > 0;
