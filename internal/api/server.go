package api

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"chancery/internal/acme/server"
	"chancery/internal/alert"
	"chancery/internal/ca"
	"chancery/internal/ctwatch"
	"chancery/internal/db"
	"chancery/internal/fault"
	fleet "chancery/internal/fleet/server"
	"chancery/internal/httpd"
	"chancery/internal/inventory"
	"chancery/internal/keys"
	"chancery/internal/limit"
	"chancery/internal/obs"
	"chancery/internal/renew"
	"chancery/internal/scan/pass"
	"chancery/internal/scan/source"
	"chancery/internal/token"
)

// Config is what a Server needs.
type Config struct {
	DB *db.DB
	CA *ca.Service

	// Profiles are the registered profiles by name, as ca.Service.Register
	// returns them.
	Profiles map[string]*ca.Profile

	// Inventory is every known certificate; nil: that of DB.
	Inventory *inventory.Store

	// Scans are the scans that are repeated; nil: those of DB, which others run.
	Scans *pass.Service

	// Alerts keeps rules and silences; nil: those of DB, without channels.
	Alerts *alert.Service

	// Fleet keeps the agents; nil: there are none, and none can be enrolled.
	Fleet *fleet.Server

	// Sources are the places that keep certificates; nil: those of DB, which
	// others list.
	Sources *source.Service

	// CT are the transparency logs that are followed; nil: those of DB, which
	// others follow.
	CT *ctwatch.Service

	// ACME is the server whose accounts are deactivated here.
	ACME *server.Server

	// Renew keeps managed certificates.
	Renew *renew.Engine

	// Secrets seals what is stored encrypted: external account binding keys.
	Secrets *keys.Sealer

	// Revoked, if set, is called after an operation revoked certificates, so
	// that this process says so at once; others follow the journal.
	Revoked func([]ca.Changed)

	// Build says which program answers.
	Build obs.Build

	// Metrics is what get-load shows. Nil: nothing is measured.
	Metrics prometheus.Gatherer

	// Limiter bounds the requests of each caller. Nil: no bound.
	Limiter *limit.Limiter

	// Sessions keeps the sign-ins of people. Nil: tokens only.
	Sessions *token.Sessions

	// Providers are where people may sign in, by the name in their URLs.
	Providers map[string]*Provider

	// Approval says which operations need a second person.
	Approval Approval

	// Changed, if set, is called after an operation changed what is served or
	// worked on elsewhere (revocations, incidents, authorities), so that caches can be refreshed
	// before their next tick. It must not block.
	Changed func()

	Log *slog.Logger // nil: discard
}

// Server is the control plane's edge. It is safe for concurrent use.
type Server struct {
	cfg         Config
	log         *slog.Logger
	huma        huma.API
	routes      []route
	tokens      tokenCache
	feeds       map[feed]*memory // set once
	hub         *hub
	loads       *loads
	verifying   sync.Mutex     // held by the one verify-journal that runs
	exporting   sync.Mutex     // held by the one export-cbom that runs
	attempts    *limit.Limiter // sign-ins per network
	crossOrigin *http.CrossOriginProtection
	spec        func() ([]byte, error) // the OpenAPI document, made once
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

// largeBodies are the operations that files and batches come to.
var largeBodies = map[string]int64{"import-certificates": maxImport, "store-results": 8 << 20, "create-schedule": 1 << 20, "update-schedule": 1 << 20}

// New returns the control plane with every operation registered.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = obs.Discard()
	}
	s := &Server{cfg: cfg, log: cfg.Log, hub: newHub(), loads: newLoads(now())}
	s.tokens.ttl = tokenTTL
	s.crossOrigin = http.NewCrossOriginProtection()
	var err error
	if s.attempts, err = limit.New("api_sign_ins", limit.Rate{Count: 30, Per: time.Minute}, 0); err != nil {
		return nil, err
	}
	if s.cfg.DB != nil && s.cfg.Inventory == nil {
		s.cfg.Inventory = inventory.New(s.cfg.DB)
	}
	if s.cfg.DB != nil && s.cfg.Scans == nil {
		s.cfg.Scans = pass.New(pass.Config{DB: s.cfg.DB, Inventory: s.cfg.Inventory, Log: s.log})
	}
	if s.cfg.DB != nil && s.cfg.Alerts == nil {
		s.cfg.Alerts = alert.New(alert.Config{DB: s.cfg.DB, Log: s.log})
	}
	if s.cfg.DB != nil && s.cfg.Sources == nil {
		s.cfg.Sources = source.New(source.Config{DB: s.cfg.DB, Inventory: s.cfg.Inventory, Log: s.log})
	}
	if s.cfg.DB != nil && s.cfg.CT == nil {
		s.cfg.CT = ctwatch.New(ctwatch.Config{DB: s.cfg.DB, Inventory: s.cfg.Inventory, Log: s.log})
	}
	s.feeds = s.newFeeds()
	s.huma = newHuma(s)
	s.spec = sync.OnceValues(s.encodeSpec)
	s.registerAll()
	if err := s.checkAccess(); err != nil {
		return nil, err
	}
	if err := s.checkApproval(); err != nil {
		return nil, err
	}
	return s, nil
}

// registerAll is the table of contents of the API.
func (s *Server) registerAll() {
	s.inventoryOperations()
	s.policies()
	s.certificates()
	s.revocations()
	s.incidents()
	s.findings()
	s.authorities()
	s.profiles()
	s.acme()
	s.limits()
	s.delegations()
	s.managed()
	s.queues()
	s.deployments()
	s.tokenOperations()
	s.journal()
	s.sessions()
	s.approvals()
	s.scans()
	s.alerts()
	s.agents()
	s.fleetOperations()
	s.sourceOperations()
	s.ctOperations()
	s.about()
	s.loadOperation()
}

// Routes adds every operation to mux.
func (s *Server) Routes(mux *httpd.Mux) {
	g := mux.Group(httpd.OwnTypes, nil)
	for _, rt := range s.routes {
		g.HandleStd(rt.op.Method+" "+rt.op.Path, s.guard(rt), 2*rt.op.MaxBodyBytes)
	}
	s.signInRoutes(g)
	s.eventRoutes(g)
}

// changed tells the rest of the process that something it serves is different.
func (s *Server) changed() {
	s.resetFeeds()
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
		obs.Set(r.Context(), slog.String("actor", who.actor))
		r = r.WithContext(withCaller(r.Context(), who))
		handle := func(w http.ResponseWriter) { rt.handle(newContext(rt.op, r, w)) }
		switch m := s.feeds[rt.access.feed]; {
		case m != nil && who.scope.Whole(): // what others may see is nothing to remember for a part
			s.conditional(w, r, m, rt.access.lag, handle)
		case r.Method == http.MethodGet:
			w.Header().Set("Cache-Control", "no-store")
			handle(w)
		default:
			if !rt.access.quiet {
				w = &settling{w, s.resetFeeds}
				defer s.resetFeeds()
			}
			s.change(w, r, rt, handle)
		}
	}
}

// register adds an operation whose handler returns typed output.
func register[I, O any](s *Server, op huma.Operation, h func(ctx context.Context, in *I) (*O, error)) {
	op.Path, op.MaxBodyBytes = Prefix+op.Path, cmp.Or(op.MaxBodyBytes, largeBodies[op.OperationID], maxBody)
	responses := s.errorResponse()
	maps.Copy(responses, op.Responses)
	op.Responses = responses
	if need := accessTable[op.OperationID].need; need != token.Public {
		op.Security = []map[string][]string{{"bearer": {}}, {"session": {}}}
		op.Description = strings.TrimSpace(op.Description + "\n\nNeeds the permission " + string(need) + ": " + roleList(need) + ".")
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

// checkApproval makes sure that what needs a second person exists and changes
// something.
func (s *Server) checkApproval() error {
	for _, id := range s.cfg.Approval.Operations {
		i := slices.IndexFunc(s.routes, func(rt route) bool { return rt.op.OperationID == id })
		if i < 0 || s.routes[i].op.Method == http.MethodGet || s.routes[i].access.secret || slices.Contains(neverHeld, id) {
			return fault.New(fault.Invalid, "approval.operations: %q is not an operation that can wait for a second person; docs/openapi.yaml lists the operations", id)
		}
	}
	return nil
}

// neverHeld are operations without which nobody could sign in or decide.
var neverHeld = []string{"open-session", "close-session", "decide-approval", "withdraw-approval"}

// defaultRetry is what a refusal for lack of means tells the client.
const defaultRetry = 5 * time.Second

// now is the instant of a request.
func now() time.Time { return time.Now().UTC() }
