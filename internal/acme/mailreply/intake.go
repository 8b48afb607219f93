package mailreply

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/net/netutil"

	"chancery/internal/fault"
	"chancery/internal/obs"
)

// Bounds of the intake.
const (
	maxConnections = 32
	intakeTimeout  = 30 * time.Second // of one read or write
)

// Intake takes replies by SMTP (RFC 5321) or LMTP (RFC 2033), for one mailbox.
// It belongs behind a mail server of the operator's.
type Intake struct {
	Address string // the mailbox that replies go to
	LMTP    bool

	// Lookup returns the TXT records of a name.
	Lookup func(name string) ([]string, error)

	// Handle is given each reply that is what it should be. An error of status
	// 500 and above lets the mail server try again.
	Handle func(ctx context.Context, r *Reply) error

	Log *slog.Logger // nil: discard
}

// Serve takes replies from l until ctx ends, and closes l.
func (in *Intake) Serve(ctx context.Context, l net.Listener) error {
	if in.Log == nil {
		in.Log = obs.Discard()
	}
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{in: in, ctx: ctx}, nil }))
	s.LMTP, s.Domain = in.LMTP, in.Address[strings.LastIndexByte(in.Address, '@')+1:]
	s.MaxRecipients, s.MaxMessageBytes, s.MaxLineLength = 1, MaxMessage, 2000
	s.ReadTimeout, s.WriteTimeout = intakeTimeout, intakeTimeout
	s.ErrorLog = slog.NewLogLogger(in.Log.Handler(), slog.LevelDebug)
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	err := s.Serve(netutil.LimitListener(l, maxConnections))
	if ctx.Err() != nil || errors.Is(err, smtp.ErrServerClosed) {
		return nil
	}
	return err
}

// session is one connection.
type session struct {
	in  *Intake
	ctx context.Context
}

// Reset forgets the message that is under way; nothing is kept of it.
func (*session) Reset() {}

// Logout ends the connection.
func (*session) Logout() error { return nil }

// Mail takes any sender: the DKIM signature says who it is.
func (*session) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt takes the one mailbox.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !strings.EqualFold(to, s.in.Address) {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox here"}
	}
	return nil
}

// Data reads a message and hands it on.
func (s *session) Data(body io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(body, MaxMessage+1))
	if err != nil {
		return err
	}
	r, err := Parse(raw, s.in.Lookup)
	if err == nil {
		err = s.in.Handle(s.ctx, r)
	}
	if err == nil {
		return nil
	}
	s.in.Log.Info("reply to a challenge refused", "error", err)
	f := fault.As(err)
	if f.Status() >= http.StatusInternalServerError {
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "try again later"}
	}
	return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: strings.Join(strings.Fields(f.Detail), " ")}
}
