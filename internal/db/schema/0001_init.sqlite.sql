-- Instants are Unix milliseconds, booleans 0 or 1. Identifiers ("id") are made
-- by the program and sort by creation time.

-- Values that all replicas share (instance id, sealed secrets, feed positions).
CREATE TABLE setting (
	name       TEXT NOT NULL PRIMARY KEY,
	value      TEXT NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;

-- Journal: append-only; seq and hash are set once, by the sequencer.
CREATE TABLE journal (
	id      TEXT NOT NULL PRIMARY KEY,
	seq     INTEGER,
	at      INTEGER NOT NULL,
	kind    TEXT NOT NULL,
	actor   TEXT NOT NULL,
	subject TEXT NOT NULL,
	data    TEXT NOT NULL,
	hash    BLOB
) STRICT;
CREATE UNIQUE INDEX journal_seq ON journal (seq) WHERE seq IS NOT NULL;
CREATE INDEX journal_waiting ON journal (id) WHERE seq IS NULL;
CREATE INDEX journal_subject ON journal (subject, id);

CREATE TABLE journal_head (
	id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
	seq  INTEGER NOT NULL,
	hash BLOB NOT NULL
) STRICT;

-- Certificate authorities and their delegated OCSP signers. ca is the name in
-- the ACME path and in the configuration; several generations share it.
CREATE TABLE authority (
	id         TEXT NOT NULL PRIMARY KEY,
	ca         TEXT NOT NULL,
	name       TEXT NOT NULL UNIQUE,
	role       TEXT NOT NULL CHECK (role IN ('root', 'issuing', 'ocsp')),
	state      TEXT NOT NULL CHECK (state IN ('pending', 'active', 'retired')),
	parent_id  TEXT,
	key_type   TEXT NOT NULL,
	key_ref    TEXT NOT NULL,
	csr        BLOB,
	der        BLOB,
	not_after  INTEGER,
	shards     INTEGER NOT NULL,
	created_at INTEGER NOT NULL
) STRICT;

-- Alternate certificates of an authority's key (cross-signs): position 0 is served first.
CREATE TABLE authority_chain (
	authority_id TEXT NOT NULL,
	position     INTEGER NOT NULL,
	pem          TEXT NOT NULL,
	created_at   INTEGER NOT NULL,
	PRIMARY KEY (authority_id, position)
) STRICT;

-- Certificate profiles by the hash of their content: what an order pinned stays
-- findable after the configuration changed.
CREATE TABLE profile (
	hash       TEXT NOT NULL PRIMARY KEY,
	name       TEXT NOT NULL,
	data       TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT;

-- Every serial ever allotted, from the intent to sign until after expiry.
CREATE TABLE certificate (
	id             TEXT NOT NULL PRIMARY KEY,
	authority_id   TEXT NOT NULL,
	serial         TEXT NOT NULL,
	state          TEXT NOT NULL CHECK (state IN ('intent', 'issued', 'abandoned')),
	ca             TEXT NOT NULL,
	profile        TEXT NOT NULL,
	profile_hash   TEXT NOT NULL,
	order_id       TEXT,
	account_id     TEXT,
	names          TEXT NOT NULL,
	key_type       TEXT NOT NULL,
	spki_hash      BLOB NOT NULL,
	evidence       TEXT NOT NULL,
	tbs_hash       BLOB NOT NULL,
	tbs            BLOB,
	der            BLOB,
	fingerprint    BLOB,
	shard          INTEGER NOT NULL,
	not_before     INTEGER NOT NULL,
	not_after      INTEGER NOT NULL,
	created_at     INTEGER NOT NULL,
	issued_at      INTEGER,
	revoked_at     INTEGER,
	revoked_reason INTEGER,
	revoked_by     TEXT
) STRICT;
CREATE UNIQUE INDEX certificate_serial ON certificate (authority_id, serial);
CREATE INDEX certificate_spki ON certificate (spki_hash);
CREATE INDEX certificate_expiry ON certificate (not_after, id) WHERE state = 'issued';
CREATE INDEX certificate_intent ON certificate (created_at) WHERE state = 'intent';
CREATE INDEX certificate_revoked ON certificate (authority_id, shard, not_after) WHERE revoked_at IS NOT NULL;
CREATE INDEX certificate_order ON certificate (order_id) WHERE order_id IS NOT NULL;

-- Names of issued certificates, labels reversed ("com.example.www"), for host
-- and suffix search.
CREATE TABLE certificate_name (
	rname          TEXT NOT NULL,
	certificate_id TEXT NOT NULL,
	PRIMARY KEY (rname, certificate_id)
) STRICT, WITHOUT ROWID;

-- Keys that may never be certified again.
CREATE TABLE blocked_key (
	spki_hash  BLOB NOT NULL PRIMARY KEY,
	reason     TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT;

-- The current CRL of each shard; number only grows.
CREATE TABLE crl (
	authority_id TEXT NOT NULL,
	shard        INTEGER NOT NULL,
	number       INTEGER NOT NULL,
	this_update  INTEGER NOT NULL,
	next_update  INTEGER NOT NULL,
	dirty_at     INTEGER,
	der          BLOB NOT NULL,
	PRIMARY KEY (authority_id, shard)
) STRICT;

CREATE TABLE acme_account (
	id            TEXT NOT NULL PRIMARY KEY,
	ca            TEXT NOT NULL,
	thumbprint    TEXT NOT NULL,
	jwk           TEXT NOT NULL,
	state         TEXT NOT NULL CHECK (state IN ('valid', 'deactivated', 'revoked')),
	contact       TEXT NOT NULL,
	eab_kid       TEXT,
	eab           TEXT,
	tos_agreed_at INTEGER,
	created_at    INTEGER NOT NULL,
	created_ip    TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX acme_account_key ON acme_account (ca, thumbprint);

CREATE TABLE acme_order (
	id             TEXT NOT NULL PRIMARY KEY,
	account_id     TEXT NOT NULL,
	ca             TEXT NOT NULL,
	state          TEXT NOT NULL CHECK (state IN ('pending', 'ready', 'processing', 'valid', 'invalid')),
	profile        TEXT NOT NULL,
	profile_hash   TEXT NOT NULL,
	identifiers    TEXT NOT NULL,
	names_hash     TEXT NOT NULL,
	authz_ids      TEXT NOT NULL,
	authz_pending  INTEGER NOT NULL,
	not_before     INTEGER,
	not_after      INTEGER,
	replaces       TEXT,
	csr            BLOB,
	certificate_id TEXT,
	error          TEXT,
	expires_at     INTEGER NOT NULL,
	created_at     INTEGER NOT NULL,
	claimed_at     INTEGER,
	claim_token    TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX acme_order_account ON acme_order (account_id, id);
CREATE INDEX acme_order_open ON acme_order (account_id, names_hash) WHERE state IN ('pending', 'ready');
CREATE INDEX acme_order_processing ON acme_order (claimed_at) WHERE state = 'processing';
CREATE INDEX acme_order_expiry ON acme_order (expires_at);
CREATE UNIQUE INDEX acme_order_replaces ON acme_order (replaces) WHERE replaces IS NOT NULL AND state <> 'invalid';

CREATE TABLE acme_authz (
	id             TEXT NOT NULL PRIMARY KEY,
	account_id     TEXT NOT NULL,
	ca             TEXT NOT NULL,
	order_id       TEXT,
	identifier     TEXT NOT NULL,
	wildcard       INTEGER NOT NULL,
	state          TEXT NOT NULL CHECK (state IN ('pending', 'valid', 'invalid', 'deactivated', 'expired', 'revoked')),
	challenges     TEXT NOT NULL,
	method         TEXT,
	proof          BLOB,
	validated_at   INTEGER,
	caa            BLOB,
	expires_at     INTEGER NOT NULL,
	created_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX acme_authz_valid ON acme_authz (account_id, identifier, wildcard, expires_at) WHERE state = 'valid';
CREATE INDEX acme_authz_expiry ON acme_authz (expires_at);

-- External account binding keys (RFC 8555 section 7.3.4); secret is sealed.
CREATE TABLE eab_key (
	kid        TEXT NOT NULL PRIMARY KEY,
	ca         TEXT NOT NULL,
	label      TEXT NOT NULL,
	secret     BLOB NOT NULL,
	account_id TEXT,
	created_at INTEGER NOT NULL,
	expires_at INTEGER,
	used_at    INTEGER,
	revoked_at INTEGER
) STRICT;

-- Bearer tokens of the control-plane API; hash is SHA-256 of the secret part.
CREATE TABLE api_token (
	id           TEXT NOT NULL PRIMARY KEY,
	name         TEXT NOT NULL,
	hash         BLOB NOT NULL,
	role         TEXT NOT NULL,
	created_at   INTEGER NOT NULL,
	expires_at   INTEGER,
	revoked_at   INTEGER
) STRICT;
