-- Instants are Unix milliseconds, booleans 0 or 1. Identifiers ("id") are made
-- by the program and sort by creation time.

-- Values that all replicas share (instance id, sealed secrets, feed positions).
CREATE TABLE setting (
	name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	value      TEXT COLLATE "C" NOT NULL,
	updated_at BIGINT NOT NULL
);

-- Journal: append-only; seq and hash are set once, by the sequencer.
CREATE TABLE journal (
	id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	seq     BIGINT,
	at      BIGINT NOT NULL,
	kind    TEXT COLLATE "C" NOT NULL,
	actor   TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	data    TEXT COLLATE "C" NOT NULL,
	hash    BYTEA
);
CREATE UNIQUE INDEX journal_seq ON journal (seq) WHERE seq IS NOT NULL;
CREATE INDEX journal_waiting ON journal (id) WHERE seq IS NULL;
CREATE INDEX journal_subject ON journal (subject, id);

CREATE TABLE journal_head (
	id   BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
	seq  BIGINT NOT NULL,
	hash BYTEA NOT NULL
);

-- Certificate authorities and their delegated OCSP signers. ca is the name in
-- the ACME path and in the configuration; several generations share it.
CREATE TABLE authority (
	id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	ca         TEXT COLLATE "C" NOT NULL,
	name       TEXT COLLATE "C" NOT NULL UNIQUE,
	role       TEXT COLLATE "C" NOT NULL CHECK (role IN ('root', 'issuing', 'ocsp')),
	state      TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'active', 'retired')),
	parent_id  TEXT COLLATE "C",
	key_type   TEXT COLLATE "C" NOT NULL,
	key_ref    TEXT COLLATE "C" NOT NULL,
	csr        BYTEA,
	der        BYTEA,
	not_after  BIGINT,
	shards     BIGINT NOT NULL,
	created_at BIGINT NOT NULL
);

-- Alternate certificates of an authority's key (cross-signs): position 0 is served first.
CREATE TABLE authority_chain (
	authority_id TEXT COLLATE "C" NOT NULL,
	position     BIGINT NOT NULL,
	pem          TEXT COLLATE "C" NOT NULL,
	created_at   BIGINT NOT NULL,
	PRIMARY KEY (authority_id, position)
);

-- Certificate profiles by the hash of their content: what an order pinned stays
-- findable after the configuration changed.
CREATE TABLE profile (
	hash       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name       TEXT COLLATE "C" NOT NULL,
	data       TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL
);

-- Every serial ever allotted, from the intent to sign until after expiry.
CREATE TABLE certificate (
	id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	authority_id   TEXT COLLATE "C" NOT NULL,
	serial         TEXT COLLATE "C" NOT NULL,
	state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('intent', 'issued', 'abandoned')),
	ca             TEXT COLLATE "C" NOT NULL,
	profile        TEXT COLLATE "C" NOT NULL,
	profile_hash   TEXT COLLATE "C" NOT NULL,
	order_id       TEXT COLLATE "C",
	account_id     TEXT COLLATE "C",
	names          TEXT COLLATE "C" NOT NULL,
	key_type       TEXT COLLATE "C" NOT NULL,
	spki_hash      BYTEA NOT NULL,
	evidence       TEXT COLLATE "C" NOT NULL,
	tbs_hash       BYTEA NOT NULL,
	tbs            BYTEA,
	der            BYTEA,
	fingerprint    BYTEA,
	shard          BIGINT NOT NULL,
	not_before     BIGINT NOT NULL,
	not_after      BIGINT NOT NULL,
	created_at     BIGINT NOT NULL,
	issued_at      BIGINT,
	revoked_at     BIGINT,
	revoked_reason BIGINT,
	revoked_by     TEXT COLLATE "C"
);
CREATE UNIQUE INDEX certificate_serial ON certificate (authority_id, serial);
CREATE INDEX certificate_spki ON certificate (spki_hash);
CREATE INDEX certificate_expiry ON certificate (not_after, id) WHERE state = 'issued';
CREATE INDEX certificate_intent ON certificate (created_at) WHERE state = 'intent';
CREATE INDEX certificate_revoked ON certificate (authority_id, shard, not_after) WHERE revoked_at IS NOT NULL;
CREATE INDEX certificate_order ON certificate (order_id) WHERE order_id IS NOT NULL;

-- Names of issued certificates, labels reversed ("com.example.www"), for host
-- and suffix search.
CREATE TABLE certificate_name (
	rname          TEXT COLLATE "C" NOT NULL,
	certificate_id TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (rname, certificate_id)
);

-- Keys that may never be certified again.
CREATE TABLE blocked_key (
	spki_hash  BYTEA NOT NULL PRIMARY KEY,
	reason     TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL
);

-- The current CRL of each shard; number only grows.
CREATE TABLE crl (
	authority_id TEXT COLLATE "C" NOT NULL,
	shard        BIGINT NOT NULL,
	number       BIGINT NOT NULL,
	this_update  BIGINT NOT NULL,
	next_update  BIGINT NOT NULL,
	dirty_at     BIGINT,
	der          BYTEA NOT NULL,
	PRIMARY KEY (authority_id, shard)
);

CREATE TABLE acme_account (
	id            TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	ca            TEXT COLLATE "C" NOT NULL,
	thumbprint    TEXT COLLATE "C" NOT NULL,
	jwk           TEXT COLLATE "C" NOT NULL,
	state         TEXT COLLATE "C" NOT NULL CHECK (state IN ('valid', 'deactivated', 'revoked')),
	contact       TEXT COLLATE "C" NOT NULL,
	eab_kid       TEXT COLLATE "C",
	eab           TEXT COLLATE "C",
	tos_agreed_at BIGINT,
	created_at    BIGINT NOT NULL,
	created_ip    TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX acme_account_key ON acme_account (ca, thumbprint);

CREATE TABLE acme_order (
	id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	account_id     TEXT COLLATE "C" NOT NULL,
	ca             TEXT COLLATE "C" NOT NULL,
	state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'ready', 'processing', 'valid', 'invalid')),
	profile        TEXT COLLATE "C" NOT NULL,
	profile_hash   TEXT COLLATE "C" NOT NULL,
	identifiers    TEXT COLLATE "C" NOT NULL,
	names_hash     TEXT COLLATE "C" NOT NULL,
	authz_ids      TEXT COLLATE "C" NOT NULL,
	authz_pending  BIGINT NOT NULL,
	not_before     BIGINT,
	not_after      BIGINT,
	replaces       TEXT COLLATE "C",
	csr            BYTEA,
	certificate_id TEXT COLLATE "C",
	error          TEXT COLLATE "C",
	expires_at     BIGINT NOT NULL,
	created_at     BIGINT NOT NULL,
	claimed_at     BIGINT,
	claim_token    TEXT COLLATE "C"
);
CREATE INDEX acme_order_account ON acme_order (account_id, id);
CREATE INDEX acme_order_open ON acme_order (account_id, names_hash) WHERE state IN ('pending', 'ready');
CREATE INDEX acme_order_processing ON acme_order (claimed_at) WHERE state = 'processing';
CREATE INDEX acme_order_expiry ON acme_order (expires_at);
CREATE UNIQUE INDEX acme_order_replaces ON acme_order (replaces) WHERE replaces IS NOT NULL AND state <> 'invalid';

CREATE TABLE acme_authz (
	id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	account_id     TEXT COLLATE "C" NOT NULL,
	ca             TEXT COLLATE "C" NOT NULL,
	order_id       TEXT COLLATE "C",
	identifier     TEXT COLLATE "C" NOT NULL,
	wildcard       BIGINT NOT NULL,
	state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'valid', 'invalid', 'deactivated', 'expired', 'revoked')),
	challenges     TEXT COLLATE "C" NOT NULL,
	method         TEXT COLLATE "C",
	proof          BYTEA,
	validated_at   BIGINT,
	caa            BYTEA,
	expires_at     BIGINT NOT NULL,
	created_at     BIGINT NOT NULL
);
CREATE INDEX acme_authz_valid ON acme_authz (account_id, identifier, wildcard, expires_at) WHERE state = 'valid';
CREATE INDEX acme_authz_expiry ON acme_authz (expires_at);

-- External account binding keys (RFC 8555 section 7.3.4); secret is sealed.
CREATE TABLE eab_key (
	kid        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	ca         TEXT COLLATE "C" NOT NULL,
	label      TEXT COLLATE "C" NOT NULL,
	secret     BYTEA NOT NULL,
	account_id TEXT COLLATE "C",
	created_at BIGINT NOT NULL,
	expires_at BIGINT,
	used_at    BIGINT,
	revoked_at BIGINT
);

-- Bearer tokens of the control-plane API; hash is SHA-256 of the secret part.
CREATE TABLE api_token (
	id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name         TEXT COLLATE "C" NOT NULL,
	hash         BYTEA NOT NULL,
	role         TEXT COLLATE "C" NOT NULL,
	created_at   BIGINT NOT NULL,
	expires_at   BIGINT,
	revoked_at   BIGINT
);
