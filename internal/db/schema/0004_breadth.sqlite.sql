-- Every key that an account had before its present one: records of
-- dns-persist-01 are bound to a key and stay good when it is changed.
CREATE TABLE acme_old_key (
	account_id  TEXT NOT NULL,
	thumbprint  TEXT NOT NULL,
	replaced_at INTEGER NOT NULL,
	PRIMARY KEY (account_id, thumbprint)
) STRICT, WITHOUT ROWID;

-- When the account first completed dns-persist-01.
ALTER TABLE acme_account ADD COLUMN persist_at INTEGER;

-- Whether an authorization covers what is below its identifier (RFC 9444).
ALTER TABLE acme_authz ADD COLUMN subdomains INTEGER NOT NULL DEFAULT 0;

-- Orders that renew themselves (RFC 8739). auto_renewal is what the order says;
-- a row of acme_star stands for one that was finalized. lifetime and adjust are
-- milliseconds; next_at is NULL when no certificate is due any more; intent_id
-- is a certificate whose signing is under way.
ALTER TABLE acme_order ADD COLUMN auto_renewal TEXT;

CREATE TABLE acme_star (
	order_id       TEXT NOT NULL PRIMARY KEY,
	state          TEXT NOT NULL CHECK (state IN ('active', 'canceled', 'stopped')),
	start_at       INTEGER NOT NULL,
	end_at         INTEGER NOT NULL,
	lifetime       INTEGER NOT NULL,
	adjust         INTEGER NOT NULL,
	open           INTEGER NOT NULL,
	certificate_id TEXT NOT NULL,
	intent_id      TEXT,
	next_at        INTEGER,
	lease_until    INTEGER NOT NULL,
	lease_token    TEXT NOT NULL,
	error          TEXT
) STRICT;
CREATE INDEX acme_star_due ON acme_star (next_at) WHERE state = 'active' AND next_at IS NOT NULL;
CREATE INDEX acme_star_end ON acme_star (end_at);

-- Rate limits of single keys, in place of those of the configuration. count 0
-- lets the key do anything, deny nothing; times are milliseconds.
CREATE TABLE limit_override (
	name       TEXT NOT NULL,
	subject    TEXT NOT NULL,
	count      INTEGER NOT NULL,
	per        INTEGER NOT NULL,
	burst      INTEGER NOT NULL,
	deny       INTEGER NOT NULL,
	note       TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER,
	PRIMARY KEY (name, subject)
) STRICT, WITHOUT ROWID;

-- What accounts of a binding key may do (NULL: anything), how many accounts it
-- makes, and how many it has made.
ALTER TABLE eab_key ADD COLUMN policy TEXT;
ALTER TABLE eab_key ADD COLUMN accounts INTEGER NOT NULL DEFAULT 1;
ALTER TABLE eab_key ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
