-- What remote network perspectives said of an authorization: one row for each
-- time that they were asked after this server had been satisfied. at is the
-- instant of the question; observations is a JSON array, an object each.
CREATE TABLE acme_evidence (
	id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	authz_id     TEXT COLLATE "C" NOT NULL,
	kind         TEXT COLLATE "C" NOT NULL CHECK (kind IN ('validation', 'caa')),
	identifier   TEXT COLLATE "C" NOT NULL,
	method       TEXT COLLATE "C" NOT NULL,
	corroborated BIGINT NOT NULL,
	at           BIGINT NOT NULL,
	observations TEXT COLLATE "C" NOT NULL
);
CREATE INDEX acme_evidence_authz ON acme_evidence (authz_id, id);
