-- Certificates that the renewal engine keeps alive. Texts with several values
-- are JSON; names are "type:value" in canonical order, a space between them.
CREATE TABLE managed (
	id             TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name           TEXT COLLATE "C" NOT NULL UNIQUE,
	names          TEXT COLLATE "C" NOT NULL,
	owner          TEXT COLLATE "C" NOT NULL,
	issuer         TEXT COLLATE "C" NOT NULL,
	fallbacks      TEXT COLLATE "C" NOT NULL,
	key_type       TEXT COLLATE "C" NOT NULL,
	key_policy     TEXT COLLATE "C" NOT NULL CHECK (key_policy IN ('new', 'reuse')),
	profile        TEXT COLLATE "C" NOT NULL,
	targets        TEXT COLLATE "C" NOT NULL,
	endpoints      TEXT COLLATE "C" NOT NULL,
	renew_before   BIGINT NOT NULL,
	state          TEXT COLLATE "C" NOT NULL CHECK (state IN ('due', 'ordered', 'authz_pending', 'posted', 'ready', 'finalizing', 'issued', 'deploying', 'verified', 'idle', 'stopped')),
	paused         BIGINT NOT NULL,
	urgent         BIGINT NOT NULL,
	live_id        TEXT COLLATE "C",
	work_id        TEXT COLLATE "C",
	certificate_id TEXT COLLATE "C",
	issued_by      TEXT COLLATE "C" NOT NULL,
	ari_id         TEXT COLLATE "C" NOT NULL,
	not_before     BIGINT,
	not_after      BIGINT,
	renew_at       BIGINT,
	ask_at         BIGINT,
	window_start   BIGINT,
	window_end     BIGINT,
	explanation    TEXT COLLATE "C" NOT NULL,
	provider       TEXT COLLATE "C" NOT NULL,
	attempts       BIGINT NOT NULL,
	error_class    TEXT COLLATE "C" NOT NULL,
	error          TEXT COLLATE "C" NOT NULL,
	failed_at      BIGINT,
	drill_id       TEXT COLLATE "C",
	created_at     BIGINT NOT NULL,
	updated_at     BIGINT NOT NULL
);
CREATE INDEX managed_issuer ON managed (issuer, id);
CREATE INDEX managed_expiry ON managed (not_after, id);
CREATE INDEX managed_certificate ON managed (certificate_id) WHERE certificate_id IS NOT NULL;
CREATE INDEX managed_drill ON managed (drill_id, id) WHERE drill_id IS NOT NULL;
CREATE INDEX managed_trouble ON managed (id) WHERE error_class <> '';

-- When somebody must look at a certificate again: the only table that a waiting
-- engine reads. A claim moves due_at to the end of the lease and sets the
-- token; a row whose engine died comes back by itself. Its one index is by lane
-- (what to do, and at which CA), so that a lane that cannot move is never read
-- past.
CREATE TABLE managed_schedule (
	managed_id  TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	due_at      BIGINT NOT NULL,
	kind        TEXT COLLATE "C" NOT NULL CHECK (kind IN ('check', 'issue', 'hold')),
	ca          TEXT COLLATE "C" NOT NULL,
	attempt     BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL
);
CREATE INDEX managed_schedule_due ON managed_schedule (kind, ca, due_at);

-- One try to get a certificate, with everything that its repetition needs. key
-- is sealed; data is the issuer's own.
CREATE TABLE managed_issuance (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	managed_id  TEXT COLLATE "C" NOT NULL,
	issuer      TEXT COLLATE "C" NOT NULL,
	trial       BIGINT NOT NULL,
	key         BYTEA NOT NULL,
	csr         BYTEA NOT NULL,
	replaces    BYTEA,
	step        TEXT COLLATE "C" NOT NULL,
	data        BYTEA,
	chain       BYTEA,
	fingerprint TEXT COLLATE "C",
	created_at  BIGINT NOT NULL,
	issued_at   BIGINT
);
CREATE INDEX managed_issuance_of ON managed_issuance (managed_id, id);

-- What each target should serve and does serve. due_at is NULL when nothing is
-- to be done.
CREATE TABLE managed_target (
	managed_id  TEXT COLLATE "C" NOT NULL,
	target      TEXT COLLATE "C" NOT NULL,
	want_id     TEXT COLLATE "C" NOT NULL,
	live_id     TEXT COLLATE "C",
	due_at      BIGINT,
	urgent      BIGINT NOT NULL,
	attempt     BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL,
	error       TEXT COLLATE "C" NOT NULL,
	detail      TEXT COLLATE "C" NOT NULL,
	updated_at  BIGINT NOT NULL,
	PRIMARY KEY (managed_id, target)
);
CREATE INDEX managed_target_due ON managed_target (target, due_at) WHERE due_at IS NOT NULL;

-- Decisions about one certificate, the last ones only: what `certs explain` says.
CREATE TABLE managed_event (
	managed_id TEXT COLLATE "C" NOT NULL,
	id         TEXT COLLATE "C" NOT NULL,
	at         BIGINT NOT NULL,
	rule       TEXT COLLATE "C" NOT NULL,
	detail     TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (managed_id, id)
);

-- What many certificates share and wait for together: an issuer, a deployment
-- target, a DNS provider's account. Breakers, pauses and sleeping budgets are
-- rows, so that every replica obeys them and a restart forgets nothing.
CREATE TABLE renew_lane (
	kind        TEXT COLLATE "C" NOT NULL CHECK (kind IN ('issuer', 'target', 'provider')),
	name        TEXT COLLATE "C" NOT NULL,
	paused      BIGINT NOT NULL,
	divert      TEXT COLLATE "C" NOT NULL,
	sleep_until BIGINT,
	failures    BIGINT NOT NULL,
	opened_at   BIGINT,
	open_until  BIGINT,
	open_for    BIGINT NOT NULL,
	ramp        BIGINT NOT NULL,
	lease_token TEXT COLLATE "C" NOT NULL,
	lease_until BIGINT,
	error       TEXT COLLATE "C" NOT NULL,
	updated_at  BIGINT NOT NULL,
	PRIMARY KEY (kind, name)
);

-- Budgets (GCRA): one theoretical arrival time, in Unix nanoseconds, for each
-- limit and what it counts.
CREATE TABLE renew_budget (
	issuer  TEXT COLLATE "C" NOT NULL,
	budget  TEXT COLLATE "C" NOT NULL,
	subject TEXT COLLATE "C" NOT NULL,
	tat     BIGINT NOT NULL,
	PRIMARY KEY (issuer, budget, subject)
);

-- Small secrets of issuers (an ACME account key), sealed.
CREATE TABLE issuer_secret (
	issuer     TEXT COLLATE "C" NOT NULL,
	name       TEXT COLLATE "C" NOT NULL,
	value      BYTEA NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (issuer, name)
);

-- Rehearsals: what was to be replaced, and how long it took.
CREATE TABLE renew_drill (
	id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	issuer      TEXT COLLATE "C" NOT NULL,
	owner       TEXT COLLATE "C" NOT NULL,
	total       BIGINT NOT NULL,
	done        BIGINT NOT NULL,
	failed      BIGINT NOT NULL,
	actor       TEXT COLLATE "C" NOT NULL,
	started_at  BIGINT NOT NULL,
	finished_at BIGINT
);

-- Certificates that our own CA issued on the operator's word: the answer to a
-- repeated request.
CREATE TABLE operator_issue (
	request_id     TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	certificate_id TEXT COLLATE "C" NOT NULL
);
