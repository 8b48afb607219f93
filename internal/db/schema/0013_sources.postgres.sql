-- Places that keep certificates and are listed. The row of a source is made by
-- the first process that has it in its configuration; lease_token says which
-- process lists it. cursor is where a watch goes on, '' = list everything.
CREATE TABLE source (
	name        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	kind        TEXT COLLATE "C" NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'listing', 'watching', 'ok', 'failed')),
	error       TEXT COLLATE "C" NOT NULL,
	failures    BIGINT NOT NULL,
	cursor      TEXT COLLATE "C" NOT NULL,
	generation  BIGINT NOT NULL,
	tally       TEXT COLLATE "C" NOT NULL,
	due_at      BIGINT NOT NULL,
	asked_at    BIGINT NOT NULL,
	started_at  BIGINT,
	finished_at BIGINT,
	listed_at   BIGINT,
	lease_until BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL
);

-- What a source has: which version of which certificate, so that the same one
-- is not fetched again. fingerprint is '' when the inventory did not take it.
-- generation is the last list that it was in.
CREATE TABLE source_item (
	source      TEXT COLLATE "C" NOT NULL,
	ref         TEXT COLLATE "C" NOT NULL,
	version     TEXT COLLATE "C" NOT NULL,
	fingerprint TEXT COLLATE "C" NOT NULL,
	account     TEXT COLLATE "C" NOT NULL,
	region      TEXT COLLATE "C" NOT NULL,
	error       TEXT COLLATE "C" NOT NULL,
	generation  BIGINT NOT NULL,
	seen_at     BIGINT NOT NULL,
	gone_at     BIGINT,
	PRIMARY KEY (source, ref)
);
CREATE INDEX source_item_here ON source_item (source, generation) WHERE gone_at IS NULL;

-- Certificate Transparency logs that are followed, one row each. size and
-- frontier are the tree up to which every entry was looked at and verified: its
-- size, and the roots of its perfect subtrees, 32 octets each. head is what the
-- log signed last (a checkpoint, or JSON of a signed tree head). state 'forked'
-- stays until somebody resets the row: what the log signed contradicts itself,
-- and proof holds both statements.
CREATE TABLE ct_log (
	name        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	url         TEXT COLLATE "C" NOT NULL,
	kind        TEXT COLLATE "C" NOT NULL CHECK (kind IN ('static-ct', 'rfc6962')),
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'following', 'failing', 'forked')),
	error       TEXT COLLATE "C" NOT NULL,
	failures    BIGINT NOT NULL,
	size        BIGINT NOT NULL,
	frontier    BYTEA NOT NULL,
	head_size   BIGINT NOT NULL,
	head_root   BYTEA NOT NULL,
	head_at     BIGINT NOT NULL,
	head        TEXT COLLATE "C" NOT NULL,
	proof       TEXT COLLATE "C" NOT NULL,
	entries     BIGINT NOT NULL,
	matches     BIGINT NOT NULL,
	unreadable  BIGINT NOT NULL,
	entry_at    BIGINT NOT NULL,
	checked_at  BIGINT,
	due_at      BIGINT NOT NULL,
	lease_until BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL
);

-- Certificates for our names that logs hold and our own issuance does not know.
-- key is the hash of what a precertificate and its certificate have in common:
-- both, from any number of logs, are one finding. An open one is told of when
-- alerted_at is set.
CREATE TABLE ct_finding (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	key         BYTEA NOT NULL UNIQUE,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('open', 'acknowledged', 'ours')),
	log         TEXT COLLATE "C" NOT NULL,
	leaf_index  BIGINT NOT NULL,
	logged_at   BIGINT NOT NULL,
	precert     BIGINT NOT NULL,
	fingerprint TEXT COLLATE "C" NOT NULL,
	serial      TEXT COLLATE "C" NOT NULL,
	spki_hash   BYTEA NOT NULL,
	issuer      TEXT COLLATE "C" NOT NULL,
	names       TEXT COLLATE "C" NOT NULL,
	matched     TEXT COLLATE "C" NOT NULL,
	not_before  BIGINT NOT NULL,
	not_after   BIGINT NOT NULL,
	der         BYTEA NOT NULL,
	found_at    BIGINT NOT NULL,
	alerted_at  BIGINT,
	decided_by  TEXT COLLATE "C" NOT NULL,
	decided_at  BIGINT,
	comment     TEXT COLLATE "C" NOT NULL
);
CREATE INDEX ct_finding_open ON ct_finding (state, id);
