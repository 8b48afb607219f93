-- What the fleet shows by state.
CREATE INDEX agent_assignment_state ON agent_assignment (state, id);

-- Alerts of one rule.
CREATE INDEX alert_state_rule ON alert (state, rule, id);

-- Policies: what the inventory must not hold. query finds the violations;
-- shadow only reports them, enforce has our own authorities refuse them.
CREATE TABLE inventory_policy (
	id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	name       TEXT COLLATE "C" NOT NULL UNIQUE,
	query      TEXT COLLATE "C" NOT NULL,
	severity   TEXT COLLATE "C" NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
	mode       TEXT COLLATE "C" NOT NULL CHECK (mode IN ('shadow', 'enforce')),
	note       TEXT COLLATE "C" NOT NULL,
	created_by TEXT COLLATE "C" NOT NULL,
	created_at BIGINT NOT NULL,
	updated_by TEXT COLLATE "C" NOT NULL,
	updated_at BIGINT NOT NULL
);
