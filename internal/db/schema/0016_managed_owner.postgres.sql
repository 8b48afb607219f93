-- The managed certificates of an owner: bulk renewals, and what somebody whose
-- sign-in is limited to owners may list.
CREATE INDEX managed_owner ON managed (owner, id);
