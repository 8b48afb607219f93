-- Alert rules that people made, or changed: a row takes the place of the
-- built-in rule of its name. definition is the rule as JSON.
CREATE TABLE alert_rule (
	name       TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	definition TEXT COLLATE "C" NOT NULL,
	updated_by TEXT COLLATE "C" NOT NULL,
	updated_at BIGINT NOT NULL
);

-- How far each rule is. position is where the pass goes on, kept what outlives
-- a pass; number counts the passes. Whoever holds the lease moves the row on.
CREATE TABLE alert_run (
	rule        TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	number      BIGINT NOT NULL,
	position    TEXT COLLATE "C" NOT NULL,
	kept        TEXT COLLATE "C" NOT NULL,
	next_at     BIGINT NOT NULL,
	finished_at BIGINT,
	error       TEXT COLLATE "C" NOT NULL,
	lease_until BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL
);

-- One row per episode: from the first time that a rule found a subject until
-- it no longer did. seen is the pass that found it last. history holds a bit
-- per observation, the newest lowest; sample is the instant of the newest.
-- told_at is when its channels were given it, closed_at when they were given
-- its end, or nobody needed to be.
CREATE TABLE alert (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	rule        TEXT COLLATE "C" NOT NULL,
	subject     TEXT COLLATE "C" NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('pending', 'firing', 'resolved')),
	severity    TEXT COLLATE "C" NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
	summary     TEXT COLLATE "C" NOT NULL,
	labels      TEXT COLLATE "C" NOT NULL,
	since       BIGINT NOT NULL,
	fired_at    BIGINT,
	resolved_at BIGINT,
	seen        BIGINT NOT NULL,
	seen_at     BIGINT NOT NULL,
	history     BIGINT NOT NULL,
	sample      BIGINT NOT NULL,
	told_at     BIGINT,
	closed_at   BIGINT,
	escalate_at BIGINT,
	silence_id  TEXT COLLATE "C" NOT NULL
);
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
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	channel     TEXT COLLATE "C" NOT NULL,
	rule        TEXT COLLATE "C" NOT NULL,
	event       TEXT COLLATE "C" NOT NULL CHECK (event IN ('fire', 'escalate', 'resolve', 'test')),
	severity    TEXT COLLATE "C" NOT NULL,
	state       TEXT COLLATE "C" NOT NULL CHECK (state IN ('collecting', 'waiting', 'sent', 'failed')),
	alerts      BIGINT NOT NULL,
	attempts    BIGINT NOT NULL,
	error       TEXT COLLATE "C" NOT NULL,
	created_at  BIGINT NOT NULL,
	due_at      BIGINT NOT NULL,
	done_at     BIGINT,
	lease_until BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL
);
CREATE INDEX alert_delivery_open ON alert_delivery (channel, id) WHERE state IN ('collecting', 'waiting');
CREATE UNIQUE INDEX alert_delivery_collecting ON alert_delivery (channel, rule, event) WHERE state = 'collecting';
CREATE INDEX alert_delivery_done ON alert_delivery (done_at) WHERE done_at IS NOT NULL;

-- What was said where: an episode is told to a channel once per event.
CREATE TABLE alert_notice (
	alert_id    TEXT COLLATE "C" NOT NULL,
	channel     TEXT COLLATE "C" NOT NULL,
	event       TEXT COLLATE "C" NOT NULL,
	delivery_id TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (alert_id, channel, event)
);
CREATE INDEX alert_notice_delivery ON alert_notice (delivery_id, alert_id);

-- Silences: alerts that fit all matchers are not told until then.
CREATE TABLE alert_silence (
	id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	matchers   TEXT COLLATE "C" NOT NULL,
	reason     TEXT COLLATE "C" NOT NULL,
	created_by TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	ends_at    BIGINT NOT NULL
);
CREATE INDEX alert_silence_end ON alert_silence (ends_at);

-- Certificates that only a log or a probe knows, none of our own sources (1 ca,
-- 2 import, 8 ct, 64 renew): few rows, so that looking for them costs little.
CREATE INDEX inventory_stranger ON inventory (id) WHERE (source & 8) <> 0 AND (source & 67) = 0;
