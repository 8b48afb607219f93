-- What remote network perspectives said of an authorization: one row for each
-- time that they were asked after this server had been satisfied. at is the
-- instant of the question; observations is a JSON array, an object each.
CREATE TABLE acme_evidence (
	id           TEXT NOT NULL PRIMARY KEY,
	authz_id     TEXT NOT NULL,
	kind         TEXT NOT NULL CHECK (kind IN ('validation', 'caa')),
	identifier   TEXT NOT NULL,
	method       TEXT NOT NULL,
	corroborated INTEGER NOT NULL,
	at           INTEGER NOT NULL,
	observations TEXT NOT NULL
) STRICT;
CREATE INDEX acme_evidence_authz ON acme_evidence (authz_id, id);
