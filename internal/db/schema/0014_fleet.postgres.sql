-- Enrolment tokens of agents. hash is the SHA-256 of the secret; cidr is where
-- it may be used from, '' = anywhere.
CREATE TABLE agent_token (
	id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	hash         BYTEA NOT NULL,
	name_pattern TEXT COLLATE "C" NOT NULL,
	owner        TEXT COLLATE "C" NOT NULL,
	cidr         TEXT COLLATE "C" NOT NULL,
	created_by   TEXT COLLATE "C" NOT NULL,
	created_at   BIGINT NOT NULL,
	expires_at   BIGINT NOT NULL,
	used_at      BIGINT,
	agent_id     TEXT COLLATE "C"
);

-- Agents. cert_hash is the SHA-256 of the certificate that identifies one, and
-- cert_before that of the one before it. generation and instance tell an agent
-- from a copy of it. seen_at is written in batches.
CREATE TABLE agent (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name        TEXT COLLATE "C" NOT NULL UNIQUE,
	owner       TEXT COLLATE "C" NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'cloned', 'revoked')),
	cert_hash   BYTEA NOT NULL,
	cert_before BYTEA,
	cert_end    BIGINT NOT NULL,
	generation  BIGINT NOT NULL,
	instance    TEXT COLLATE "C" NOT NULL,
	version     TEXT COLLATE "C" NOT NULL,
	address     TEXT COLLATE "C" NOT NULL,
	targets     TEXT COLLATE "C" NOT NULL,
	enrolled_at BIGINT NOT NULL,
	started_at  BIGINT,
	seen_at     BIGINT
);

-- Which certificates an agent keeps in service. csr is of the next key; chain
-- (PEM) is the newest certificate. issue_at is when the next is issued; deliver_at
-- when the agent is given the chain (again), NULL = it has it.
CREATE TABLE agent_assignment (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	agent_id    TEXT COLLATE "C" NOT NULL REFERENCES agent (id),
	names       TEXT COLLATE "C" NOT NULL,
	targets     TEXT COLLATE "C" NOT NULL,
	profile     TEXT COLLATE "C" NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('new', 'issued', 'live', 'failed')),
	csr         BYTEA,
	chain       TEXT COLLATE "C" NOT NULL,
	leaf_hash   BYTEA,
	not_after   BIGINT,
	issue_at    BIGINT NOT NULL,
	deliver_at  BIGINT,
	lease_token TEXT COLLATE "C" NOT NULL,
	attempt     BIGINT NOT NULL,
	error       TEXT COLLATE "C" NOT NULL,
	stderr      TEXT COLLATE "C" NOT NULL,
	took_ms     BIGINT NOT NULL,
	created_by  TEXT COLLATE "C" NOT NULL,
	created_at  BIGINT NOT NULL,
	reported_at BIGINT
);
CREATE INDEX agent_assignment_agent ON agent_assignment (agent_id, id);
CREATE INDEX agent_assignment_issue ON agent_assignment (issue_at) WHERE csr IS NOT NULL;
CREATE INDEX agent_assignment_ask ON agent_assignment (issue_at) WHERE csr IS NULL;
CREATE INDEX agent_assignment_deliver ON agent_assignment (deliver_at) WHERE deliver_at IS NOT NULL;
