-- The inventory: every certificate we know, issued here, imported or seen. The
-- core row is narrow; what is large (DER), many (names, tags) or busy (the
-- instant of the last sighting) has a table of its own. serial_key and spki_key
-- are the first 64 bits of hashes: what is looked up at random must have a small
-- index, or every import rewrites a page of each per certificate.
CREATE TABLE inventory (
	id            TEXT NOT NULL PRIMARY KEY,
	fingerprint   TEXT NOT NULL,
	status        TEXT NOT NULL CHECK (status IN ('active', 'superseded', 'expired', 'revoked', 'retired')),
	source        INTEGER NOT NULL,
	managed       INTEGER NOT NULL,
	owner         TEXT NOT NULL,
	team          TEXT NOT NULL,
	environment   TEXT NOT NULL,
	issuer_id     INTEGER NOT NULL,
	key_type      TEXT NOT NULL,
	signature     TEXT NOT NULL,
	serial        TEXT NOT NULL,
	serial_key    INTEGER NOT NULL,
	spki_hash     BLOB NOT NULL,
	spki_key      INTEGER NOT NULL,
	subject_cn    TEXT NOT NULL,
	names         TEXT NOT NULL,
	name_count    INTEGER NOT NULL,
	is_ca         INTEGER NOT NULL,
	not_before    INTEGER NOT NULL,
	not_after     INTEGER NOT NULL,
	first_seen_at INTEGER NOT NULL,
	revoked_at    INTEGER,
	retired_at    INTEGER,
	lineage       INTEGER,
	successor_id  TEXT
) STRICT;
CREATE UNIQUE INDEX inventory_fingerprint ON inventory (fingerprint);
CREATE INDEX inventory_status ON inventory (status, not_after, id);
CREATE INDEX inventory_expiry ON inventory (not_after, id);
CREATE INDEX inventory_owner ON inventory (owner, not_after, id);
CREATE INDEX inventory_team ON inventory (team, not_after, id);
CREATE INDEX inventory_issued ON inventory (issuer_id, not_after, id);
CREATE INDEX inventory_key ON inventory (key_type, not_after, id);
CREATE INDEX inventory_serial ON inventory (serial_key);
CREATE INDEX inventory_spki ON inventory (spki_key);
CREATE INDEX inventory_lineage ON inventory (lineage, not_before) WHERE lineage IS NOT NULL;
CREATE INDEX inventory_successor ON inventory (successor_id, id) WHERE successor_id IS NOT NULL;

CREATE TABLE inventory_der (
	inventory_id TEXT NOT NULL PRIMARY KEY,
	der          BLOB NOT NULL
) STRICT;

-- The last sighting, apart because it is by far the most frequent write.
CREATE TABLE inventory_seen (
	inventory_id TEXT NOT NULL PRIMARY KEY,
	last_seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX inventory_seen_at ON inventory_seen (last_seen_at, inventory_id);

-- Names, labels reversed ("com.example.www"). not_after is a copy, so that one
-- index gives the certificates of a name in order of expiry.
CREATE TABLE inventory_name (
	rname        TEXT NOT NULL,
	not_after    INTEGER NOT NULL,
	inventory_id TEXT NOT NULL,
	PRIMARY KEY (rname, not_after, inventory_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX inventory_name_of ON inventory_name (inventory_id, rname);

-- Tags as "name=value"; one value per name and certificate.
CREATE TABLE inventory_tag (
	tag          TEXT NOT NULL,
	not_after    INTEGER NOT NULL,
	inventory_id TEXT NOT NULL,
	PRIMARY KEY (tag, not_after, inventory_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX inventory_tag_of ON inventory_tag (inventory_id, tag);

-- Issuers by the first 64 bits of the SHA-256 of what identifies them, so that
-- every replica gives an issuer the same number without asking.
CREATE TABLE inventory_issuer (
	id         INTEGER NOT NULL PRIMARY KEY,
	name       TEXT NOT NULL,
	label      TEXT NOT NULL,
	key_id     BLOB,
	created_at INTEGER NOT NULL
) STRICT;

-- Where certificates are served, as probes found it, and what should be there.
CREATE TABLE endpoint (
	rhost         TEXT NOT NULL,
	port          INTEGER NOT NULL,
	sni           TEXT NOT NULL,
	address       TEXT NOT NULL,
	inventory_id  TEXT,
	desired_id    TEXT,
	probe         TEXT NOT NULL,
	problems      TEXT NOT NULL,
	failure       TEXT NOT NULL,
	failed_since  INTEGER,
	first_seen_at INTEGER NOT NULL,
	last_seen_at  INTEGER NOT NULL,
	last_ok_at    INTEGER,
	changed_at    INTEGER NOT NULL,
	PRIMARY KEY (rhost, port, sni, address)
) STRICT;
CREATE INDEX endpoint_certificate ON endpoint (inventory_id, rhost, port, sni, address) WHERE inventory_id IS NOT NULL;
CREATE INDEX endpoint_failing ON endpoint (failed_since, rhost, port, sni, address) WHERE failed_since IS NOT NULL;
CREATE INDEX endpoint_drift ON endpoint (rhost, port, sni, address) WHERE desired_id IS NOT NULL AND (inventory_id IS NULL OR inventory_id <> desired_id);

-- Counts of certificates. Each grain is one set of dimensions; the columns of
-- the others hold '' or 0 (see rollup.go). day is not_after in whole days.
CREATE TABLE inventory_rollup (
	grain       TEXT NOT NULL,
	day         INTEGER NOT NULL,
	status      TEXT NOT NULL,
	issuer_id   INTEGER NOT NULL,
	key_type    TEXT NOT NULL,
	owner       TEXT NOT NULL,
	team        TEXT NOT NULL,
	environment TEXT NOT NULL,
	source      INTEGER NOT NULL,
	managed     INTEGER NOT NULL,
	n           INTEGER NOT NULL,
	PRIMARY KEY (grain, day, status, issuer_id, key_type, owner, team, environment, source, managed)
) STRICT, WITHOUT ROWID;
CREATE INDEX inventory_rollup_owner ON inventory_rollup (grain, owner, day);

-- A version per list; moves with every batch of writes, and its row is the
-- lock that puts structural changes in one line.
CREATE TABLE inventory_version (
	list    TEXT NOT NULL PRIMARY KEY,
	version INTEGER NOT NULL
) STRICT;

-- Bulk edits by the caller's key: progress, and the answer to a repetition.
CREATE TABLE inventory_edit (
	id         TEXT NOT NULL PRIMARY KEY,
	request    TEXT NOT NULL,
	position   TEXT NOT NULL,
	changed    INTEGER NOT NULL,
	matched    INTEGER NOT NULL,
	state      TEXT NOT NULL CHECK (state IN ('running', 'done')),
	actor      TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX inventory_edit_age ON inventory_edit (created_at);

CREATE TABLE inventory_view (
	id         TEXT NOT NULL PRIMARY KEY,
	name       TEXT NOT NULL UNIQUE,
	query      TEXT NOT NULL,
	sort       TEXT NOT NULL,
	created_by TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;
