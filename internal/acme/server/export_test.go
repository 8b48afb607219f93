package server

// ForgetOrders makes the server read from the database again, as tests need
// that write there themselves.
func (s *Server) ForgetOrders() { s.recent.clear() }
