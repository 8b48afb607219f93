package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
)

// maxNonceRetries bounds how often a request is repeated for its nonce (RFC
// 8555 section 6.5).
const maxNonceRetries = 5

const joseHeader = "Content-Type: application/jose+json\r\n"

// session is one client of an ACME server: a connection, an account and the
// nonce of the last reply. It makes one request at a time.
type session struct {
	http   *caller
	dir    *acme.Directory
	signer *acme.Signer
	kid    string // account URL, "" before the account exists
	nonce  string
}

// getDirectory fetches the directory of a server.
func getDirectory(ctx context.Context, c *caller, url string) (*acme.Directory, error) {
	res, err := c.do(ctx, &Sample{}, "GET", url, "", nil)
	if err != nil {
		return nil, fmt.Errorf("get directory: %w", err)
	}
	if res.status != 200 {
		return nil, fmt.Errorf("get directory %s: %w", url, refused(res))
	}
	dir, err := acme.Decode[acme.Directory](res.body)
	if err != nil {
		return nil, fmt.Errorf("read directory %s: %w", url, err)
	}
	if dir.NewNonce == "" || dir.NewAccount == "" || dir.NewOrder == "" {
		return nil, fault.New(fault.Invalid, "%s is not an ACME directory: newNonce, newAccount or newOrder is missing", url)
	}
	return &dir, nil
}

// refused is the error of a reply that is not what was asked for.
func refused(res *reply) error {
	return &refusal{acme.ParseProblem(res.mediaType, res.status, res.body), res.retryAfter}
}

// post sends a signed request; payload nil is POST-as-GET. A reply of 400 and
// above is a *refusal. A bad nonce is tried again with the nonce that came
// with the refusal.
func (s *session) post(ctx context.Context, sample *Sample, url string, payload []byte) (*reply, error) {
	for try := 0; ; try++ {
		res, err := s.postOnce(ctx, sample, url, payload)
		if err != nil {
			return nil, err
		}
		if res.status < 300 {
			return res, nil
		}
		err = refused(res)
		var r *refusal
		if !errors.As(err, &r) || r.problem.Code() != fault.BadNonce || try == maxNonceRetries {
			return nil, err
		}
		sample.Retries++
	}
}

func (s *session) postOnce(ctx context.Context, sample *Sample, url string, payload []byte) (*reply, error) {
	if s.nonce == "" {
		if err := s.freshNonce(ctx, sample); err != nil {
			return nil, err
		}
	}
	body, err := s.signer.Sign(acme.Header{URL: url, Nonce: s.nonce, KID: s.kid}, payload)
	if err != nil {
		return nil, err
	}
	s.nonce = ""
	res, err := s.http.do(ctx, sample, "POST", url, joseHeader, body)
	if err != nil {
		return nil, err
	}
	s.nonce = res.nonce
	return res, nil
}

// freshNonce asks for a nonce; needed for the first request only, unless the
// server leaves them out of its replies.
func (s *session) freshNonce(ctx context.Context, sample *Sample) error {
	res, err := s.http.do(ctx, sample, "HEAD", s.dir.NewNonce, "", nil)
	if err != nil {
		return err
	}
	if res.status >= 300 || res.nonce == "" {
		return fmt.Errorf("get nonce from %s: %w", s.dir.NewNonce, refused(res))
	}
	s.nonce = res.nonce
	return nil
}

// register creates the account, or finds the one that its key has.
func (s *session) register(ctx context.Context, payload []byte) error {
	res, err := s.post(ctx, &Sample{}, s.dir.NewAccount, payload)
	if err != nil {
		return fmt.Errorf("create account: %w", err)
	}
	if res.location == "" {
		return errors.New("create account: the reply names no account URL")
	}
	s.kid = res.location
	return nil
}

// poller waits between looks at an object that the server has not finished.
type poller struct {
	every time.Duration // > 0: this long, whatever the server says
	next  time.Duration
}

// Waits of a client whom the server gives no Retry-After.
const (
	firstPoll = 10 * time.Millisecond
	lastPoll  = time.Second
)

// wait lets as much time pass as the last reply asked for.
func (p *poller) wait(ctx context.Context, after time.Duration) error {
	switch {
	case p.every > 0:
		after = p.every
	case after == 0:
		after = max(p.next, firstPoll)
		p.next = min(after*3/2, lastPoll)
	}
	return sleep(ctx, after)
}
