-- What a token may be used for beside its role: JSON of a scope, '' = everything.
ALTER TABLE api_token ADD COLUMN scope TEXT COLLATE "C" NOT NULL DEFAULT '';

-- Sign-ins of people. hash is the SHA-256 of the cookie's secret; token_id is
-- set when the sign-in was made with a token, and ends with it.
CREATE TABLE session (
	id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	hash       BYTEA NOT NULL,
	actor      TEXT COLLATE "C" NOT NULL,
	name       TEXT COLLATE "C" NOT NULL,
	role       TEXT COLLATE "C" NOT NULL,
	scope      TEXT COLLATE "C" NOT NULL,
	token_id   TEXT COLLATE "C",
	created_at BIGINT NOT NULL,
	used_at    BIGINT NOT NULL,
	expires_at BIGINT NOT NULL
);
CREATE INDEX session_end ON session (expires_at);

-- Requests of the API that are remembered: because the caller gave a key so as
-- to be able to repeat them, or because somebody else must approve them first.
-- request_hash is over operation, path, query and body.
CREATE TABLE api_request (
	id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	kind         TEXT COLLATE "C" NOT NULL CHECK (kind IN ('key', 'approval')),
	key          TEXT COLLATE "C" NOT NULL,
	actor        TEXT COLLATE "C" NOT NULL,
	actor_name   TEXT COLLATE "C" NOT NULL,
	scope        TEXT COLLATE "C" NOT NULL,
	operation    TEXT COLLATE "C" NOT NULL,
	path         TEXT COLLATE "C" NOT NULL,
	query        TEXT COLLATE "C" NOT NULL,
	request_hash BYTEA NOT NULL,
	body         BYTEA,
	state        TEXT COLLATE "C" NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'rejected', 'withdrawn', 'expired')),
	status       BIGINT NOT NULL,
	reply        BYTEA,
	decided_by   TEXT COLLATE "C" NOT NULL,
	comment      TEXT COLLATE "C" NOT NULL,
	created_at   BIGINT NOT NULL,
	decided_at   BIGINT,
	expires_at   BIGINT NOT NULL
);
CREATE UNIQUE INDEX api_request_key ON api_request (actor, key) WHERE kind = 'key';
CREATE INDEX api_request_state ON api_request (kind, state, id);
CREATE INDEX api_request_end ON api_request (expires_at);
