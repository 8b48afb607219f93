-- What a token may be used for beside its role: JSON of a scope, '' = everything.
ALTER TABLE api_token ADD COLUMN scope TEXT NOT NULL DEFAULT '';

-- Sign-ins of people. hash is the SHA-256 of the cookie's secret; token_id is
-- set when the sign-in was made with a token, and ends with it.
CREATE TABLE session (
	id         TEXT NOT NULL PRIMARY KEY,
	hash       BLOB NOT NULL,
	actor      TEXT NOT NULL,
	name       TEXT NOT NULL,
	role       TEXT NOT NULL,
	scope      TEXT NOT NULL,
	token_id   TEXT,
	created_at INTEGER NOT NULL,
	used_at    INTEGER NOT NULL,
	expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX session_end ON session (expires_at);

-- Requests of the API that are remembered: because the caller gave a key so as
-- to be able to repeat them, or because somebody else must approve them first.
-- request_hash is over operation, path, query and body.
CREATE TABLE api_request (
	id           TEXT NOT NULL PRIMARY KEY,
	kind         TEXT NOT NULL CHECK (kind IN ('key', 'approval')),
	key          TEXT NOT NULL,
	actor        TEXT NOT NULL,
	actor_name   TEXT NOT NULL,
	scope        TEXT NOT NULL,
	operation    TEXT NOT NULL,
	path         TEXT NOT NULL,
	query        TEXT NOT NULL,
	request_hash BLOB NOT NULL,
	body         BLOB,
	state        TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'rejected', 'withdrawn', 'expired')),
	status       INTEGER NOT NULL,
	reply        BLOB,
	decided_by   TEXT NOT NULL,
	comment      TEXT NOT NULL,
	created_at   INTEGER NOT NULL,
	decided_at   INTEGER,
	expires_at   INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX api_request_key ON api_request (actor, key) WHERE kind = 'key';
CREATE INDEX api_request_state ON api_request (kind, state, id);
CREATE INDEX api_request_end ON api_request (expires_at);
