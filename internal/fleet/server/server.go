// Package server is the server's end of the fleet: enrolment of agents, the
// questions they ask, and the certificates they keep in service.
//
// What an agent shall do is a row (agent_assignment). A parked question is a
// goroutine with a channel and nothing else: when the process dies the agents
// ask again, and whatever was due still is.
package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/fleet"
	"chancery/internal/httpd"
	"chancery/internal/limit"
	"chancery/internal/loop"
	"chancery/internal/obs"
	"chancery/internal/pki"
)

// Order is a certificate for an assignment.
type Order struct {
	Assignment, Agent, Owner string // ids of the first two
	Names                    []pki.Identifier
	Profile                  string // "": the usual one
	CSR                      []byte // DER; its names count only if they are Names
	Needed                   bool   // the agent has no certificate with a key that it still has
}

// ErrPending is what Issue returns for a certificate that is being obtained: it
// is asked for again, and nothing has failed.
var ErrPending = errors.New("the certificate is being obtained")

// Manager obtains certificates from the configured issuers, by the budgets and
// rules of all renewals. An assignment that names an issuer is managed there
// under its own id.
type Manager interface {
	// Manage begins with it.
	Manage(ctx context.Context, o Order, issuer, actor string) error
	// Unmanage ends it, if it was begun.
	Unmanage(ctx context.Context, assignment, actor string) error
	// Hurry has it renewed at once, if it was begun.
	Hurry(ctx context.Context, assignment, actor string) error
	// Requested is told that the agent has sent the request for its next key.
	Requested(ctx context.Context, assignment string) error
}

// Issue obtains a certificate and returns its chain in DER, leaf first. It is
// called again for the same assignment when its answer was lost.
type Issue func(ctx context.Context, o Order) ([][]byte, error)

// Config is what a Server needs.
type Config struct {
	DB *db.DB

	// Identify certifies the key of an agent for the DNS name id + NameSuffix,
	// for client authentication, for seven days.
	Identify func(ctx context.Context, id string, csr []byte) ([][]byte, error)

	// Permit says whether a certificate may be assigned; nil: nothing may.
	Permit func(names []pki.Identifier, profile, issuer string) error

	// Issue obtains what was assigned.
	Issue Issue

	// Manager obtains what shall come from a named issuer; nil: there is none.
	Manager Manager

	// Pin returns the pin that enrolment tokens carry, and Roots the PEM that
	// agents verify this server by afterwards.
	Pin   func() (string, error)
	Roots func() string

	MaxParked int           // questions held at once; more are told to come back; 0 = 50,000
	Hold      time.Duration // shortest hold; 0 = 1 min
	CheckIn   time.Duration // when those that are not held come back; 0 = 5 min

	Log      *slog.Logger          // nil: discard
	Registry prometheus.Registerer // nil: not measured
}

// Server is safe for concurrent use.
type Server struct {
	cfg      Config
	log      *slog.Logger
	attempts *limit.Limiter // enrolments per network
	issue    chan struct{}  // wakes the loop that issues
	drain    chan struct{}  // closed when parked questions must end
	drained  sync.Once
	meters   meters

	mu   sync.Mutex
	held map[string]*parked   // by agent id
	seen map[string]time.Time // since the last flush
	last time.Time            // up to when offers were looked for
}

// meters of the fleet.
type meters struct {
	parked      prometheus.GaugeFunc
	refused     *prometheus.CounterVec
	deployments *prometheus.CounterVec
	issued      *prometheus.CounterVec
}

// New returns a server.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	if cfg.MaxParked <= 0 {
		cfg.MaxParked = 50_000
	}
	if cfg.Hold <= 0 {
		cfg.Hold = time.Minute
	}
	if cfg.CheckIn <= 0 {
		cfg.CheckIn = 5 * time.Minute
	}
	s := &Server{cfg: cfg, log: cfg.Log, issue: make(chan struct{}, 1), drain: make(chan struct{}), held: map[string]*parked{}, seen: map[string]time.Time{}}
	var err error
	if s.attempts, err = limit.New("agent_enrolments", limit.Rate{Count: 300, Per: time.Minute}, 0); err != nil {
		return nil, err
	}
	s.measure()
	return s, nil
}

func (s *Server) measure() {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	s.meters = meters{
		parked: prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "chancery_agents_parked", Help: "Questions of agents that this process holds."},
			func() float64 { s.mu.Lock(); defer s.mu.Unlock(); return float64(len(s.held)) }),
		refused:     counter("chancery_agent_refusals_total", "Agents that were refused, by reason.", "reason"),
		deployments: counter("chancery_agent_deployments_total", "Deployments that agents reported, by result.", "result"),
		issued:      counter("chancery_agent_certificates_total", "Certificates obtained for agents, by result.", "result"),
	}
	if s.cfg.Registry != nil {
		s.cfg.Registry.MustRegister(s.meters.parked, s.meters.refused, s.meters.deployments, s.meters.issued)
	}
}

// Routes adds the paths of agents to mux.
func (s *Server) Routes(mux *httpd.Mux) {
	g := mux.Group(httpd.OwnTypes, nil)
	g.Handle("POST "+fleet.Prefix+"enroll", s.enroll)
	g.Handle("POST "+fleet.Prefix+"wait", s.wait)
	g.Handle("POST "+fleet.Prefix+"report", s.report)
	g.Handle("POST "+fleet.Prefix+"renew", s.renew)
}

// TLS returns a configuration that asks agents, and nobody else, for their
// certificate. Whether it is a good one is decided per request, by its hash.
func TLS(base *tls.Config) *tls.Config {
	ask := base.Clone()
	ask.ClientAuth = tls.RequestClientCert
	out := base.Clone()
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, p := range hello.SupportedProtos {
			if p == fleet.ALPN {
				return ask, nil
			}
		}
		return nil, nil
	}
	ask.NextProtos = []string{"http/1.1"}
	return out
}

// Loops are what runs beside the requests.
func (s *Server) Loops(log *slog.Logger, m *loop.Metrics) []loop.Every {
	every := func(name string, interval time.Duration, tick loop.Tick) loop.Every {
		return loop.Every{Name: name, Interval: interval, Tick: tick, Log: log, Metrics: m}
	}
	issue := every("fleet.issue", 2*time.Second, s.issueDue)
	issue.Wake = s.issue
	return []loop.Every{issue, every("fleet.offer", time.Second, s.offer), every("fleet.presence", 20*time.Second, s.flush)}
}

// refuse counts a refusal.
func (s *Server) refuse(reason string, err error) error {
	s.meters.refused.WithLabelValues(reason).Inc()
	return err
}

// message reads the body of a request.
func message(r *httpd.Request, into any) error {
	if err := r.MediaType("application/json"); err != nil {
		return err
	}
	body, err := r.ReadBodyMax(fleet.MaxBody)
	if err != nil {
		return err
	}
	if err := fleet.Decode(body, into); err != nil {
		return fault.Wrap(err, fault.Malformed, "the message is not one that this server understands; is the agent newer than the server?")
	}
	return nil
}

// authenticate returns the agent whose certificate the connection was made
// with. The certificate must be the very one that was issued to it last, or
// the one before: no chain is trusted here.
func (s *Server) authenticate(r *httpd.Request, now time.Time) (Agent, []byte, error) {
	unknown := &fault.Error{Code: fault.Unauthorized, HTTPStatus: 401, Detail: "no agent is known by this certificate; enrol with a new token"}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return Agent{}, nil, s.refuse("certificate", unknown)
	}
	leaf := r.TLS.PeerCertificates[0]
	id, ok := agentID(leaf)
	if !ok || now.After(leaf.NotAfter) {
		return Agent{}, nil, s.refuse("certificate", unknown)
	}
	a, err := db.Get(r.Context(), s.cfg.DB.Read(), qAgent, scanAgent, id)
	if errors.Is(err, db.ErrNotFound) {
		return Agent{}, nil, s.refuse("certificate", unknown)
	}
	if err != nil {
		return Agent{}, nil, err
	}
	sum := sha256.Sum256(leaf.Raw)
	if subtle.ConstantTimeCompare(sum[:], a.certHash) != 1 && subtle.ConstantTimeCompare(sum[:], a.certBefore) != 1 {
		return Agent{}, nil, s.refuse("certificate", unknown)
	}
	r.Set(slog.String("agent", a.Name))
	switch a.State {
	case Cloned:
		return a, nil, s.refuse("clone", errCloned(a.Name))
	case Revoked:
		return a, nil, s.refuse("revoked", fault.New(fault.Forbidden, "agent %s was revoked; enrol it again with a new token", a.Name))
	}
	return a, sum[:], nil
}

// agentID returns the id in an agent's certificate.
func agentID(leaf *x509.Certificate) (string, bool) {
	if len(leaf.DNSNames) != 1 {
		return "", false
	}
	id, ok := strings.CutSuffix(leaf.DNSNames[0], fleet.NameSuffix)
	return id, ok && db.ValidID(id)
}

func errCloned(name string) error {
	return fault.New(fault.Forbidden, "two programs used the identity of agent %s: its state directory was copied or restored. Enrol it again with a new token, into an empty state directory", name)
}

// check holds the session of a request against that of the row. The pair of an
// earlier generation means that somebody else went on from it: neither the copy
// nor the original can be told from the other, so both are refused.
func (s *Server) check(ctx context.Context, a *Agent, m *fleet.Session, now time.Time) (repeated bool, err error) {
	if len(m.Instance) > 64 || len(m.Next) > 64 || m.Instance == "" {
		return false, fault.New(fault.Malformed, "instance is 1 to 64 characters")
	}
	switch {
	case m.Generation == a.Generation && m.Instance == a.instance:
		return false, nil
	case m.Next != "" && m.Generation == a.Generation-1 && m.Next == a.instance:
		return true, nil // its answer was lost
	}
	if err := s.end(ctx, a, Cloned, "agent:"+a.Name, now); err != nil {
		return false, err
	}
	s.log.WarnContext(ctx, "two programs use one agent's identity", "agent", a.Name, "generation", a.Generation, "shown", m.Generation)
	return false, s.refuse("clone", errCloned(a.Name))
}

// end takes an agent's right to ask, and wakes it so that it hears.
func (s *Server) end(ctx context.Context, a *Agent, state State, actor string, now time.Time) error {
	kind := audit.Kind("agent.revoke")
	if state == Cloned {
		kind = "agent.clone"
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qEnd, db.ExactlyOne(fault.New(fault.Conflict, "agent %s is %s already", a.Name, a.State)), a.ID, state)
		return audit.Append(tx, audit.Entry{At: now, Kind: kind, Actor: actor, Subject: "agent:" + a.ID, Data: map[string]any{"name": a.Name, "generation": a.Generation}})
	})
	s.Wake(a.ID)
	if state == Cloned && fault.Is(err, fault.Conflict) {
		return nil // the other one was noticed first
	}
	return err
}

// Revoke ends an agent: it is refused from now on, until it is enrolled again.
func (s *Server) Revoke(ctx context.Context, ref, actor string, now time.Time) (Agent, error) {
	a, err := s.Get(ctx, ref)
	if err != nil {
		return a, err
	}
	if err := s.end(ctx, &a, Revoked, actor, now); err != nil {
		return a, err
	}
	a.State = Revoked
	return a, nil
}
