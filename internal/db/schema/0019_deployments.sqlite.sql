-- What one target got at once, with one reload, and what became of it: live of
-- items are in service, and of the others error and detail are what the last one
-- said. Old rows are deleted.
CREATE TABLE deploy_batch (
	id       TEXT NOT NULL PRIMARY KEY,
	target   TEXT NOT NULL,
	began_at INTEGER NOT NULL,
	took_ms  INTEGER NOT NULL,
	items    INTEGER NOT NULL,
	live     INTEGER NOT NULL,
	error    TEXT NOT NULL,
	detail   TEXT NOT NULL
) STRICT;
CREATE INDEX deploy_batch_target ON deploy_batch (target, id);

-- The batch that decided a placement last; what a target should serve; and what
-- fails anywhere.
ALTER TABLE managed_target ADD COLUMN batch_id TEXT NOT NULL DEFAULT '';
CREATE INDEX managed_target_of ON managed_target (target, managed_id);
CREATE INDEX managed_target_failing ON managed_target (managed_id) WHERE attempt > 0;
