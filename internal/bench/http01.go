package bench

import (
	"bytes"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"chancery/internal/acme/challenge"
)

const wellKnown = "/.well-known/acme-challenge/"

// maxProbe bounds a validator's request.
const maxProbe = 8 << 10

// http01 answers http-01 (RFC 8555 section 8.3). A validator makes one short
// request on a new connection, so a whole HTTP server would mostly set up and
// tear down; its CPU would be charged to the client's.
type http01 struct {
	tokens  *table[string] // token: key authorization
	buffers sync.Pool
}

func newHTTP01(addr string) (*responder, error) {
	ln, err := listen(challenge.HTTP01, addr)
	if err != nil {
		return nil, err
	}
	h := &http01{tokens: newTable[string](), buffers: sync.Pool{New: func() any { return new([maxProbe]byte) }}}
	go serveConns(ln, h.serve)
	return &responder{
		kind:    challenge.HTTP01,
		present: func(_, token, keyAuthorization string) { h.tokens.set(token, keyAuthorization) },
		forget:  func(_, token string) { h.tokens.drop(token) },
		close:   ln.Close,
		addr:    ln.Addr().String(),
	}, nil
}

// serve answers one request and closes the connection.
func (h *http01) serve(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	buf := h.buffers.Get().(*[maxProbe]byte)
	defer h.buffers.Put(buf)
	n := 0
	for !bytes.Contains(buf[max(n-4096, 0):n], []byte("\r\n\r\n")) {
		if n == len(buf) {
			return
		}
		m, err := conn.Read(buf[n:])
		if n += m; err != nil {
			return
		}
	}
	conn.Write(h.answer(buf[:n]))
}

// answer returns the reply to a request.
func (h *http01) answer(request []byte) []byte {
	line, _, _ := bytes.Cut(request, []byte("\r\n"))
	method, rest, _ := strings.Cut(string(line), " ")
	target, _, _ := strings.Cut(rest, " ")
	body, known := "", false
	if token, ok := strings.CutPrefix(target, wellKnown); ok && (method == "GET" || method == "HEAD") {
		body, known = h.tokens.get(token)
	}
	status := "200 OK"
	if !known {
		status = "404 Not Found"
	}
	out := append(make([]byte, 0, 128+len(body)), "HTTP/1.1 "...)
	out = append(out, status...)
	out = append(out, "\r\nContent-Type: application/octet-stream\r\nConnection: close\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n\r\n"...)
	if method == "HEAD" {
		return out
	}
	return append(out, body...)
}
