package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"chancery/internal/api/client"
	"chancery/internal/fault"
)

// Exit codes; scripts rely on them.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitProblems = 3  // the command worked, and what it looked at is not in order
	exitPartial  = 4  // some of the work was done
	exitRetry    = 75 // EX_TEMPFAIL: the same command may work later
)

// exitError carries an exit code, and the next command when there is one to
// suggest.
type exitError struct {
	code int
	err  error
	next string // a command line, or ""
}

// Error implements error.
func (e *exitError) Error() string { return e.err.Error() }

// Unwrap returns the error behind it.
func (e *exitError) Unwrap() error { return e.err }

// usagef is an error in the command line itself.
func usagef(format string, args ...any) error {
	return &exitError{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// problems reports that a check found something: exit code 3.
func problems(next, format string, args ...any) error {
	return &exitError{code: exitProblems, err: fmt.Errorf(format, args...), next: next}
}

// exitCode maps an error to the exit code.
func exitCode(err error) int {
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	if _, held := errors.AsType[*client.Held](err); held {
		return exitRetry
	}
	if fault.Is(err, fault.Unavailable) || fault.Is(err, fault.RateLimited) {
		return exitRetry
	}
	return exitFailed
}

// report prints what went wrong and what to do next, and returns the code.
// Of a fault, the private cause is printed too: the reader is the operator.
func report(w io.Writer, cmd *cobra.Command, err error) int {
	code, next := exitCode(err), ""
	var e *exitError
	if errors.As(err, &e) {
		next = e.next
	}
	if held, ok := errors.AsType[*client.Held](err); ok {
		next = "chancery approvals show " + held.ID
	}
	if code == exitUsage && next == "" {
		next = "chancery help"
		if cmd != nil && cmd.HasParent() {
			next = cmd.CommandPath() + " --help"
		}
	}
	text := err.Error()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		text = f.Detail
		if cause := f.Unwrap(); cause != nil {
			text += ": " + cause.Error()
		}
		if f.RetryAfter > 0 {
			text += fmt.Sprintf(" (try again in %s)", f.RetryAfter)
		}
	}
	fmt.Fprintf(w, "chancery: %s\n", text)
	if next != "" {
		fmt.Fprintf(w, "next: %s\n", next)
	}
	return code
}
