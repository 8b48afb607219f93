package httpd

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"time"

	"chancery/internal/fault"
	"chancery/internal/obs"
)

// Handler answers one request. The reply is written by the caller; a nil
// reply with a nil error is 204 No Content.
type Handler func(r *Request) (*Reply, error)

// Request is one request on its way through a handler. It owns the event
// that log lines belong to. It must not be kept after the handler returned.
type Request struct {
	*http.Request

	// ClientIP is the peer's address, or the one a trusted proxy vouches for.
	ClientIP netip.Addr

	event obs.Event
	x     *exchange
}

// Context returns the context of the request, which carries its event.
func (r *Request) Context() context.Context { return &r.event }

// ID returns the request id.
func (r *Request) ID() string { return r.event.RequestID }

// Target returns the request target as it was sent, without the scheme and
// host of the absolute form: the raw path and query.
func (r *Request) Target() string { return target(r.Request) }

// Set adds attributes to the request's log event.
func (r *Request) Set(attrs ...slog.Attr) { r.event.Set(attrs...) }

// Quiet makes the log event of this request one for debugging, unless it fails:
// for answers that come by the thousand in a second, and that metrics count.
func (r *Request) Quiet() { r.x.quiet = true }

// Hold gives a handler that waits on purpose until d from now: neither the time
// to read a request nor the time to answer it ends the connection before. The
// body must have been read.
func (r *Request) Hold(d time.Duration) error {
	c, end := http.NewResponseController(r.x.w), time.Now().Add(d)
	return errors.Join(c.SetReadDeadline(end), c.SetWriteDeadline(end))
}

// SetHeader sets a header of the answer, whatever it will be: it holds for
// replies and for problem documents alike (a Replay-Nonce, say).
func (r *Request) SetHeader(key, value string) {
	r.x.set(r.x.w.Header(), http.CanonicalHeaderKey(key), value)
}

// AddHeader adds one more value of a header of the answer.
func (r *Request) AddHeader(key, value string) { r.x.w.Header().Add(key, value) }

// ReadBody returns the whole body, at most the server's body cap, and a
// tooLarge fault beyond it.
func (r *Request) ReadBody() ([]byte, error) { return r.ReadBodyMax(r.x.srv.maxBody) }

// ReadBodyMax is ReadBody with a cap of its own, in bytes. It never reads
// more than the cap and one byte, whatever Content-Length promises.
func (r *Request) ReadBodyMax(limit int64) ([]byte, error) { return r.ReadBodyTo(nil, limit) }

// ReadBodyTo is ReadBodyMax into the memory of buf, if it has enough, for those
// who keep nothing of the body and use the memory again. Whatever buf held is
// overwritten.
func (r *Request) ReadBodyTo(buf []byte, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	size := int64(512)
	if r.ContentLength >= 0 {
		size = r.ContentLength + 1 // one more, so that EOF is seen without growing
	}
	if buf = buf[:0]; int64(cap(buf)) < size {
		buf = make([]byte, 0, size)
	}
	for {
		n, err := r.Body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case int64(len(buf)) > limit:
			return nil, tooLarge(limit)
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			return nil, bodyError(err)
		case len(buf) == cap(buf):
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

// MediaType checks that the body is declared as want, parameters apart.
func (r *Request) MediaType(want string) error {
	got := r.Header.Get("Content-Type")
	if got == want { // the common case needs no parsing
		return nil
	}
	if t, _, err := mime.ParseMediaType(got); err == nil && t == want {
		return nil
	}
	return fault.New(fault.BadMediaType, "the body must be sent with Content-Type: %s", want)
}

// tooLarge is the fault of a body beyond its cap.
func tooLarge(limit int64) error {
	return fault.New(fault.TooLarge, "the request body is larger than %d bytes", limit)
}

// bodyError says why a body could not be read: the user's connection, mostly.
func bodyError(err error) error {
	var tooBig *http.MaxBytesError
	if errors.As(err, &tooBig) {
		return tooLarge(tooBig.Limit)
	}
	return fault.Wrap(err, fault.Malformed, "the request body could not be read in full")
}

// idEncoding spells request ids: no padding, no letters that need shouting.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID returns 80 random bits as 16 characters.
func newID() string {
	var raw [10]byte
	rand.Read(raw[:]) // never fails: crypto/rand.Read documents it
	var text [16]byte
	idEncoding.Encode(text[:], raw[:])
	return string(text[:])
}
