-- Places that keep certificates and are listed. The row of a source is made by
-- the first process that has it in its configuration; lease_token says which
-- process lists it. cursor is where a watch goes on, '' = list everything.
CREATE TABLE source (
	name        TEXT NOT NULL PRIMARY KEY,
	kind        TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('waiting', 'listing', 'watching', 'ok', 'failed')),
	error       TEXT NOT NULL,
	failures    INTEGER NOT NULL,
	cursor      TEXT NOT NULL,
	generation  INTEGER NOT NULL,
	tally       TEXT NOT NULL,
	due_at      INTEGER NOT NULL,
	asked_at    INTEGER NOT NULL,
	started_at  INTEGER,
	finished_at INTEGER,
	listed_at   INTEGER,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT;

-- What a source has: which version of which certificate, so that the same one
-- is not fetched again. fingerprint is '' when the inventory did not take it.
-- generation is the last list that it was in.
CREATE TABLE source_item (
	source      TEXT NOT NULL,
	ref         TEXT NOT NULL,
	version     TEXT NOT NULL,
	fingerprint TEXT NOT NULL,
	account     TEXT NOT NULL,
	region      TEXT NOT NULL,
	error       TEXT NOT NULL,
	generation  INTEGER NOT NULL,
	seen_at     INTEGER NOT NULL,
	gone_at     INTEGER,
	PRIMARY KEY (source, ref)
) STRICT;
CREATE INDEX source_item_here ON source_item (source, generation) WHERE gone_at IS NULL;

-- Certificate Transparency logs that are followed, one row each. size and
-- frontier are the tree up to which every entry was looked at and verified: its
-- size, and the roots of its perfect subtrees, 32 octets each. head is what the
-- log signed last (a checkpoint, or JSON of a signed tree head). state 'forked'
-- stays until somebody resets the row: what the log signed contradicts itself,
-- and proof holds both statements.
CREATE TABLE ct_log (
	name        TEXT NOT NULL PRIMARY KEY,
	url         TEXT NOT NULL,
	kind        TEXT NOT NULL CHECK (kind IN ('static-ct', 'rfc6962')),
	state       TEXT NOT NULL CHECK (state IN ('waiting', 'following', 'failing', 'forked')),
	error       TEXT NOT NULL,
	failures    INTEGER NOT NULL,
	size        INTEGER NOT NULL,
	frontier    BLOB NOT NULL,
	head_size   INTEGER NOT NULL,
	head_root   BLOB NOT NULL,
	head_at     INTEGER NOT NULL,
	head        TEXT NOT NULL,
	proof       TEXT NOT NULL,
	entries     INTEGER NOT NULL,
	matches     INTEGER NOT NULL,
	unreadable  INTEGER NOT NULL,
	entry_at    INTEGER NOT NULL,
	checked_at  INTEGER,
	due_at      INTEGER NOT NULL,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT;

-- Certificates for our names that logs hold and our own issuance does not know.
-- key is the hash of what a precertificate and its certificate have in common:
-- both, from any number of logs, are one finding. An open one is told of when
-- alerted_at is set.
CREATE TABLE ct_finding (
	id          TEXT NOT NULL PRIMARY KEY,
	key         BLOB NOT NULL UNIQUE,
	state       TEXT NOT NULL CHECK (state IN ('open', 'acknowledged', 'ours')),
	log         TEXT NOT NULL,
	leaf_index  INTEGER NOT NULL,
	logged_at   INTEGER NOT NULL,
	precert     INTEGER NOT NULL,
	fingerprint TEXT NOT NULL,
	serial      TEXT NOT NULL,
	spki_hash   BLOB NOT NULL,
	issuer      TEXT NOT NULL,
	names       TEXT NOT NULL,
	matched     TEXT NOT NULL,
	not_before  INTEGER NOT NULL,
	not_after   INTEGER NOT NULL,
	der         BLOB NOT NULL,
	found_at    INTEGER NOT NULL,
	alerted_at  INTEGER,
	decided_by  TEXT NOT NULL,
	decided_at  INTEGER,
	comment     TEXT NOT NULL
) STRICT;
CREATE INDEX ct_finding_open ON ct_finding (state, id);
