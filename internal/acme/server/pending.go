package server

import (
	"context"
	"time"

	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/httpd"
	"chancery/internal/loop"
)

type validation struct{}

func (s *Server) unfinished(m *message) (*httpd.Reply, error) {
	return nil, fault.New(fault.ServerInternal, "not there yet")
}
func (s *Server) getRenewalInfo(r *httpd.Request, a *authority) (*httpd.Reply, error) {
	return s.unfinished(nil)
}
func (s *Server) listOrders(m *message) (*httpd.Reply, error)     { return s.unfinished(m) }
func (s *Server) newOrder(m *message) (*httpd.Reply, error)       { return s.unfinished(m) }
func (s *Server) getOrder(m *message) (*httpd.Reply, error)       { return s.unfinished(m) }
func (s *Server) finalize(m *message) (*httpd.Reply, error)       { return s.unfinished(m) }
func (s *Server) newAuthz(m *message) (*httpd.Reply, error)       { return s.unfinished(m) }
func (s *Server) postAuthz(m *message) (*httpd.Reply, error)      { return s.unfinished(m) }
func (s *Server) postChallenge(m *message) (*httpd.Reply, error)  { return s.unfinished(m) }
func (s *Server) getCertificate(m *message) (*httpd.Reply, error) { return s.unfinished(m) }
func (s *Server) revoke(m *message) (*httpd.Reply, error)         { return s.unfinished(m) }

// Recover resumes or fails orders that a crash left in processing and that
// were claimed before the given instant, and returns how many it settled.
func (s *Server) Recover(ctx context.Context, claimedBefore time.Time) (int, error) { return 0, nil }

// Expire deletes one batch of what is past its retention.
func (s *Server) Expire(ctx context.Context, now time.Time) (loop.Count, error) {
	return loop.Count{}, nil
}

// Check reports orders and authorizations that break I3 or I6.
func (s *Server) Check(ctx context.Context, q db.Q, now time.Time, report func(ca.Finding)) error {
	return nil
}
