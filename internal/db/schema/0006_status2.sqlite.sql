-- Which request made an incident: a client that lost the answer asks again
-- with the same key, and gets the incident instead of a second one.
ALTER TABLE incident ADD COLUMN request_key TEXT;
ALTER TABLE incident ADD COLUMN request_hash TEXT;
CREATE UNIQUE INDEX incident_request ON incident (request_key) WHERE request_key IS NOT NULL;
