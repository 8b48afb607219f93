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

-- Messages of email-reply-00 (RFC 8823), one for each authorization with such a
-- challenge. part1 is the mailed part of the token, reply the digest in the
-- answer to the message; answered is whether the client has said that it
-- replied. due_at is NULL when there is nothing more to send.
CREATE TABLE acme_mail (
	authz_id    TEXT NOT NULL PRIMARY KEY,
	address     TEXT NOT NULL,
	part1       TEXT NOT NULL,
	message_id  TEXT NOT NULL,
	attempts    INTEGER NOT NULL,
	error       TEXT,
	reply       TEXT,
	answered    INTEGER NOT NULL,
	created_at  INTEGER NOT NULL,
	due_at      INTEGER,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX acme_mail_part1 ON acme_mail (part1);
CREATE INDEX acme_mail_due ON acme_mail (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX acme_mail_created ON acme_mail (created_at);
