-- Alert rules that people made, or changed: a row takes the place of the
-- built-in rule of its name. definition is the rule as JSON.
CREATE TABLE alert_rule (
	name       TEXT NOT NULL PRIMARY KEY,
	definition TEXT NOT NULL,
	updated_by TEXT NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;

-- How far each rule is. position is where the pass goes on, kept what outlives
-- a pass; number counts the passes. Whoever holds the lease moves the row on.
CREATE TABLE alert_run (
	rule        TEXT NOT NULL PRIMARY KEY,
	number      INTEGER NOT NULL,
	position    TEXT NOT NULL,
	kept        TEXT NOT NULL,
	next_at     INTEGER NOT NULL,
	finished_at INTEGER,
	error       TEXT NOT NULL,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT;

-- One row per episode: from the first time that a rule found a subject until
-- it no longer did. seen is the pass that found it last. history holds a bit
-- per observation, the newest lowest; sample is the instant of the newest.
-- told_at is when its channels were given it, closed_at when they were given
-- its end, or nobody needed to be.
CREATE TABLE alert (
	id          TEXT NOT NULL PRIMARY KEY,
	rule        TEXT NOT NULL,
	subject     TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('pending', 'firing', 'resolved')),
	severity    TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
	summary     TEXT NOT NULL,
	labels      TEXT NOT NULL,
	since       INTEGER NOT NULL,
	fired_at    INTEGER,
	resolved_at INTEGER,
	seen        INTEGER NOT NULL,
	seen_at     INTEGER NOT NULL,
	history     INTEGER NOT NULL,
	sample      INTEGER NOT NULL,
	told_at     INTEGER,
	closed_at   INTEGER,
	escalate_at INTEGER,
	silence_id  TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX alert_open ON alert (rule, subject) WHERE state <> 'resolved';
CREATE INDEX alert_unseen ON alert (rule, seen, id) WHERE state <> 'resolved';
CREATE INDEX alert_state ON alert (state, id);
CREATE INDEX alert_untold ON alert (id) WHERE state = 'firing' AND told_at IS NULL;
CREATE INDEX alert_unclosed ON alert (id) WHERE state = 'resolved' AND closed_at IS NULL;
CREATE INDEX alert_escalation ON alert (escalate_at) WHERE state = 'firing' AND escalate_at IS NOT NULL;
CREATE INDEX alert_ended ON alert (resolved_at) WHERE state = 'resolved';

-- Messages to channels, and the log of them. While it collects, alerts of the
-- same rule, event and channel join it; the first attempt to send ends that.
CREATE TABLE alert_delivery (
	id          TEXT NOT NULL PRIMARY KEY,
	channel     TEXT NOT NULL,
	rule        TEXT NOT NULL,
	event       TEXT NOT NULL CHECK (event IN ('fire', 'escalate', 'resolve', 'test')),
	severity    TEXT NOT NULL,
	state       TEXT NOT NULL CHECK (state IN ('collecting', 'waiting', 'sent', 'failed')),
	alerts      INTEGER NOT NULL,
	attempts    INTEGER NOT NULL,
	error       TEXT NOT NULL,
	created_at  INTEGER NOT NULL,
	due_at      INTEGER NOT NULL,
	done_at     INTEGER,
	lease_until INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT;
CREATE INDEX alert_delivery_open ON alert_delivery (channel, id) WHERE state IN ('collecting', 'waiting');
CREATE UNIQUE INDEX alert_delivery_collecting ON alert_delivery (channel, rule, event) WHERE state = 'collecting';
CREATE INDEX alert_delivery_done ON alert_delivery (done_at) WHERE done_at IS NOT NULL;

-- What was said where: an episode is told to a channel once per event.
CREATE TABLE alert_notice (
	alert_id    TEXT NOT NULL,
	channel     TEXT NOT NULL,
	event       TEXT NOT NULL,
	delivery_id TEXT NOT NULL,
	PRIMARY KEY (alert_id, channel, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX alert_notice_delivery ON alert_notice (delivery_id, alert_id);

-- Silences: alerts that fit all matchers are not told until then.
CREATE TABLE alert_silence (
	id         TEXT NOT NULL PRIMARY KEY,
	matchers   TEXT NOT NULL,
	reason     TEXT NOT NULL,
	created_by TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	ends_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX alert_silence_end ON alert_silence (ends_at);

-- Certificates that only a log or a probe knows, none of our own sources (1 ca,
-- 2 import, 8 ct, 64 renew): few rows, so that looking for them costs little.
CREATE INDEX inventory_stranger ON inventory (id) WHERE (source & 8) <> 0 AND (source & 67) = 0;
