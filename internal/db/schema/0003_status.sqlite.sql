-- Everything that a status answer depends on, so that a process which starts
-- reads one index in order instead of every certificate.
CREATE INDEX certificate_status ON certificate (authority_id, serial, shard, state, issued_at, not_after, revoked_at, revoked_reason);

-- The incident that a certificate belongs to: why it must be renewed early.
ALTER TABLE certificate ADD COLUMN incident_id TEXT;
CREATE INDEX certificate_incident ON certificate (incident_id, id) WHERE incident_id IS NOT NULL;
CREATE INDEX certificate_account ON certificate (account_id, id) WHERE account_id IS NOT NULL;

-- All certificates of one key, in order.
DROP INDEX certificate_spki;
CREATE INDEX certificate_key ON certificate (spki_hash, id);

-- Revocations of many certificates for one cause. position is where the stage
-- of the state goes on; it moves in the transaction of the work it stands for.
-- pass_at is when the last search for certificates began.
CREATE TABLE incident (
	id              TEXT NOT NULL PRIMARY KEY,
	name            TEXT NOT NULL,
	explanation_url TEXT NOT NULL,
	selection       TEXT NOT NULL,
	reason          INTEGER NOT NULL,
	block_keys      INTEGER NOT NULL,
	state           TEXT NOT NULL CHECK (state IN ('marking', 'waiting', 'revoking', 'done', 'cancelled')),
	actor           TEXT NOT NULL,
	created_at      INTEGER NOT NULL,
	revoke_at       INTEGER NOT NULL,
	finished_at     INTEGER,
	pass_at         INTEGER,
	position        TEXT NOT NULL,
	marked          INTEGER NOT NULL,
	revoked         INTEGER NOT NULL,
	skipped         INTEGER NOT NULL,
	due_at          INTEGER NOT NULL,
	lease_token     TEXT NOT NULL
) STRICT;
CREATE INDEX incident_open ON incident (due_at) WHERE state IN ('marking', 'waiting', 'revoking');

-- What must still be told to a cache or a bucket outside. number counts the
-- changes; a row goes when all of them were delivered.
CREATE TABLE status_outbox (
	sink        TEXT NOT NULL CHECK (sink IN ('purge', 'bucket')),
	target      TEXT NOT NULL,
	number      INTEGER NOT NULL,
	since       INTEGER NOT NULL,
	due_at      INTEGER NOT NULL,
	attempts    INTEGER NOT NULL,
	error       TEXT,
	PRIMARY KEY (sink, target)
) STRICT;
CREATE INDEX status_outbox_due ON status_outbox (sink, due_at);
CREATE INDEX status_outbox_since ON status_outbox (sink, since);

-- Where the walk over all certificates stands, and what it found.
CREATE TABLE checker (
	name        TEXT NOT NULL PRIMARY KEY,
	position    TEXT NOT NULL,
	checked     INTEGER NOT NULL,
	started_at  INTEGER NOT NULL,
	finished_at INTEGER,
	due_at      INTEGER NOT NULL
) STRICT;

CREATE TABLE finding (
	certificate_id TEXT NOT NULL,
	invariant      TEXT NOT NULL,
	problem        TEXT NOT NULL,
	found_at       INTEGER NOT NULL,
	PRIMARY KEY (certificate_id, invariant, problem)
) STRICT;
