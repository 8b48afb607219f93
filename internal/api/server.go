package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/acme/server"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/httpd"
	"chancery/internal/keys"
	"chancery/internal/obs"
	"chancery/internal/renew"
)

// Config is what a Server needs.
type Config struct {
	DB *db.DB
	CA *ca.Service

	// Profiles are the registered profiles by name, as ca.Service.Register
	// returns them.
	Profiles map[string]*ca.Profile

	// ACME is the server whose accounts are deactivated here.
	ACME *server.Server

	// Renew keeps managed certificates.
	Renew *renew.Engine

	// Secrets seals what is stored encrypted: external account binding keys.
	Secrets *keys.Sealer

	// Build says which program answers.
	Build obs.Build

	// Changed, if set, is called after an operation changed what is served
	// elsewhere (revocations, authorities), so that caches can be refreshed
	// before their next tick. It must not block.
	Changed func()

	Log *slog.Logger // nil: discard
}

// Server is the control plane's edge. It is safe for concurrent use.
type Server struct {
	cfg       Config
	log       *slog.Logger
	huma      huma.API
	routes    []route
	tokens    tokenCache
	stamp     stamp
	bodies    bodies
	verifying sync.Mutex             // held by the one verify-journal that runs
	spec      func() ([]byte, error) // the OpenAPI document, made once
}

// route is one operation on its way into the mux.
type route struct {
	op     *huma.Operation
	access access
	handle func(huma.Context)
}

// maxBody caps request bodies, in bytes: chains of ML-DSA certificates fit. The
// library counts them; the platform's own cap is the safety net.
const maxBody = 256 << 10

// New returns the control plane with every operation registered.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	s := &Server{cfg: cfg, log: cfg.Log}
	s.tokens.ttl = tokenTTL
	s.huma = newHuma(s)
	s.spec = sync.OnceValues(s.encodeSpec)
	s.registerAll()
	if err := s.checkAccess(); err != nil {
		return nil, err
	}
	return s, nil
}

// registerAll is the table of contents of the API.
func (s *Server) registerAll() {
	s.certificates()
	s.revocations()
	s.authorities()
	s.profiles()
	s.acme()
	s.managed()
	s.queues()
	s.tokenOperations()
	s.journal()
	s.about()
}

// Routes adds every operation to mux.
func (s *Server) Routes(mux *httpd.Mux) {
	g := mux.Group(httpd.OwnTypes, nil)
	for _, rt := range s.routes {
		g.HandleStd(rt.op.Method+" "+rt.op.Path, s.guard(rt), 2*maxBody)
	}
}

// changed tells the rest of the process that something it serves is different.
func (s *Server) changed() {
	s.stamp.reset()
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}

// guard is what every request passes before its handler.
func (s *Server) guard(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		who, err := s.admit(r, rt.access)
		if err == nil {
			err = checkQuery(r.URL.RawQuery)
		}
		if err != nil {
			s.refuse(w, r, rt.op, err)
			return
		}
		obs.Set(r.Context(), slog.String("actor", who.actor()))
		if r.Method != http.MethodGet {
			defer s.stamp.reset()
		}
		handle := func(w http.ResponseWriter) {
			rt.handle(newContext(rt.op, r.WithContext(withCaller(r.Context(), who)), w))
		}
		if rt.access.conditional {
			s.conditional(w, r, handle)
			return
		}
		handle(w)
	}
}

// register adds an operation whose handler returns typed output.
func register[I, O any](s *Server, op huma.Operation, h func(ctx context.Context, in *I) (*O, error)) {
	op.Path, op.MaxBodyBytes = Prefix+op.Path, maxBody
	op.Responses = s.errorResponse()
	if need := accessTable[op.OperationID]; need.role != "" {
		op.Security = []map[string][]string{{"bearer": {}}}
		op.Description = strings.TrimSpace(op.Description + "\n\nNeeds the role " + string(need.role) + ".")
	}
	huma.Register(s.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, &op, err)
		}
		return out, nil
	})
}

// Prefix is the path below which every operation lives.
const Prefix = "/api/v1"

// checkAccess makes sure that no operation is left without a rule.
func (s *Server) checkAccess() error {
	seen := map[string]bool{}
	for _, rt := range s.routes {
		if _, ok := accessTable[rt.op.OperationID]; !ok {
			return fmt.Errorf("operation %s has no row in the access table", rt.op.OperationID)
		}
		seen[rt.op.OperationID] = true
	}
	for id := range accessTable {
		if !seen[id] {
			return fmt.Errorf("the access table has a row for %s, which is no operation", id)
		}
	}
	return nil
}

// defaultRetry is what a refusal for lack of means tells the client.
const defaultRetry = 5 * time.Second

// now is the instant of a request.
func now() time.Time { return time.Now().UTC() }
