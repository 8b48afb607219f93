-- What the fleet shows by state.
CREATE INDEX agent_assignment_state ON agent_assignment (state, id);

-- Alerts of one rule.
CREATE INDEX alert_state_rule ON alert (state, rule, id);

-- Policies: what the inventory must not hold. query finds the violations;
-- shadow only reports them, enforce has our own authorities refuse them.
CREATE TABLE inventory_policy (
	id         TEXT NOT NULL PRIMARY KEY,
	name       TEXT NOT NULL UNIQUE,
	query      TEXT NOT NULL,
	severity   TEXT NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
	mode       TEXT NOT NULL CHECK (mode IN ('shadow', 'enforce')),
	note       TEXT NOT NULL,
	created_by TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	updated_by TEXT NOT NULL,
	updated_at INTEGER NOT NULL
) STRICT;
