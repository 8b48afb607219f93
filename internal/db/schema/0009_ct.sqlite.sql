-- Precertificates (RFC 6962): what was announced to logs before a certificate
-- was made. tbs is stored before it is signed, der before it leaves the
-- process; logged_at is when enough logs had given their timestamps.
CREATE TABLE precertificate (
	certificate_id TEXT NOT NULL PRIMARY KEY,
	tbs_hash       BLOB NOT NULL,
	tbs            BLOB NOT NULL,
	der            BLOB,
	created_at     INTEGER NOT NULL,
	logged_at      INTEGER
) STRICT;
