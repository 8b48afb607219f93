package follow

import "time"

// SetLease makes others take over sooner.
func (f *Follower) SetLease(d time.Duration) { f.lease = d }
