package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/pki"
)

// ControlConfig describes the benchmark of a control plane.
type ControlConfig struct {
	API       string // "https://localhost:8443/api/v1"
	Token     string // of an administrator
	Transport Transport

	Issuer  string        // that managed certificates are obtained from
	Suffix  string        // below which their names are; the issuer must allow it
	Timeout time.Duration // for the queue to drain; 0 = 30 min
}

// Control makes what a control plane is loaded with: queries, agents, managed
// certificates. It removes what it made when it is closed.
type Control struct {
	cfg     ControlConfig
	run     string // in every name of this run
	headers string

	setup  sync.Mutex // guards caller
	caller *caller

	agents  []*benchAgent
	managed []string // ids
	owners  []owned
	next    atomic.Int64 // bulk renewal
	pool    callers
}

// owned is a group of managed certificates that one bulk renewal is about.
type owned struct {
	owner string
	n     int64
}

// benchAgent is an agent that is enrolled.
type benchAgent struct {
	id   string
	t    Transport
	http *caller
	body []byte // of its question
}

// NewControl connects to a server.
func NewControl(cfg ControlConfig) (*Control, error) {
	if cfg.API == "" || cfg.Token == "" {
		return nil, fault.New(fault.Invalid, "a benchmark of the control plane needs the server's API and a token")
	}
	if strings.ContainsAny(cfg.Token, "\r\n") {
		return nil, fault.New(fault.Invalid, "the token cannot hold a line break")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Minute
	}
	id := make([]byte, 4)
	rand.Read(id) // never fails
	c := &Control{cfg: cfg, run: "bench-" + hex.EncodeToString(id), headers: "Authorization: Bearer " + cfg.Token + "\r\n"}
	c.caller = newCaller(&c.cfg.Transport)
	c.pool.t = &c.cfg.Transport
	return c, nil
}

// removeTime bounds the removal of what a benchmark made.
const removeTime = 5 * time.Minute

// Close removes what was made, as far as the server lets it, and closes all
// connections. ctx is that of the run, which may have ended.
func (c *Control) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	var errs []error
	for _, a := range c.agents {
		a.http.close()
		errs = append(errs, c.call(ctx, http.MethodPost, "/agents/"+a.id+"/revoke", nil, nil))
	}
	for _, id := range c.managed {
		errs = append(errs, c.call(ctx, http.MethodDelete, "/managed/"+id, nil, nil))
	}
	c.caller.close()
	return errors.Join(append(errs, c.pool.Close())...)
}

// call sends one request of the set-up.
func (c *Control) call(ctx context.Context, method, path string, in, out any) error {
	c.setup.Lock()
	defer c.setup.Unlock()
	return c.ask(ctx, c.caller, &Sample{}, method, path, in, out)
}

// ask sends a request and reads its answer into out; nil drops it.
func (c *Control) ask(ctx context.Context, by *caller, s *Sample, method, path string, in, out any) error {
	headers, body := c.headers, []byte(nil)
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		headers += "Content-Type: application/json\r\n"
	} else if method == http.MethodPost {
		body = []byte{}
	}
	res, err := by.do(ctx, s, method, c.cfg.API+path, headers, body)
	if err == nil && res.status/100 != 2 {
		err = fmt.Errorf("%s %s: %w", method, path, refused(res))
	}
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(res.body, out); err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	return nil
}

// Paths returns the lists of a day at the screens, more of what is looked at
// more often: pages of the inventory by what it holds, facets, timelines, and
// the other lists. tagged are those of them whose answers have an ETag.
func (c *Control) Paths(ctx context.Context) (all, tagged []string, err error) {
	var f struct {
		Facets []struct {
			By     string
			Values []struct{ Value string }
		}
	}
	if err := c.call(ctx, http.MethodGet, "/inventory/facets?by=owner,issuer,key", nil, &f); err != nil {
		return nil, nil, err
	}
	list := func(q string, more ...string) string {
		return "/certs?limit=50&q=" + url.QueryEscape(q) + strings.Join(more, "")
	}
	tagged = []string{list(""), list(""), list("status:active"), list("expires:<14d"), list("expires:<30d status:active"), list("", "&sort=-added"),
		"/inventory/facets", "/inventory/facets?q=" + url.QueryEscape("status:active"), "/inventory/timeline", "/inventory/timeline?by=status",
		"/endpoints?limit=50", "/issued?limit=50"}
	for _, facet := range f.Facets {
		for i, v := range facet.Values {
			if i == 4 || v.Value == "none" {
				break
			}
			q := facet.By + `:"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v.Value) + `"`
			tagged = append(tagged, list(q), "/inventory/facets?q="+url.QueryEscape(q))
		}
	}
	all = append(slices.Clone(tagged), "/summary", "/summary", "/managed?limit=50", "/queues", "/agents?limit=50", "/journal?limit=50")
	for _, paths := range [][]string{all, tagged} {
		for i := range paths {
			paths[i] = c.cfg.API + paths[i]
		}
	}
	return all, tagged, nil
}

// Lists is the workload of asking for URLs. With unchanged each client asks
// for what it has, so that what did not change is answered with 304.
func (c *Control) Lists(paths []string, unchanged bool) (Workload, error) {
	a, err := NewAPI(APIConfig{URLs: paths, Token: c.cfg.Token, Conditional: unchanged, Transport: c.cfg.Transport})
	if err != nil {
		return Workload{}, err
	}
	w := a.Workload()
	w.Name, w.Unit = "lists", "requests"
	if unchanged {
		w.Name = "lists, If-None-Match"
	}
	return w, nil
}

// Enroll makes n more agents.
func (c *Control) Enroll(ctx context.Context, n int) error {
	for range n {
		i := len(c.agents)
		if err := c.enroll(ctx, fmt.Sprintf("%s-%d", c.run, i)); err != nil {
			return fmt.Errorf("enrol agent %d: %w", i, err)
		}
	}
	return nil
}

func (c *Control) enroll(ctx context.Context, name string) error {
	var token struct{ Secret string }
	if err := c.call(ctx, http.MethodPost, "/agent-tokens", map[string]string{"name_pattern": name, "expires": "1h"}, &token); err != nil {
		return err
	}
	t, err := fleet.ParseToken(token.Secret)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	a := &benchAgent{t: c.cfg.Transport}
	a.t.ALPN = []string{fleet.ALPN}
	a.t.TLS = c.cfg.Transport.TLS.Clone()
	a.http = newCaller(&a.t)
	var id fleet.Identity
	instance := rand.Text()
	if err := c.tell(ctx, a, "enroll", fleet.Enroll{Token: t.Sent(), Name: name, Version: "bench", Instance: instance, CSR: csr}, &id); err != nil {
		a.http.close()
		return err
	}
	a.http.close() // what follows shows the new certificate
	a.t.TLS.Certificates = []tls.Certificate{{Certificate: id.Chain, PrivateKey: key}}
	a.http, a.id = newCaller(&a.t), id.ID
	a.body, err = json.Marshal(fleet.Wait{Session: fleet.Session{Generation: id.Generation, Instance: instance}, Version: "bench", Targets: []string{}, Once: true})
	if err != nil {
		return fmt.Errorf("encode question: %w", err)
	}
	c.agents = append(c.agents, a)
	return nil
}

// tell sends a message of an agent.
func (c *Control) tell(ctx context.Context, a *benchAgent, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	res, err := a.http.do(ctx, &Sample{}, http.MethodPost, c.agentURL(path), jsonHeader, body)
	if err == nil && res.status != http.StatusOK && res.status != http.StatusCreated {
		err = refused(res)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(res.body, out); err != nil {
		return fmt.Errorf("read answer to %s: %w", path, err)
	}
	return nil
}

const jsonHeader = "Content-Type: application/json\r\n"

// agentURL is where agents ask.
func (c *Control) agentURL(path string) string {
	base, _, _ := strings.Cut(c.cfg.API, "/api/")
	return base + fleet.Prefix + path
}

// Heartbeats is the workload of agents that ask whether there is something to
// do, over connections that their certificates were shown on. Each client is an
// agent of Enroll.
func (c *Control) Heartbeats() Workload {
	target := c.agentURL("wait")
	return Workload{Name: "heartbeats", Unit: "requests", Open: func(ctx context.Context, clients int) error {
		return c.Enroll(ctx, clients-len(c.agents))
	}, Do: func(ctx context.Context, client int, s *Sample) error {
		a := c.agents[client]
		res, err := a.http.do(ctx, s, http.MethodPost, target, jsonHeader, a.body)
		if err == nil && res.status != http.StatusOK {
			err = fmt.Errorf("heartbeat: %w", refused(res))
		}
		return err
	}}
}

// setUpClients make managed certificates at once.
const setUpClients = 16

// Manage has the server manage n certificates for groups owners, and waits
// until it has obtained all of them.
func (c *Control) Manage(ctx context.Context, n, groups int) error {
	if n < groups || groups < 1 {
		return fault.New(fault.Invalid, "%d certificates cannot be in %d groups", n, groups)
	}
	c.owners = make([]owned, groups)
	for g := range c.owners {
		c.owners[g] = owned{fmt.Sprintf("%s-%d", c.run, g), int64((g+1)*n/groups - g*n/groups)}
	}
	ids := make([]string, n)
	var next atomic.Int64
	work, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	var clients sync.WaitGroup
	for range setUpClients {
		clients.Go(func() {
			by := newCaller(&c.cfg.Transport)
			defer by.close()
			for i := next.Add(1) - 1; i < int64(n) && work.Err() == nil; i = next.Add(1) - 1 {
				// The group g that holds i: g*n/groups <= i < (g+1)*n/groups.
				g := ((i+1)*int64(groups) - 1) / int64(n)
				var made struct{ ID string }
				err := c.ask(work, by, &Sample{}, http.MethodPost, "/managed", map[string]any{"issuer": c.cfg.Issuer, "owner": c.owners[g].owner,
					"names": []string{fmt.Sprintf("n%d.%s%s", i, c.run, c.cfg.Suffix)}}, &made)
				if err != nil {
					abort(err)
				}
				ids[i] = made.ID
			}
		})
	}
	clients.Wait()
	for _, id := range ids {
		if id != "" {
			c.managed = append(c.managed, id)
		}
	}
	if err := context.Cause(work); err != nil {
		return fmt.Errorf("manage certificates: %w", err)
	}
	_, err := c.Drain(ctx)
	return err
}

// lane is the part of a queue that tells whether it is empty.
type lane struct {
	Kind, Name string
	Waiting    int64
	InFlight   int64 `json:"in_flight"`
	Error      string
}

// Drain waits until the issuer's queue is empty and returns how long that took.
func (c *Control) Drain(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, fault.New(fault.Unavailable, "the queue of issuer %s was not empty after %s", c.cfg.Issuer, c.cfg.Timeout))
	defer cancel()
	for start := time.Now(); ; {
		var page struct{ Items []lane }
		if err := c.call(ctx, http.MethodGet, "/queues?limit=1000", nil, &page); err != nil {
			return 0, err
		}
		found := false
		for _, l := range page.Items {
			if l.Kind != "issuer" || l.Name != c.cfg.Issuer {
				continue
			}
			if found = true; l.Waiting == 0 && l.InFlight == 0 {
				return time.Since(start), nil
			}
		}
		if !found {
			return 0, fault.New(fault.NotFound, "the server has no issuer %s", c.cfg.Issuer)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// Trouble returns how many of the certificates of Manage could not be obtained,
// and why the first one was not.
func (c *Control) Trouble(ctx context.Context) (n int, example string, err error) {
	mine := map[string]bool{}
	for _, id := range c.managed {
		mine[id] = true
	}
	for cursor := ""; ; {
		var page struct {
			Items []struct{ ID, Error string }
			Next  string
		}
		if err := c.call(ctx, http.MethodGet, "/managed?trouble=true&limit=1000&cursor="+url.QueryEscape(cursor), nil, &page); err != nil {
			return n, example, err
		}
		for _, m := range page.Items {
			if mine[m.ID] {
				if n++; example == "" {
					example = m.Error
				}
			}
		}
		if cursor = page.Next; cursor == "" {
			return n, example, nil
		}
	}
}

// renewed is what a bulk renewal answers.
type renewed struct{ Matched, Queued int64 }

// Renewals is the workload of bulk renewals: each operation renews all
// certificates of one owner of Manage, by a filter.
func (c *Control) Renewals() Workload {
	return Workload{Name: "bulk renewals", Unit: "requests", Open: c.pool.open, Do: func(ctx context.Context, client int, s *Sample) error {
		o := c.owners[(c.next.Add(1)-1)%int64(len(c.owners))]
		var out renewed
		if err := c.ask(ctx, c.pool.list[client], s, http.MethodPost, "/managed/renew", map[string]string{"owner": o.owner}, &out); err != nil {
			return err
		}
		if out.Matched != o.n {
			return fmt.Errorf("bulk renewal of %s: %w: it fits %d certificates, not %d", o.owner, errVerify, out.Matched, o.n)
		}
		return nil
	}}
}

// Bulk is the renewal of all managed certificates of one owner by one request.
type Bulk struct {
	Certificates int64
	Accepted     time.Duration // until the request was answered
	Drained      time.Duration // until the queue was empty again
	Usage        Usage         // all the while
}

// RenewAll renews what Manage made, when that is one group.
func (c *Control) RenewAll(ctx context.Context, probe *Probe) (Bulk, error) {
	if len(c.owners) != 1 {
		return Bulk{}, fault.New(fault.Invalid, "all certificates must be in one group")
	}
	from := probe.begin(ctx)
	start := time.Now()
	var out renewed
	if err := c.call(ctx, http.MethodPost, "/managed/renew", map[string]string{"owner": c.owners[0].owner}, &out); err != nil {
		return Bulk{}, err
	}
	b := Bulk{Certificates: out.Queued, Accepted: time.Since(start)}
	if out.Queued != c.owners[0].n {
		return b, fmt.Errorf("bulk renewal: %w: %d of %d certificates were queued", errVerify, out.Queued, c.owners[0].n)
	}
	if _, err := c.Drain(ctx); err != nil {
		return b, err
	}
	b.Drained, b.Usage = time.Since(start), probe.end(ctx, from)
	n, example, err := c.Trouble(ctx)
	if err == nil && n > 0 {
		err = fmt.Errorf("bulk renewal: %w: %d certificates were not obtained: %s", errVerify, n, example)
	}
	return b, err
}

// BulkPoint is the line of a result for several rounds. An operation is one
// certificate; the latency is that of the requests.
func BulkPoint(rounds []Bulk) Point {
	p := Point{Clients: 1, Variant: fmt.Sprintf("%d by one request", rounds[0].Certificates)}
	var h Histogram
	var rates, client, server, others []float64
	for _, b := range rounds {
		h.Record(b.Accepted)
		rates = append(rates, float64(b.Certificates)/b.Drained.Seconds())
		client = append(client, perOp(b.Usage.ClientCPU, b.Certificates))
		server = append(server, perOp(b.Usage.ServerCPU, b.Certificates))
		others = append(others, b.Usage.Others)
		p.PeakRSS = max(p.PeakRSS, b.Usage.PeakRSS)
		p.Rounds = append(p.Rounds, Round{Seconds: round4(b.Drained.Seconds()), Operations: b.Certificates, PerSecond: round4(rates[len(rates)-1]),
			P50: millis(b.Accepted), P99: millis(b.Accepted), Usage: b.Usage})
	}
	p.Latency, p.PerSecond, p.ClientCPU, p.Others = h.Latency(), spread(rates), spread(client), spread(others)
	if cpu := spread(server); cpu.Max > 0 {
		p.ServerCPU = &cpu
	}
	return p
}

// importFile is how many certificates one file of Imports holds.
const importFile = 1000

// Imports is the workload of importing files of 1000 new certificates in PEM;
// an operation is a file. files are made before the clock starts, and no more
// can be imported.
func (c *Control) Imports(files int) Workload {
	var bodies [][]byte
	var next atomic.Int64
	return Workload{Name: "import", Unit: "files of 1000", Open: func(ctx context.Context, clients int) error {
		for len(bodies) < files {
			body, err := c.importBody(len(bodies))
			if err != nil {
				return err
			}
			bodies = append(bodies, body)
		}
		return c.pool.open(ctx, clients)
	}, Do: func(ctx context.Context, client int, s *Sample) error {
		i := next.Add(1) - 1
		if i >= int64(len(bodies)) {
			return fault.New(fault.Invalid, "all %d files are imported; make a round end earlier with --count", len(bodies))
		}
		res, err := c.pool.list[client].do(ctx, s, http.MethodPost, c.cfg.API+"/inventory/import", c.headers+jsonHeader, bodies[i])
		if err == nil && res.status != http.StatusOK {
			err = fmt.Errorf("import: %w", refused(res))
		}
		if err != nil {
			return err
		}
		var out struct{ New int }
		if err := json.Unmarshal(res.body, &out); err != nil || out.New != importFile {
			return fmt.Errorf("import: %w: %d of %d certificates were new: %.200s", errVerify, out.New, importFile, res.body)
		}
		return nil
	}}
}

// importBody is a request that imports file number n.
func (c *Control) importBody(n int) ([]byte, error) {
	var text []byte
	for i := range importFile {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make key: %w", err)
		}
		name := fmt.Sprintf("n%d-%d.%s.import%s", n, i, c.run, c.cfg.Suffix)
		now := time.Now()
		tmpl := &x509.Certificate{DNSNames: []string{name}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 0, 30+i%60)}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			return nil, fmt.Errorf("make certificate: %w", err)
		}
		text = append(text, pki.EncodeChain(der)...)
	}
	return json.Marshal(map[string]any{"name": fmt.Sprintf("%s-%d.pem", c.run, n), "data": text, "owner": c.run})
}
