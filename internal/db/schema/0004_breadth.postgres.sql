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

-- Orders that renew themselves (RFC 8739). auto_renewal is what the order says;
-- a row of acme_star stands for one that was finalized. lifetime and adjust are
-- milliseconds; next_at is NULL when no certificate is due any more; intent_id
-- is a certificate whose signing is under way.
ALTER TABLE acme_order ADD COLUMN auto_renewal TEXT COLLATE "C";

CREATE TABLE acme_star (
	order_id       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('active', 'canceled', 'stopped')),
	start_at       BIGINT NOT NULL,
	end_at         BIGINT NOT NULL,
	lifetime       BIGINT NOT NULL,
	adjust         BIGINT NOT NULL,
	open           BIGINT NOT NULL,
	certificate_id TEXT COLLATE "C" NOT NULL,
	intent_id      TEXT COLLATE "C",
	next_at        BIGINT,
	lease_until    BIGINT NOT NULL,
	lease_token    TEXT COLLATE "C" NOT NULL,
	error          TEXT COLLATE "C"
);
CREATE INDEX acme_star_due ON acme_star (next_at) WHERE state = 'active' AND next_at IS NOT NULL;
CREATE INDEX acme_star_end ON acme_star (end_at);

-- Rate limits of single keys, in place of those of the configuration. count 0
-- lets the key do anything, deny nothing; times are milliseconds.
CREATE TABLE limit_override (
	name       TEXT COLLATE "C" NOT NULL,
	subject    TEXT COLLATE "C" NOT NULL,
	count      BIGINT NOT NULL,
	per        BIGINT NOT NULL,
	burst      BIGINT NOT NULL,
	deny       BIGINT NOT NULL,
	note       TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	expires_at BIGINT,
	PRIMARY KEY (name, subject)
);

-- What accounts of a binding key may do (NULL: anything), how many accounts it
-- makes, and how many it has made.
ALTER TABLE eab_key ADD COLUMN policy TEXT COLLATE "C";
ALTER TABLE eab_key ADD COLUMN accounts BIGINT NOT NULL DEFAULT 1;
ALTER TABLE eab_key ADD COLUMN used BIGINT NOT NULL DEFAULT 0;
