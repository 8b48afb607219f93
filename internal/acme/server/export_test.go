package server

import "time"

// Hold is how long one more answer to an account that floods is held back, on
// average, when so many are.
func Hold(parked int) time.Duration { return hold(parked) }

// ForgetOrders makes the server read from the database again, as tests need
// that write there themselves.
func (s *Server) ForgetOrders() { s.recent.clear() }
