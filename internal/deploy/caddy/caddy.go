// Package caddy is the target for a Caddy server whose configuration loads
// certificates from files. Its administration endpoint is asked for the
// running configuration, and told to load the same one again by force, which
// reads the files anew. Caddy answers after it did, or says what is wrong and
// goes on with what it had.
package caddy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"chancery/internal/deploy"
	"chancery/internal/deploy/live"
	"chancery/internal/scan/probe"
)

// Config is the configuration of a target.
type Config struct {
	live.Config

	// Administration endpoint: "host:port", or "unix//path" for a socket, as
	// Caddy's own configuration writes it.
	Admin string `toml:"admin"`
}

// Kind is the plug-in.
var Kind = deploy.Kind{
	Name: "caddy",
	Doc:  "Caddy: files and one forced load of its configuration through the administration endpoint.",
	Config: func() any {
		return &Config{Admin: "127.0.0.1:2019", Config: live.Config{Files: []string{live.Fullchain, live.Privkey}, Timeout: live.DefaultTimeout}}
	},
	Open:   open,
	Serves: probe.TLS,
}

// maxConfig bounds the configuration that Caddy sends.
const maxConfig = 64 << 20

// admin talks to the endpoint.
type admin struct {
	network, address string
	timeout          time.Duration
}

func open(env deploy.Env, config any) (deploy.Target, error) {
	c := config.(*Config)
	a, err := newAdmin(c.Admin)
	if err != nil {
		return nil, err
	}
	a.timeout = c.Timeout
	return live.Open(env, c.Config, live.Server{Reload: a.reload})
}

// newAdmin reads the address of the endpoint.
func newAdmin(address string) (*admin, error) {
	if path, ok := strings.CutPrefix(address, "unix/"); ok && strings.HasPrefix(path, "/") {
		return &admin{network: "unix", address: path}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" {
		return nil, fmt.Errorf("admin: %q is not an address; write host:port or unix//path", address)
	}
	return &admin{network: "tcp", address: address}, nil
}

// reload loads the running configuration again.
func (a *admin) reload(ctx context.Context, _ live.Change) error {
	running, err := a.call(ctx, http.MethodGet, "/config/", nil)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(running)) == 0 || bytes.Equal(bytes.TrimSpace(running), []byte("null")) {
		return errors.New("caddy runs without a configuration")
	}
	_, err = a.call(ctx, http.MethodPost, "/load", running)
	return err
}

// call makes one request. A refusal is a *deploy.CommandError, as it names
// files like that of a program.
func (a *admin) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	resp, done, err := a.send(ctx, method, path, body)
	if err != nil {
		return nil, fmt.Errorf("caddy admin: %w", err)
	}
	defer done()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("caddy admin: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &deploy.CommandError{Program: "caddy", Output: string(text[:min(len(text), 8<<10)]), Err: fmt.Errorf("%s %s: status %d", method, path, resp.StatusCode)}
	}
	return text, nil
}

// send writes the request itself: on a socket Caddy wants a Host header that is
// there and empty (RFC 9110 section 7.2), which the library's client cannot
// send.
func (a *admin) send(ctx context.Context, method, path string, body []byte) (*http.Response, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	conn, err := new(net.Dialer).DialContext(ctx, a.network, a.address)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	done := func() { stop(); cancel(); conn.Close() }
	host := ""
	if a.network == "tcp" {
		host = a.address
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nCache-Control: must-revalidate\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
		method, path, host, len(body))
	if _, err = conn.Write(append([]byte(head), body...)); err == nil {
		var resp *http.Response
		if resp, err = http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			return resp, done, nil
		}
	}
	done()
	return nil, nil, err
}
