package alert

import (
	"time"

	"chancery/internal/loop"
)

// Takeover makes s another process's service after a crash, whose leases end
// at once and whose pauses are short.
func (s *Service) Takeover(token string, lease time.Duration, pause loop.Backoff) {
	s.token, s.lease, s.pause = token, lease, pause
}

// Glob is the matching of patterns.
func Glob(pattern, text string) bool { return glob(pattern, text) }
