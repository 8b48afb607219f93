package issuertest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chancery/internal/acme"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

// Fault is what an ACME CA does wrong with some requests.
type Fault struct {
	Op         string // "directory", "new-nonce", "new-account", "account", "new-order", "order", "authorization", "challenge", "finalize", "certificate", "revoke-cert", "renewal-info"; "" = each
	Skip       int    // requests that go well first
	Times      int    // how often it happens; 0 = always
	Status     int    // answer this without doing anything
	Type       fault.Code
	Detail     string
	RetryAfter string        // header, of the answer or of Status
	Delay      time.Duration // wait first
	Lost       bool          // do it, and close the connection instead of answering
	Down       bool          // close the connection without doing anything
	BadNonce   bool          // say that the nonce is none
	NoNonce    bool          // answer without a nonce
	Body       string        // answer this with 200 and without doing anything
}

// ACME is an ACME CA in memory. Its fields may be changed between requests
// through Set.
type ACME struct {
	*Authority
	URL   string // of the directory
	srv   *httptest.Server
	conns atomic.Int64

	mu sync.Mutex
	// Settings, see Set.
	EAB        map[string][]byte // key id -> MAC key; nil: none is needed
	Profiles   map[string]string
	Methods    []string // challenge types; http-01 and dns-01 if nil
	Looks      int      // at the order before a posted challenge is decided; 0: at once
	Processing int      // looks at the order before the certificate is there
	Sabotage   Sabotage
	Alternate  bool // offer a second chain, to the other root
	Window     [2]time.Time
	// Validate decides on a challenge; nil: all are valid.
	Validate func(typ string, id pki.Identifier, token, keyAuthorization string) error

	faults   []*Fault
	log      []string // ops, in order
	nonces   map[string]bool
	n        int
	accounts map[string]*simAccount // by URL
	orders   map[string]*simOrder
	authzs   map[string]*simAuthz
	replaced map[string]bool
	Revoked  map[string]int // base64url DER -> reason
	Waiting  int            // requests being answered
	Most     int            // most of those at once
}

type simAccount struct{ key *acme.PublicKey }

type simOrder struct {
	acme.Order
	authzs []*simAuthz
	looks  int
	chain  [][]byte
}

type simAuthz struct {
	acme.Authorization
	thumb  string
	posted bool
	typ    string
	token  string
}

// NewACME runs an ACME CA until the test ends.
func NewACME(t testing.TB) *ACME {
	t.Helper()
	a := &ACME{Authority: NewAuthority(t), nonces: map[string]bool{}, accounts: map[string]*simAccount{}, orders: map[string]*simOrder{},
		authzs: map[string]*simAuthz{}, replaced: map[string]bool{}, Revoked: map[string]int{}}
	a.srv = httptest.NewUnstartedServer(a)
	a.srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			a.conns.Add(1)
		}
	}
	a.srv.Start()
	a.URL = a.srv.URL + "/directory"
	t.Cleanup(a.srv.Close)
	return a
}

// Set changes settings.
func (a *ACME) Set(f func(a *ACME)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(a)
}

// Fail adds a fault. Of several for a request, the first counts.
func (a *ACME) Fail(f Fault) {
	a.Set(func(a *ACME) {
		if f.Times == 0 {
			f.Times = -1
		}
		a.faults = append(a.faults, &f)
	})
}

// Conns returns how many connections were opened.
func (a *ACME) Conns() int { return int(a.conns.Load()) }

// Heal ends all faults.
func (a *ACME) Heal() { a.Set(func(a *ACME) { a.faults = nil }) }

// Count returns how many requests of an op were received.
func (a *ACME) Count(op string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, l := range a.log {
		if l == op {
			n++
		}
	}
	return n
}

// Ops returns what was asked for, in order.
func (a *ACME) Ops() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.log...)
}

// Forget loses accounts and orders, as test CAs do when they start again.
func (a *ACME) Forget() {
	a.Set(func(a *ACME) {
		clear(a.accounts)
		clear(a.orders)
		clear(a.authzs)
		clear(a.nonces)
	})
}

// fault returns the fault that a request meets.
func (a *ACME) fault(op string) *Fault {
	for _, f := range a.faults {
		if f.Op != "" && f.Op != op || f.Times == 0 {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		f.Times--
		return f
	}
	return nil
}

// simReply is an answer in the making.
type simReply struct {
	status int
	header http.Header
	body   []byte
}

// ServeHTTP answers one request.
func (a *ACME) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	a.mu.Lock()
	a.log = append(a.log, op)
	f := a.fault(op)
	a.Waiting++
	a.Most = max(a.Most, a.Waiting)
	a.mu.Unlock()
	defer a.Set(func(a *ACME) { a.Waiting-- })
	if f != nil && f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
	}
	if f != nil && f.Down {
		panic(http.ErrAbortHandler)
	}
	res := a.answer(r, f, op, id, body)
	if f != nil && f.Lost {
		panic(http.ErrAbortHandler)
	}
	for k, v := range res.header {
		w.Header()[k] = v
	}
	if f != nil && f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	if f == nil || !f.NoNonce {
		w.Header().Set("Replay-Nonce", a.nonce())
	}
	w.WriteHeader(res.status)
	w.Write(res.body)
}

func (a *ACME) nonce() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	n := "nonce" + strconv.Itoa(a.n)
	a.nonces[n] = true
	return n
}

// answer handles a request that was read.
func (a *ACME) answer(r *http.Request, f *Fault, op, id string, body []byte) *simReply {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case f != nil && f.BadNonce:
		return problem(400, fault.BadNonce, "that is no nonce of mine")
	case f != nil && f.Status != 0:
		return problem(f.Status, f.Type, f.Detail)
	case f != nil && f.Body != "":
		return &simReply{200, http.Header{"Content-Type": {"application/json"}}, []byte(f.Body)}
	}
	switch op {
	case "directory":
		return a.directory()
	case "new-nonce":
		return &simReply{200, http.Header{}, nil}
	case "renewal-info":
		return reply(200, acme.RenewalInfo{SuggestedWindow: acme.Window{Start: acme.At(a.Window[0]), End: acme.At(a.Window[1])}, ExplanationURL: "https://ca.test/why"})
	}
	return a.signed(r, op, id, body)
}

func problem(status int, code fault.Code, detail string) *simReply {
	if code == "" {
		return &simReply{status, http.Header{"Content-Type": {"text/html"}}, []byte("<h1>" + http.StatusText(status) + "</h1>")}
	}
	p := acme.Problem{Type: acme.TypeURI(code), Detail: detail, Status: status}
	return &simReply{status, http.Header{"Content-Type": {acme.ProblemType}}, p.AppendJSON(nil)}
}

func reply(status int, v any) *simReply {
	text, err := json.Marshal(v)
	if err != nil {
		return problem(500, fault.ServerInternal, err.Error())
	}
	return &simReply{status, http.Header{"Content-Type": {"application/json"}}, text}
}

func (a *ACME) directory() *simReply {
	u := a.srv.URL
	return reply(200, acme.Directory{NewNonce: u + "/new-nonce", NewAccount: u + "/new-account", NewOrder: u + "/new-order", RevokeCert: u + "/revoke-cert",
		KeyChange: u + "/key-change", RenewalInfo: u + "/renewal-info", Meta: acme.Meta{Profiles: a.Profiles, ExternalAccountRequired: a.EAB != nil}})
}

// signed handles a request that must be signed.
func (a *ACME) signed(r *http.Request, op, id string, body []byte) *simReply {
	jws, err := acme.ParseJWS(body)
	if err != nil {
		return problem(400, fault.Malformed, err.Error())
	}
	if want := a.srv.URL + r.URL.Path; jws.Header.URL != want {
		return problem(403, fault.Unauthorized, "signed for another URL")
	}
	if !a.nonces[jws.Header.Nonce] {
		return problem(400, fault.BadNonce, "that is no nonce of mine")
	}
	delete(a.nonces, jws.Header.Nonce)
	if op == "new-account" {
		return a.newAccount(jws)
	}
	acct := a.accounts[jws.Header.KID]
	if acct == nil {
		return problem(400, fault.AccountDoesNotExist, "no such account")
	}
	if err := jws.Verify(acct.key); err != nil {
		return problem(403, fault.Unauthorized, "wrong signature")
	}
	return a.route(op, id, acct, jws)
}

func (a *ACME) route(op, id string, acct *simAccount, jws *acme.JWS) *simReply {
	switch op {
	case "account":
		return reply(200, acme.Account{Status: acme.AccountValid, Orders: a.srv.URL + "/orders"})
	case "new-order":
		return a.newOrder(acct, jws)
	case "order":
		if o := a.orders[id]; o != nil {
			a.step(o)
			return reply(200, o.Order)
		}
	case "authorization":
		if z := a.authzs[id]; z != nil {
			return reply(200, z.Authorization)
		}
	case "challenge":
		return a.challenge(id)
	case "finalize":
		return a.finalize(id, jws)
	case "certificate":
		return a.certificate(id)
	case "revoke-cert":
		return a.revoke(jws)
	}
	return problem(404, fault.Malformed, "there is nothing here")
}

func (a *ACME) newAccount(jws *acme.JWS) *simReply {
	key, err := jws.Header.JWK.PublicKey()
	if err != nil || jws.Verify(key) != nil {
		return problem(400, fault.Malformed, "bad signature")
	}
	u := a.srv.URL + "/account/" + key.Thumbprint
	status := 200
	if a.accounts[u] == nil {
		req, err := acme.Decode[acme.NewAccount](jws.Payload)
		if err != nil {
			return problem(400, fault.Malformed, err.Error())
		}
		if a.EAB != nil {
			if _, err := acme.VerifyEAB(jws, key, req.ExternalAccountBinding, func(kid string) ([]byte, error) { return a.EAB[kid], nil }); err != nil {
				return problem(403, fault.Unauthorized, err.Error())
			}
		}
		a.accounts[u], status = &simAccount{key}, 201
	}
	res := reply(status, acme.Account{Status: acme.AccountValid, Orders: u + "/orders"})
	res.header.Set("Location", u)
	return res
}

func (a *ACME) newOrder(acct *simAccount, jws *acme.JWS) *simReply {
	req, err := acme.Decode[acme.NewOrder](jws.Payload)
	if err != nil {
		return problem(400, fault.Malformed, err.Error())
	}
	if req.Replaces != "" && a.replaced[req.Replaces] {
		return problem(409, fault.AlreadyReplaced, "another order replaces it")
	}
	a.n++
	id := strconv.Itoa(a.n)
	o := &simOrder{Order: acme.Order{Status: acme.OrderPending, Expires: acme.At(time.Now().Add(time.Hour)), Profile: req.Profile, Replaces: req.Replaces,
		Finalize: a.srv.URL + "/finalize/" + id}}
	if req.Replaces != "" {
		a.replaced[req.Replaces] = true
	}
	for _, n := range req.Identifiers {
		o.Identifiers = append(o.Identifiers, n.PKI())
		z := a.newAuthz(acct, n.PKI())
		o.authzs = append(o.authzs, z)
		o.Authorizations = append(o.Authorizations, a.srv.URL+"/authorization/"+z.token)
	}
	a.orders[id] = o
	res := reply(201, o.Order)
	res.header.Set("Location", a.srv.URL+"/order/"+id)
	return res
}

func (a *ACME) newAuthz(acct *simAccount, id pki.Identifier) *simAuthz {
	a.n++
	z := &simAuthz{token: fmt.Sprintf("token-of-22-characters-%d", a.n), thumb: acct.key.Thumbprint}
	z.Authorization = acme.Authorization{Identifier: id.Base(), Wildcard: id.Base() != id, Status: acme.AuthorizationPending}
	methods := a.Methods
	if methods == nil {
		methods = []string{"http-01", "dns-01"}
	}
	for _, m := range methods {
		if z.Wildcard && m == "http-01" {
			continue
		}
		z.Challenges = append(z.Challenges, acme.Challenge{Type: m, URL: a.srv.URL + "/challenge/" + z.token + "/" + m, Status: acme.ChallengePending, Token: z.token})
	}
	a.authzs[z.token] = z
	return z
}

func (a *ACME) challenge(id string) *simReply {
	token, typ, _ := strings.Cut(id, "/")
	z := a.authzs[token]
	if z == nil {
		return problem(404, fault.Malformed, "there is nothing here")
	}
	if !z.posted {
		z.posted, z.typ = true, typ
		if a.Looks == 0 {
			a.decide(z)
		}
	}
	for _, c := range z.Challenges {
		if c.Type == typ {
			return reply(200, c)
		}
	}
	return problem(404, fault.Malformed, "there is nothing here")
}

// decide ends a challenge.
func (a *ACME) decide(z *simAuthz) {
	if z.Status != acme.AuthorizationPending || !z.posted {
		return
	}
	var err error
	if a.Validate != nil {
		err = a.Validate(z.typ, z.Identifier, z.token, acme.KeyAuthorization(z.token, z.thumb))
	}
	for i := range z.Challenges {
		c := &z.Challenges[i]
		if c.Type != z.typ {
			continue
		}
		z.Status, c.Status = acme.AuthorizationValid, acme.ChallengeValid
		if err != nil {
			z.Status, c.Status = acme.AuthorizationInvalid, acme.ChallengeInvalid
			c.Error = &acme.Problem{Type: acme.TypeURI(fault.Unauthorized), Detail: err.Error(), Status: 403}
		}
	}
}

// step moves an order on, once per look at it.
func (a *ACME) step(o *simOrder) {
	o.looks++
	if o.looks > a.Looks {
		for _, z := range o.authzs {
			a.decide(z)
		}
	}
	if o.Status == acme.OrderPending {
		o.Status = acme.OrderReady
		for _, z := range o.authzs {
			if z.Status == acme.AuthorizationInvalid {
				o.Status = acme.OrderInvalid
				return
			}
			if z.Status != acme.AuthorizationValid {
				o.Status = acme.OrderPending
			}
		}
	}
	if o.Status == acme.OrderProcessing && o.looks >= a.Processing {
		o.Status = acme.OrderValid
	}
}

func (a *ACME) finalize(id string, jws *acme.JWS) *simReply {
	o := a.orders[id]
	if o == nil {
		return problem(404, fault.Malformed, "there is nothing here")
	}
	a.step(o)
	if o.Status != acme.OrderReady {
		return problem(403, fault.OrderNotReady, "the order is "+string(o.Status))
	}
	req, err := acme.Decode[acme.Finalize](jws.Payload)
	if err != nil {
		return problem(400, fault.Malformed, err.Error())
	}
	csr, err := req.DER()
	if err != nil {
		return problem(400, fault.BadCSR, err.Error())
	}
	if o.chain, err = a.Sign(csr, a.Sabotage); err != nil {
		return problem(400, fault.BadCSR, err.Error())
	}
	o.Status, o.looks, o.Certificate = acme.OrderProcessing, 0, a.srv.URL+"/certificate/"+id
	if a.Processing == 0 {
		o.Status = acme.OrderValid
	}
	return reply(200, o.Order)
}

func (a *ACME) certificate(id string) *simReply {
	id, alt, _ := strings.Cut(id, "/")
	o := a.orders[id]
	if o == nil || o.Status != acme.OrderValid {
		return problem(404, fault.Malformed, "there is nothing here")
	}
	chain := o.chain
	if alt != "" {
		chain = [][]byte{o.chain[0], a.InterByOther.Raw}
	}
	res := &simReply{200, http.Header{"Content-Type": {"application/pem-certificate-chain"}}, pki.EncodeChain(chain...)}
	if a.Alternate && alt == "" {
		res.header.Add("Link", "<"+a.srv.URL+"/directory>;rel=\"index\"")
		res.header.Add("Link", "<"+a.srv.URL+"/certificate/"+id+"/1>;rel=\"alternate\"")
	}
	return res
}

func (a *ACME) revoke(jws *acme.JWS) *simReply {
	req, err := acme.Decode[acme.Revocation](jws.Payload)
	if err != nil {
		return problem(400, fault.Malformed, err.Error())
	}
	if _, ok := a.Revoked[req.Certificate]; ok {
		return problem(400, fault.AlreadyRevoked, "it is revoked")
	}
	if _, err := base64.RawURLEncoding.DecodeString(req.Certificate); err != nil {
		return problem(400, fault.Malformed, err.Error())
	}
	a.Revoked[req.Certificate] = 0
	if req.Reason != nil {
		a.Revoked[req.Certificate] = *req.Reason
	}
	return &simReply{200, http.Header{}, nil}
}

// AccountKeys returns the thumbprints of all accounts. It is called from Set.
func (a *ACME) AccountKeys() []string {
	var out []string
	for _, acct := range a.accounts {
		out = append(out, acct.key.Thumbprint)
	}
	return out
}
