package httpd

import "sync"

// scratchSize is the memory of one request, in octets: enough for an ACME
// message, what is decoded of it, and the answer.
const scratchSize = 6 << 10

// scratch is memory that requests use one after the other.
type scratch struct {
	used int
	mem  [scratchSize]byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Scratch returns an empty slice with room for n octets, which belong to the
// request until its answer is written, and to another request then: for what is
// read, decoded and answered, never for what is kept. It is not for goroutines
// that outlive the handler.
func (r *Request) Scratch(n int) []byte {
	x := r.x
	if x.scratch == nil {
		x.scratch = scratches.Get().(*scratch)
	}
	s := x.scratch
	if n < 0 || n > len(s.mem)-s.used {
		return make([]byte, 0, max(n, 0))
	}
	from := s.used
	s.used += n
	return s.mem[from:from:s.used]
}

// release gives the memory of the request to the next one.
func (x *exchange) release() {
	s := x.scratch
	if s == nil {
		return
	}
	x.scratch = nil
	copy(s.mem[:s.used], spoiled)
	s.used = 0
	scratches.Put(s)
}
