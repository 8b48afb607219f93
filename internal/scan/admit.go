package scan

import (
	"container/heap"
	"net/netip"
	"sync"
	"time"
)

// job is a target on its way through the stages.
type job struct {
	target     Target
	addr       netip.Addr
	ttl        time.Duration
	resolvedAt time.Time
	lookup     time.Duration
	attempts   int
	slow       bool // in the suspect lane
	ahead      bool // holds a place in the window of resolved targets
	host, net  *lane
}

// limits of one kind of lane.
type limits struct {
	most     int           // jobs at once
	interval time.Duration // between connections, on average
	burst    time.Duration // how far ahead of that a burst may run
}

func newLimits(most int, rate float64) limits {
	interval := time.Duration(float64(time.Second) / rate)
	return limits{most: most, interval: interval, burst: time.Duration(most) * interval}
}

// lane is one address or network: what is under way there and who waits for
// it. Waiting here holds neither a connection nor a place in flight.
type lane struct {
	*limits
	running int
	due     time.Time // theoretical arrival time (GCRA)
	waiting []*job
	timer   time.Time // when the rate lets the next one in; in the heap unless zero
}

// blocked reports whether l lets nobody in now, and until when if that is the
// rate's doing.
func (l *lane) blocked(now time.Time) (is bool, until time.Time) {
	if l.running >= l.most {
		return true, time.Time{}
	}
	if at := l.due.Add(-l.burst + l.interval); at.After(now) {
		return true, at
	}
	return false, time.Time{}
}

// enter books one job of so many connections.
func (l *lane) enter(now time.Time, connections int) {
	l.running++
	if l.due.Before(now) {
		l.due = now
	}
	l.due = l.due.Add(time.Duration(connections) * l.interval)
}

// idle reports whether l can be forgotten.
func (l *lane) idle(now time.Time) bool {
	return l.running == 0 && len(l.waiting) == 0 && l.timer.IsZero() && !l.due.After(now)
}

// timers is a heap of lanes by timer.
type timers []*lane

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].timer.Before(t[j].timer) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push implements heap.Interface.
func (t *timers) Push(x any) { *t = append(*t, x.(*lane)) }

// Pop implements heap.Interface.
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}

// sweepEvery is after how many admissions idle lanes are forgotten.
const sweepEvery = 4096

// admission decides who goes next.
type admission struct {
	hostLimits, netLimits limits
	connections           int // per job

	mu         sync.Mutex
	fast, slow queue
	hosts      map[netip.Addr]*lane
	nets       map[netip.Prefix]*lane
	timers     timers
	running    int // of the fast queue
	suspects   int // of the slow one
	admitted   int
	wake       chan struct{} // holds one: something changed
}

func newAdmission(host, net limits, connections int) *admission {
	return &admission{
		hostLimits: host, netLimits: net, connections: connections,
		hosts: make(map[netip.Addr]*lane), nets: make(map[netip.Prefix]*lane), wake: make(chan struct{}, 1),
	}
}

// signal wakes the dispatcher.
func (a *admission) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// add queues a job whose address is known.
func (a *admission) add(j *job) {
	a.mu.Lock()
	a.queue(j).push(j)
	a.mu.Unlock()
	a.signal()
}

func (a *admission) queue(j *job) *queue {
	if j.slow {
		return &a.slow
	}
	return &a.fast
}

// next returns a job that may go now, booked, or how long to wait at most.
// parked is called for each job that has to wait for its lane.
func (a *admission) next(now time.Time, limit, suspects int, parked func(*job)) (*job, time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.timers) > 0 && !a.timers[0].timer.After(now) {
		l := heap.Pop(&a.timers).(*lane)
		l.timer = time.Time{}
		a.unpark(l)
	}
	if a.running < limit {
		if j := a.take(&a.fast, now, parked); j != nil {
			a.running++
			return j, 0
		}
	}
	if a.suspects < suspects {
		if j := a.take(&a.slow, now, parked); j != nil {
			a.suspects++
			return j, 0
		}
	}
	if len(a.timers) > 0 {
		return nil, a.timers[0].timer.Sub(now)
	}
	return nil, time.Hour
}

// take returns the first job of q that its lanes let in.
func (a *admission) take(q *queue, now time.Time, parked func(*job)) *job {
	for j := q.pop(); j != nil; j = q.pop() {
		j.host, j.net = a.lanes(j.addr)
		if a.park(j.host, j, now) {
			if j.net.timer.IsZero() { // j gives up its turn there
				a.unpark(j.net)
			}
			parked(j)
			continue
		}
		if a.park(j.net, j, now) {
			parked(j)
			continue
		}
		j.host.enter(now, a.connections)
		j.net.enter(now, a.connections)
		if a.admitted++; a.admitted%sweepEvery == 0 {
			a.sweep(now)
		}
		return j
	}
	return nil
}

// park makes j wait for l if it must.
func (a *admission) park(l *lane, j *job, now time.Time) bool {
	blocked, until := l.blocked(now)
	if !blocked {
		return false
	}
	l.waiting = append(l.waiting, j)
	if !until.IsZero() && l.timer.IsZero() {
		l.timer = until
		heap.Push(&a.timers, l)
	}
	return true
}

// unpark lets as many of those who wait for l try again as could go.
func (a *admission) unpark(l *lane) {
	n := min(len(l.waiting), max(l.most-l.running, 0))
	for _, j := range l.waiting[:n] {
		a.queue(j).pushFront(j)
	}
	l.waiting = l.waiting[n:]
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
}

// leave books the end of a job.
func (a *admission) leave(j *job) {
	a.mu.Lock()
	if j.slow {
		a.suspects--
	} else {
		a.running--
	}
	for _, l := range [...]*lane{j.host, j.net} {
		l.running--
		if l.timer.IsZero() { // else its time will come
			a.unpark(l)
		}
	}
	j.host, j.net = nil, nil
	a.mu.Unlock()
	a.signal()
}

// lanes returns the lanes of an address.
func (a *admission) lanes(addr netip.Addr) (host, net *lane) {
	if host = a.hosts[addr]; host == nil {
		host = &lane{limits: &a.hostLimits}
		a.hosts[addr] = host
	}
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	prefix, _ := addr.WithZone("").Prefix(bits) // valid for every address
	if net = a.nets[prefix]; net == nil {
		net = &lane{limits: &a.netLimits}
		a.nets[prefix] = net
	}
	return host, net
}

// sweep forgets idle lanes. Jobs in a queue look theirs up when they come out.
func (a *admission) sweep(now time.Time) {
	for k, l := range a.hosts {
		if l.idle(now) {
			delete(a.hosts, k)
		}
	}
	for k, l := range a.nets {
		if l.idle(now) {
			delete(a.nets, k)
		}
	}
}

// demand reports whether every place within limit is taken.
func (a *admission) demand(limit int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.running >= limit
}

// queue is a first-in first-out list whose front takes jobs back.
type queue struct {
	front []*job // the last comes first
	list  []*job
	head  int
}

func (q *queue) push(j *job)      { q.list = append(q.list, j) }
func (q *queue) pushFront(j *job) { q.front = append(q.front, j) }

// pop returns the first job, or nil.
func (q *queue) pop() *job {
	if n := len(q.front); n > 0 {
		j := q.front[n-1]
		q.front[n-1] = nil
		q.front = q.front[:n-1]
		return j
	}
	if q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
		return nil
	}
	j := q.list[q.head]
	q.list[q.head] = nil
	q.head++
	if q.head > 1024 && q.head*2 > len(q.list) {
		q.list = append(q.list[:0], q.list[q.head:]...)
		q.head = 0
	}
	return j
}
