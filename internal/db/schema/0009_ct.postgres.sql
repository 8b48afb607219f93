-- Precertificates (RFC 6962): what was announced to logs before a certificate
-- was made. tbs is stored before it is signed, der before it leaves the
-- process; logged_at is when enough logs had given their timestamps.
CREATE TABLE precertificate (
	certificate_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	tbs_hash       BYTEA NOT NULL,
	tbs            BYTEA NOT NULL,
	der            BYTEA,
	created_at     BIGINT NOT NULL,
	logged_at      BIGINT
);
