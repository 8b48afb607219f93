-- What is spent of rate limits: the theoretical arrival time (Unix nanoseconds)
-- of each key, and what one unit took when it was counted (see internal/limit).
-- Only keys that spent much of a long limit have a row.
CREATE TABLE rate_limit (
	name        TEXT NOT NULL,
	key         TEXT NOT NULL,
	interval_ns INTEGER NOT NULL,
	tat         INTEGER NOT NULL,
	PRIMARY KEY (name, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX rate_limit_tat ON rate_limit (tat);
