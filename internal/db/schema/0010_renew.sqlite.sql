-- Certificates that the renewal engine keeps alive. Texts with several values
-- are JSON; names are "type:value" in canonical order, a space between them.
CREATE TABLE managed (
	id             TEXT NOT NULL PRIMARY KEY,
	name           TEXT NOT NULL UNIQUE,
	names          TEXT NOT NULL,
	owner          TEXT NOT NULL,
	issuer         TEXT NOT NULL,
	fallbacks      TEXT NOT NULL,
	key_type       TEXT NOT NULL,
	key_policy     TEXT NOT NULL CHECK (key_policy IN ('new', 'reuse')),
	profile        TEXT NOT NULL,
	targets        TEXT NOT NULL,
	endpoints      TEXT NOT NULL,
	renew_before   INTEGER NOT NULL,
	state          TEXT NOT NULL CHECK (state IN ('due', 'ordered', 'authz_pending', 'posted', 'ready', 'finalizing', 'issued', 'deploying', 'verified', 'idle', 'stopped')),
	paused         INTEGER NOT NULL,
	urgent         INTEGER NOT NULL,
	live_id        TEXT,
	work_id        TEXT,
	certificate_id TEXT,
	issued_by      TEXT NOT NULL,
	ari_id         TEXT NOT NULL,
	not_before     INTEGER,
	not_after      INTEGER,
	renew_at       INTEGER,
	ask_at         INTEGER,
	window_start   INTEGER,
	window_end     INTEGER,
	explanation    TEXT NOT NULL,
	provider       TEXT NOT NULL,
	attempts       INTEGER NOT NULL,
	error_class    TEXT NOT NULL,
	error          TEXT NOT NULL,
	failed_at      INTEGER,
	drill_id       TEXT,
	created_at     INTEGER NOT NULL,
	updated_at     INTEGER NOT NULL
) STRICT;
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
	managed_id  TEXT NOT NULL PRIMARY KEY,
	due_at      INTEGER NOT NULL,
	kind        TEXT NOT NULL CHECK (kind IN ('check', 'issue', 'hold')),
	ca          TEXT NOT NULL,
	attempt     INTEGER NOT NULL,
	lease_token TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX managed_schedule_due ON managed_schedule (kind, ca, due_at);

-- One try to get a certificate, with everything that its repetition needs. key
-- is sealed; data is the issuer's own.
CREATE TABLE managed_issuance (
	id          TEXT NOT NULL PRIMARY KEY,
	managed_id  TEXT NOT NULL,
	issuer      TEXT NOT NULL,
	trial       INTEGER NOT NULL,
	key         BLOB NOT NULL,
	csr         BLOB NOT NULL,
	replaces    BLOB,
	step        TEXT NOT NULL,
	data        BLOB,
	chain       BLOB,
	fingerprint TEXT,
	created_at  INTEGER NOT NULL,
	issued_at   INTEGER
) STRICT;
CREATE INDEX managed_issuance_of ON managed_issuance (managed_id, id);

-- What each target should serve and does serve. due_at is NULL when nothing is
-- to be done.
CREATE TABLE managed_target (
	managed_id  TEXT NOT NULL,
	target      TEXT NOT NULL,
	want_id     TEXT NOT NULL,
	live_id     TEXT,
	due_at      INTEGER,
	urgent      INTEGER NOT NULL,
	attempt     INTEGER NOT NULL,
	lease_token TEXT NOT NULL,
	error       TEXT NOT NULL,
	detail      TEXT NOT NULL,
	updated_at  INTEGER NOT NULL,
	PRIMARY KEY (managed_id, target)
) STRICT, WITHOUT ROWID;
CREATE INDEX managed_target_due ON managed_target (target, due_at) WHERE due_at IS NOT NULL;

-- Decisions about one certificate, the last ones only: what `certs explain` says.
CREATE TABLE managed_event (
	managed_id TEXT NOT NULL,
	id         TEXT NOT NULL,
	at         INTEGER NOT NULL,
	rule       TEXT NOT NULL,
	detail     TEXT NOT NULL,
	PRIMARY KEY (managed_id, id)
) STRICT, WITHOUT ROWID;

-- What many certificates share and wait for together: an issuer, a deployment
-- target, a DNS provider's account. Breakers, pauses and sleeping budgets are
-- rows, so that every replica obeys them and a restart forgets nothing.
CREATE TABLE renew_lane (
	kind        TEXT NOT NULL CHECK (kind IN ('issuer', 'target', 'provider')),
	name        TEXT NOT NULL,
	paused      INTEGER NOT NULL,
	divert      TEXT NOT NULL,
	sleep_until INTEGER,
	failures    INTEGER NOT NULL,
	opened_at   INTEGER,
	open_until  INTEGER,
	open_for    INTEGER NOT NULL,
	ramp        INTEGER NOT NULL,
	lease_token TEXT NOT NULL,
	lease_until INTEGER,
	error       TEXT NOT NULL,
	updated_at  INTEGER NOT NULL,
	PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- Budgets (GCRA): one theoretical arrival time, in Unix nanoseconds, for each
-- limit and what it counts.
CREATE TABLE renew_budget (
	issuer  TEXT NOT NULL,
	budget  TEXT NOT NULL,
	subject TEXT NOT NULL,
	tat     INTEGER NOT NULL,
	PRIMARY KEY (issuer, budget, subject)
) STRICT, WITHOUT ROWID;

-- Small secrets of issuers (an ACME account key), sealed.
CREATE TABLE issuer_secret (
	issuer     TEXT NOT NULL,
	name       TEXT NOT NULL,
	value      BLOB NOT NULL,
	updated_at INTEGER NOT NULL,
	PRIMARY KEY (issuer, name)
) STRICT, WITHOUT ROWID;

-- Rehearsals: what was to be replaced, and how long it took.
CREATE TABLE renew_drill (
	id          TEXT NOT NULL PRIMARY KEY,
	issuer      TEXT NOT NULL,
	owner       TEXT NOT NULL,
	total       INTEGER NOT NULL,
	done        INTEGER NOT NULL,
	failed      INTEGER NOT NULL,
	actor       TEXT NOT NULL,
	started_at  INTEGER NOT NULL,
	finished_at INTEGER
) STRICT;

-- Certificates that our own CA issued on the operator's word: the answer to a
-- repeated request.
CREATE TABLE operator_issue (
	request_id     TEXT NOT NULL PRIMARY KEY,
	certificate_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
