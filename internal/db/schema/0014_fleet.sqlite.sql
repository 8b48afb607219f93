-- Enrolment tokens of agents. hash is the SHA-256 of the secret; cidr is where
-- it may be used from, '' = anywhere.
CREATE TABLE agent_token (
	id           TEXT NOT NULL PRIMARY KEY,
	hash         BLOB NOT NULL,
	name_pattern TEXT NOT NULL,
	owner        TEXT NOT NULL,
	cidr         TEXT NOT NULL,
	created_by   TEXT NOT NULL,
	created_at   INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL,
	used_at      INTEGER,
	agent_id     TEXT
) STRICT;

-- Agents. cert_hash is the SHA-256 of the certificate that identifies one, and
-- cert_before that of the one before it. generation and instance tell an agent
-- from a copy of it. seen_at is written in batches.
CREATE TABLE agent (
	id          TEXT NOT NULL PRIMARY KEY,
	name        TEXT NOT NULL UNIQUE,
	owner       TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('active', 'cloned', 'revoked')),
	cert_hash   BLOB NOT NULL,
	cert_before BLOB,
	cert_end    INTEGER NOT NULL,
	generation  INTEGER NOT NULL,
	instance    TEXT NOT NULL,
	version     TEXT NOT NULL,
	address     TEXT NOT NULL,
	targets     TEXT NOT NULL,
	enrolled_at INTEGER NOT NULL,
	started_at  INTEGER,
	seen_at     INTEGER
) STRICT;

-- Which certificates an agent keeps in service. csr is of the next key; chain
-- (PEM) is the newest certificate. issue_at is when the next is issued; deliver_at
-- when the agent is given the chain (again), NULL = it has it.
CREATE TABLE agent_assignment (
	id          TEXT NOT NULL PRIMARY KEY,
	agent_id    TEXT NOT NULL REFERENCES agent (id),
	names       TEXT NOT NULL,
	targets     TEXT NOT NULL,
	profile     TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('new', 'issued', 'live', 'failed')),
	csr         BLOB,
	chain       TEXT NOT NULL,
	leaf_hash   BLOB,
	not_after   INTEGER,
	issue_at    INTEGER NOT NULL,
	deliver_at  INTEGER,
	lease_token TEXT NOT NULL,
	attempt     INTEGER NOT NULL,
	error       TEXT NOT NULL,
	stderr      TEXT NOT NULL,
	took_ms     INTEGER NOT NULL,
	created_by  TEXT NOT NULL,
	created_at  INTEGER NOT NULL,
	reported_at INTEGER
) STRICT;
CREATE INDEX agent_assignment_agent ON agent_assignment (agent_id, id);
CREATE INDEX agent_assignment_issue ON agent_assignment (issue_at) WHERE csr IS NOT NULL;
CREATE INDEX agent_assignment_ask ON agent_assignment (issue_at) WHERE csr IS NULL;
CREATE INDEX agent_assignment_deliver ON agent_assignment (deliver_at) WHERE deliver_at IS NOT NULL;
