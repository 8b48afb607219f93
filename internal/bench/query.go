package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"

	"chancery/internal/fault"
)

// callers are the connections of a workload's clients.
type callers struct {
	t    *Transport
	list []*caller
}

// open makes callers until there are n.
func (c *callers) open(_ context.Context, n int) error {
	for len(c.list) < n {
		c.list = append(c.list, newCaller(c.t))
	}
	return nil
}

// Close closes all connections.
func (c *callers) Close() error {
	for _, one := range c.list {
		one.close()
	}
	return nil
}

// APIConfig describes the benchmark of an HTTP API.
type APIConfig struct {
	URLs        []string // asked in random order
	Token       string   // bearer token, "" for none
	Conditional bool     // ask with If-None-Match once the ETag is known
	Accept      string   // Accept header, "" for none
	Transport   Transport
}

// API is the benchmark of GET requests.
type API struct {
	callers
	cfg     APIConfig
	headers string
	etags   [][]string // [client][URL]
}

// NewAPI checks the configuration.
func NewAPI(cfg APIConfig) (*API, error) {
	if len(cfg.URLs) == 0 {
		return nil, fault.New(fault.Invalid, "name at least one path to ask for")
	}
	a := &API{cfg: cfg}
	a.t = &a.cfg.Transport
	for _, h := range [][2]string{{"Authorization", bearer(cfg.Token)}, {"Accept", cfg.Accept}} {
		if strings.ContainsAny(h[1], "\r\n") {
			return nil, fault.New(fault.Invalid, "the %s header cannot hold a line break", h[0])
		}
		if h[1] != "" {
			a.headers += h[0] + ": " + h[1] + "\r\n"
		}
	}
	return a, nil
}

func bearer(token string) string {
	if token == "" {
		return ""
	}
	return "Bearer " + token
}

// Workload returns the benchmark for a Driver.
func (a *API) Workload() Workload {
	return Workload{Name: "api", Unit: "requests", Open: a.open, Do: a.ask}
}

func (a *API) open(ctx context.Context, clients int) error {
	for len(a.etags) < clients {
		a.etags = append(a.etags, make([]string, len(a.cfg.URLs)))
	}
	return a.callers.open(ctx, clients)
}

// ask makes one request.
func (a *API) ask(ctx context.Context, client int, s *Sample) error {
	i := rand.IntN(len(a.cfg.URLs))
	etag := &a.etags[client][i]
	headers := a.headers
	if *etag != "" {
		headers += "If-None-Match: " + *etag + "\r\n"
	}
	res, err := a.list[client].do(ctx, s, http.MethodGet, a.cfg.URLs[i], headers, nil)
	if err != nil {
		return err
	}
	switch {
	case res.status == http.StatusNotModified && *etag != "":
		return nil
	case res.status != http.StatusOK:
		return fmt.Errorf("get %s: %w", a.cfg.URLs[i], refused(res))
	case a.cfg.Conditional && res.etag == "":
		return fmt.Errorf("get %s: the reply has no ETag to ask with", a.cfg.URLs[i])
	case a.cfg.Conditional:
		*etag = res.etag
	}
	return nil
}
