-- The inventory: every certificate we know, issued here, imported or seen. The
-- core row is narrow; what is large (DER), many (names, tags) or busy (the
-- instant of the last sighting) has a table of its own. serial_key and spki_key
-- are the first 64 bits of hashes: what is looked up at random must have a small
-- index, or every import rewrites a page of each per certificate.
CREATE TABLE inventory (
	id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	fingerprint   TEXT COLLATE "C" NOT NULL,
	status        TEXT COLLATE "C" NOT NULL CHECK (status IN ('active', 'superseded', 'expired', 'revoked', 'retired')),
	source        BIGINT NOT NULL,
	managed       BIGINT NOT NULL,
	owner         TEXT COLLATE "C" NOT NULL,
	team          TEXT COLLATE "C" NOT NULL,
	environment   TEXT COLLATE "C" NOT NULL,
	issuer_id     BIGINT NOT NULL,
	key_type      TEXT COLLATE "C" NOT NULL,
	signature     TEXT COLLATE "C" NOT NULL,
	serial        TEXT COLLATE "C" NOT NULL,
	serial_key    BIGINT NOT NULL,
	spki_hash     BYTEA NOT NULL,
	spki_key      BIGINT NOT NULL,
	subject_cn    TEXT COLLATE "C" NOT NULL,
	names         TEXT COLLATE "C" NOT NULL,
	name_count    BIGINT NOT NULL,
	is_ca         BIGINT NOT NULL,
	not_before    BIGINT NOT NULL,
	not_after     BIGINT NOT NULL,
	first_seen_at BIGINT NOT NULL,
	revoked_at    BIGINT,
	retired_at    BIGINT,
	lineage       BIGINT,
	successor_id  TEXT COLLATE "C"
);
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
	inventory_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	der          BYTEA NOT NULL
);

-- The last sighting, apart because it is by far the most frequent write.
CREATE TABLE inventory_seen (
	inventory_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	last_seen_at BIGINT NOT NULL
);
CREATE INDEX inventory_seen_at ON inventory_seen (last_seen_at, inventory_id);

-- Names, labels reversed ("com.example.www"). not_after is a copy, so that one
-- index gives the certificates of a name in order of expiry.
CREATE TABLE inventory_name (
	rname        TEXT COLLATE "C" NOT NULL,
	not_after    BIGINT NOT NULL,
	inventory_id TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (rname, not_after, inventory_id)
);
CREATE INDEX inventory_name_of ON inventory_name (inventory_id, rname);

-- Tags as "name=value"; one value per name and certificate.
CREATE TABLE inventory_tag (
	tag          TEXT COLLATE "C" NOT NULL,
	not_after    BIGINT NOT NULL,
	inventory_id TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (tag, not_after, inventory_id)
);
CREATE INDEX inventory_tag_of ON inventory_tag (inventory_id, tag);

-- Issuers by the first 64 bits of the SHA-256 of what identifies them, so that
-- every replica gives an issuer the same number without asking.
CREATE TABLE inventory_issuer (
	id         BIGINT NOT NULL PRIMARY KEY,
	name       TEXT COLLATE "C" NOT NULL,
	label      TEXT COLLATE "C" NOT NULL,
	key_id     BYTEA,
	created_at BIGINT NOT NULL
);

-- Where certificates are served, as probes found it, and what should be there.
CREATE TABLE endpoint (
	rhost         TEXT COLLATE "C" NOT NULL,
	port          BIGINT NOT NULL,
	sni           TEXT COLLATE "C" NOT NULL,
	address       TEXT COLLATE "C" NOT NULL,
	inventory_id  TEXT COLLATE "C",
	desired_id    TEXT COLLATE "C",
	probe         TEXT COLLATE "C" NOT NULL,
	problems      TEXT COLLATE "C" NOT NULL,
	failure       TEXT COLLATE "C" NOT NULL,
	failed_since  BIGINT,
	first_seen_at BIGINT NOT NULL,
	last_seen_at  BIGINT NOT NULL,
	last_ok_at    BIGINT,
	changed_at    BIGINT NOT NULL,
	PRIMARY KEY (rhost, port, sni, address)
);
CREATE INDEX endpoint_certificate ON endpoint (inventory_id, rhost, port, sni, address) WHERE inventory_id IS NOT NULL;
CREATE INDEX endpoint_failing ON endpoint (failed_since, rhost, port, sni, address) WHERE failed_since IS NOT NULL;
CREATE INDEX endpoint_drift ON endpoint (rhost, port, sni, address) WHERE desired_id IS NOT NULL AND (inventory_id IS NULL OR inventory_id <> desired_id);

-- Counts of certificates. Each grain is one set of dimensions; the columns of
-- the others hold '' or 0 (see rollup.go). day is not_after in whole days.
CREATE TABLE inventory_rollup (
	grain       TEXT COLLATE "C" NOT NULL,
	day         BIGINT NOT NULL,
	status      TEXT COLLATE "C" NOT NULL,
	issuer_id   BIGINT NOT NULL,
	key_type    TEXT COLLATE "C" NOT NULL,
	owner       TEXT COLLATE "C" NOT NULL,
	team        TEXT COLLATE "C" NOT NULL,
	environment TEXT COLLATE "C" NOT NULL,
	source      BIGINT NOT NULL,
	managed     BIGINT NOT NULL,
	n           BIGINT NOT NULL,
	PRIMARY KEY (grain, day, status, issuer_id, key_type, owner, team, environment, source, managed)
);
CREATE INDEX inventory_rollup_owner ON inventory_rollup (grain, owner, day);

-- A version per list; moves with every batch of writes, and its row is the
-- lock that puts structural changes in one line.
CREATE TABLE inventory_version (
	list    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	version BIGINT NOT NULL
);

-- Bulk edits by the caller's key: progress, and the answer to a repetition.
CREATE TABLE inventory_edit (
	id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	request    TEXT COLLATE "C" NOT NULL,
	position   TEXT COLLATE "C" NOT NULL,
	changed    BIGINT NOT NULL,
	matched    BIGINT NOT NULL,
	state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('running', 'done')),
	actor      TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE INDEX inventory_edit_age ON inventory_edit (created_at);

CREATE TABLE inventory_view (
	id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name       TEXT COLLATE "C" NOT NULL UNIQUE,
	query      TEXT COLLATE "C" NOT NULL,
	sort       TEXT COLLATE "C" NOT NULL,
	created_by TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL
);
