-- What is spent of rate limits: the theoretical arrival time (Unix nanoseconds)
-- of each key, and what one unit took when it was counted (see internal/limit).
-- Only keys that spent much of a long limit have a row.
CREATE TABLE rate_limit (
	name        TEXT COLLATE "C" NOT NULL,
	key         TEXT COLLATE "C" NOT NULL,
	interval_ns BIGINT NOT NULL,
	tat         BIGINT NOT NULL,
	PRIMARY KEY (name, key)
);
CREATE INDEX rate_limit_tat ON rate_limit (tat);
