package renew

import (
	"time"

	"chancery/internal/obs"
)

// meters measure what the engine does.
type meters struct{ obtain, ask, deploy meter }

// meter measures one operation; the zero value measures nothing.
type meter struct{ op *obs.Op }

func newMeters(m *obs.Metrics) meters {
	if m == nil {
		return meters{}
	}
	return meters{obtain: meter{m.Op("renew")}, ask: meter{m.CA("renewal-info")}, deploy: meter{m.Op("deploy")}}
}

// timer is one run of an operation.
type timer struct {
	op *obs.Op
	at time.Time
}

func (m meter) start(now time.Time) timer { return timer{m.op, now} }

func (t timer) end(now time.Time, err error) {
	if t.op != nil {
		t.op.Observe(now.Sub(t.at), err)
	}
}
