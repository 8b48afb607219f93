-- The journal as a Merkle tree (RFC 6962 section 2.1). A node of level n is the
-- hash over the 256^n entries from idx * 256^n on; lower hashes are computed
-- from the entries themselves.
CREATE TABLE journal_node (
	level INTEGER NOT NULL CHECK (level > 0),
	idx   INTEGER NOT NULL,
	hash  BLOB NOT NULL,
	PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;

-- Signed statements about the tree of the first size entries.
CREATE TABLE journal_checkpoint (
	size       INTEGER NOT NULL PRIMARY KEY,
	note       TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT;

-- Keys that have signed checkpoints, as verifier keys of signed notes.
CREATE TABLE journal_signer (
	vkey       TEXT NOT NULL PRIMARY KEY,
	created_at INTEGER NOT NULL
) STRICT;
