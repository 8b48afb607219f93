package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"chancery/internal/acme"
)

// refusal is a reply that says no.
type refusal struct {
	problem *acme.Problem
	after   time.Duration // Retry-After, 0 when the server gave none
}

// Error returns the text of the problem document.
func (r *refusal) Error() string { return r.problem.Error() }

// Unwrap returns the problem document.
func (r *refusal) Unwrap() error { return r.problem }

// errVerify marks an answer that is wrong: the worst a server can do.
var errVerify = errors.New("verification failed")

// classOf names the class of an error for the report. Overload is told apart
// from everything else: 429 and 503 have classes of their own.
func classOf(err error) string {
	var r *refusal
	var ne net.Error
	var de *net.DNSError
	switch {
	case errors.As(err, &r):
		return classOfProblem(r.problem)
	case errors.Is(err, errVerify):
		return "verify"
	case errors.Is(err, errUnfinished):
		return "unfinished"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "timeout"
	case errors.As(err, &de):
		return "dns"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection lost"
	case ne != nil:
		return "connection"
	}
	return "other"
}

func classOfProblem(p *acme.Problem) string {
	name := string(p.Code())
	if name == "" && p.Type != "about:blank" {
		name = p.Type
	}
	status := ""
	if p.Status >= 400 {
		status = strconv.Itoa(p.Status)
	}
	switch {
	case name == "" && status == "":
		return "refused"
	case name == "":
		return status
	case status == "":
		return name
	}
	return fmt.Sprintf("%s %s", status, name)
}

// retryAfter returns how long err asks to wait, or 0.
func retryAfter(err error) time.Duration {
	var r *refusal
	if errors.As(err, &r) {
		return r.after
	}
	return 0
}
