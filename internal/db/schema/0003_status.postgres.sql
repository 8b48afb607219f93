-- Everything that a status answer depends on, so that a process which starts
-- reads one index in order instead of every certificate.
CREATE INDEX certificate_status ON certificate (authority_id, serial, shard, state, issued_at, not_after, revoked_at, revoked_reason);

-- The incident that a certificate belongs to: why it must be renewed early.
ALTER TABLE certificate ADD COLUMN incident_id TEXT COLLATE "C";
CREATE INDEX certificate_incident ON certificate (incident_id, id) WHERE incident_id IS NOT NULL;
CREATE INDEX certificate_account ON certificate (account_id, id) WHERE account_id IS NOT NULL;

-- All certificates of one key, in order.
DROP INDEX certificate_spki;
CREATE INDEX certificate_key ON certificate (spki_hash, id);

-- Revocations of many certificates for one cause. position is where the stage
-- of the state goes on; it moves in the transaction of the work it stands for.
-- pass_at is when the last search for certificates began.
CREATE TABLE incident (
	id              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name            TEXT COLLATE "C" NOT NULL,
	explanation_url TEXT COLLATE "C" NOT NULL,
	selection       TEXT COLLATE "C" NOT NULL,
	reason          BIGINT NOT NULL,
	block_keys      BIGINT NOT NULL,
	state           TEXT COLLATE "C" NOT NULL CHECK (state IN ('marking', 'waiting', 'revoking', 'done', 'cancelled')),
	actor           TEXT COLLATE "C" NOT NULL,
	created_at      BIGINT NOT NULL,
	revoke_at       BIGINT NOT NULL,
	finished_at     BIGINT,
	pass_at         BIGINT,
	position        TEXT COLLATE "C" NOT NULL,
	marked          BIGINT NOT NULL,
	revoked         BIGINT NOT NULL,
	skipped         BIGINT NOT NULL,
	due_at          BIGINT NOT NULL,
	lease_token     TEXT COLLATE "C" NOT NULL
);
CREATE INDEX incident_open ON incident (due_at) WHERE state IN ('marking', 'waiting', 'revoking');

-- What must still be told to a cache or a bucket outside. number counts the
-- changes; a row goes when all of them were delivered.
CREATE TABLE status_outbox (
	sink        TEXT COLLATE "C" NOT NULL CHECK (sink IN ('purge', 'bucket')),
	target      TEXT COLLATE "C" NOT NULL,
	number      BIGINT NOT NULL,
	since       BIGINT NOT NULL,
	due_at      BIGINT NOT NULL,
	attempts    BIGINT NOT NULL,
	error       TEXT COLLATE "C",
	PRIMARY KEY (sink, target)
);
CREATE INDEX status_outbox_due ON status_outbox (sink, due_at);
CREATE INDEX status_outbox_since ON status_outbox (sink, since);

-- Where the walk over all certificates stands, and what it found.
CREATE TABLE checker (
	name        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	position    TEXT COLLATE "C" NOT NULL,
	checked     BIGINT NOT NULL,
	started_at  BIGINT NOT NULL,
	finished_at BIGINT,
	due_at      BIGINT NOT NULL
);

CREATE TABLE finding (
	certificate_id TEXT COLLATE "C" NOT NULL,
	invariant      TEXT COLLATE "C" NOT NULL,
	problem        TEXT COLLATE "C" NOT NULL,
	found_at       BIGINT NOT NULL,
	PRIMARY KEY (certificate_id, invariant, problem)
);
