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
