-- Every key that an account had before its present one: records of
-- dns-persist-01 are bound to a key and stay good when it is changed.
CREATE TABLE acme_old_key (
	account_id  TEXT COLLATE "C" NOT NULL,
	thumbprint  TEXT COLLATE "C" NOT NULL,
	replaced_at BIGINT NOT NULL,
	PRIMARY KEY (account_id, thumbprint)
);

-- When the account first completed dns-persist-01.
ALTER TABLE acme_account ADD COLUMN persist_at BIGINT;

-- Whether an authorization covers what is below its identifier (RFC 9444).
ALTER TABLE acme_authz ADD COLUMN subdomains BIGINT NOT NULL DEFAULT 0;
