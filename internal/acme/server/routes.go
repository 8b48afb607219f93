package server

import (
	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/httpd"
)

// getHandler answers an unsigned request to a CA.
type getHandler func(r *httpd.Request, a *authority) (*httpd.Reply, error)

// postHandler answers a signed request whose signature was checked.
type postHandler func(m *message) (*httpd.Reply, error)

// Routes registers the whole protocol below /acme/{ca}/.
func (s *Server) Routes(mux *httpd.Mux) {
	g := mux.Group(acme.TypeURI, s.headers)
	get := func(path string, h getHandler) { g.Handle("GET /acme/{ca}/"+path, s.get(h)) }
	route := func(path string, who signer, begins bool, h postHandler) {
		g.Handle("POST /acme/{ca}/"+path, s.posted(who, begins, h))
		g.Handle("GET /acme/{ca}/"+path, s.get(unsigned))
	}
	post := func(path string, who signer, h postHandler) { route(path, who, false, h) }
	begin := func(path string, who signer, h postHandler) { route(path, who, true, h) }

	get("directory", s.getDirectory)
	get("new-nonce", s.getNonce)
	get("renewal-info/{cert}", s.getRenewalInfo)

	begin("new-account", byKey, s.newAccount)
	post("account/{id}", byAccount, s.postAccount)
	post("account/{id}/orders", byAccount, s.listOrders)
	post("account/{id}/delegations", byAccount, s.listDelegations)
	post("delegation/{id}", byAccount, s.getDelegation)
	post("key-change", byAccount, s.keyChange)
	begin("new-order", byAccount, s.newOrder)
	post("order/{id}", byAccount, s.postOrder)
	post("order/{id}/finalize", byAccount, s.finalize)
	begin("new-authz", byAccount, s.newAuthz)
	post("authz/{id}", byAccount, s.postAuthz)
	post("challenge/{authz}/{type}", byAccount, s.postChallenge)
	for _, path := range []string{"certificate/{id}", "certificate/{id}/{chain}"} {
		g.Handle("POST /acme/{ca}/"+path, s.post(byAccount, s.getCertificate))
		get(path, s.getOpenCertificate)
	}
	g.Handle("POST /acme/{ca}/star/{id}", s.post(byAccount, s.postStar))
	get("star/{id}", s.getStar)
	post("revoke-cert", byEither, s.revoke)

	if s.cfg.CORS {
		g.Handle("OPTIONS /acme/{ca}/{rest...}", s.preflight)
	}
}

// unsigned answers GET of what takes signed requests only: 405 in ACME's own
// words (RFC 8555 section 6.3).
func unsigned(r *httpd.Request, _ *authority) (*httpd.Reply, error) {
	r.SetHeader("Allow", "POST")
	return nil, fault.New(fault.BadMethod, "this resource takes signed requests: send a POST-as-GET")
}

// headers goes around every handler: what each answer carries, errors too.
func (s *Server) headers(next httpd.Handler) httpd.Handler {
	if !s.cfg.CORS {
		return next
	}
	return func(r *httpd.Request) (*httpd.Reply, error) {
		r.SetHeader("Access-Control-Allow-Origin", "*")
		r.SetHeader("Access-Control-Expose-Headers", "Link, Location, Replay-Nonce, Retry-After")
		return next(r)
	}
}

// preflight answers what a browser asks before a signed POST.
func (s *Server) preflight(r *httpd.Request) (*httpd.Reply, error) {
	r.SetHeader("Access-Control-Allow-Methods", "GET, HEAD, POST")
	r.SetHeader("Access-Control-Allow-Headers", "Content-Type")
	r.SetHeader("Access-Control-Max-Age", "86400")
	return nil, nil
}

// authority returns the CA that the path names.
func (s *Server) authority(r *httpd.Request) (*authority, error) {
	name := r.PathValue("ca")
	if a := s.cas[name]; a != nil {
		return a, nil
	}
	return nil, fault.New(fault.NotFound, "there is no certificate authority of that name here")
}

// get wraps the handler of an unsigned request.
func (s *Server) get(h getHandler) httpd.Handler {
	return func(r *httpd.Request) (*httpd.Reply, error) {
		a, err := s.authority(r)
		if err != nil {
			return nil, err
		}
		r.SetHeader("Link", a.index)
		return h(r, a)
	}
}
