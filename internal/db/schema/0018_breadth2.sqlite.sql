-- Delegations (RFC 9115): account_id may order names that owner_id has
-- authorized, with requests that fit csr_template. cname_map is a JSON object.
CREATE TABLE acme_delegation (
	id           TEXT NOT NULL PRIMARY KEY,
	ca           TEXT NOT NULL,
	account_id   TEXT NOT NULL,
	owner_id     TEXT NOT NULL,
	profile      TEXT NOT NULL,
	csr_template TEXT NOT NULL,
	cname_map    TEXT,
	created_at   INTEGER NOT NULL,
	ended_at     INTEGER
) STRICT;
CREATE INDEX acme_delegation_account ON acme_delegation (account_id, id);

-- Of an order under a delegation, and whose authorizations it stands on; and
-- whether anybody may fetch the certificate of an order.
ALTER TABLE acme_order ADD COLUMN delegation_id TEXT;
ALTER TABLE acme_order ADD COLUMN owner_id TEXT;
ALTER TABLE acme_order ADD COLUMN open INTEGER NOT NULL DEFAULT 0;
CREATE INDEX acme_order_delegation ON acme_order (delegation_id) WHERE delegation_id IS NOT NULL;

-- Authority tokens (RFC 9447) that were used, until they expire: by the hash of
-- the root of their authority and their id.
CREATE TABLE acme_spent_token (
	authority  TEXT NOT NULL,
	token_id   TEXT NOT NULL,
	expires_at INTEGER NOT NULL,
	PRIMARY KEY (authority, token_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX acme_spent_token_expiry ON acme_spent_token (expires_at);
