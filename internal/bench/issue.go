package bench

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"chancery/internal/acme"
	"chancery/internal/acme/challenge"
	"chancery/internal/fault"
	"chancery/internal/keys"
	"chancery/internal/pki"
)

// IssueConfig describes the issuance benchmark.
type IssueConfig struct {
	Directory string // URL of any RFC 8555 directory
	Transport Transport

	Challenge       challenge.Type
	HTTP01Listen    string     // HOST:PORT that validators reach as port 80 of every name
	TLSALPN01Listen string     // HOST:PORT that validators reach as port 443 of every name
	DNS             *DNSServer // for dns-01; may be nil otherwise

	Suffix   string      // names are RANDOM.Suffix
	Names    int         // names per certificate
	Profile  string      // profiles draft; "" leaves it to the server
	KeyType  pki.KeyType // of subject keys
	Reuse    bool        // one subject key per client, made before the clock starts
	Accounts int         // how many accounts the clients share; 0: one each

	AccountKeyType pki.KeyType
	Contact        []string // "mailto:..."
	EABKeyID       string
	EABKey         []byte // MAC key of the external account binding

	Poll time.Duration // between looks at unfinished objects; 0: as the server says

	// Verify checks every certificate: chain to Roots (nil: the system's),
	// names, key. It costs CPU of the client, outside of the latency.
	Verify bool
	Roots  *x509.CertPool

	Keep *Keeper // gets every downloaded chain, warm-up included; may be nil
}

// Phases of an issuance, indices into Sample.Phases.
const (
	phaseOrder = iota
	phaseAuthorization
	phaseChallenge
	phaseKey
	phaseFinalize
	phaseCertificate
)

// IssuePhases names the phases: new-order; the authorizations; the challenges
// until all are valid; subject key and CSR; finalize until the order is valid;
// download.
func IssuePhases() []string {
	return []string{"order", "authorization", "challenge", "key+csr", "finalize", "certificate"}
}

// maxAccountsAtOnce bounds how many accounts are created in parallel.
const maxAccountsAtOnce = 8

// Issue is the issuance benchmark: the whole of RFC 8555 for each operation.
type Issue struct {
	cfg       IssueConfig
	dir       *acme.Directory
	responder *responder
	accounts  []account
	clients   []*issuer
}

// account is an account of the server under test.
type account struct {
	signer *acme.Signer
	url    string
}

// issuer is one client.
type issuer struct {
	session
	key     crypto.Signer // with Reuse
	names   []string
	payload []byte

	replaces string // ARI id of the certificate that the next order renews, or ""
}

// NewIssue fetches the directory and starts the responder. Close ends it.
func NewIssue(ctx context.Context, cfg IssueConfig) (*Issue, error) {
	if cfg.Names < 1 || cfg.Names > 100 {
		return nil, fault.New(fault.Invalid, "%d names per certificate: choose 1 to 100", cfg.Names)
	}
	for _, t := range []pki.KeyType{cfg.KeyType, cfg.AccountKeyType} {
		if !t.Valid() {
			return nil, fault.New(fault.Invalid, "key type %q is unknown; choose one of %v", t, pki.KeyTypes)
		}
	}
	if _, err := pki.ParseIdentifier(pki.DNS, "x."+cfg.Suffix); err != nil {
		return nil, fault.New(fault.Invalid, "names cannot end in %q: %s", cfg.Suffix, fault.As(err).Detail)
	}
	b := &Issue{cfg: cfg}
	probe := newCaller(&b.cfg.Transport)
	defer probe.close()
	var err error
	if b.dir, err = getDirectory(ctx, probe, cfg.Directory); err != nil {
		return nil, err
	}
	if b.dir.Meta.ExternalAccountRequired && cfg.EABKeyID == "" {
		return nil, fault.New(fault.ExternalAccountRequired, "%s creates accounts with an external account binding only; give its key id and MAC key", cfg.Directory)
	}
	b.responder, err = newResponder(cfg.Challenge, &b.cfg)
	return b, err
}

// Close stops the responder and closes all connections.
func (b *Issue) Close() error {
	for _, c := range b.clients {
		c.http.close()
	}
	return b.responder.close()
}

// Workload returns the benchmark for a Driver.
func (b *Issue) Workload() Workload {
	return Workload{Name: "issue", Unit: "issuances", Phases: IssuePhases(), Open: b.open, Do: b.issue}
}

// open makes accounts and clients until there are enough.
func (b *Issue) open(ctx context.Context, clients int) error {
	want := clients
	if b.cfg.Accounts > 0 {
		want = min(want, b.cfg.Accounts)
	}
	if err := b.register(ctx, want); err != nil {
		return err
	}
	for len(b.clients) < clients {
		a := b.accounts[len(b.clients)%len(b.accounts)]
		c := &issuer{session: session{http: newCaller(&b.cfg.Transport), dir: b.dir, signer: a.signer, kid: a.url}}
		if b.cfg.Reuse {
			var err error
			if c.key, err = keys.Generate(b.cfg.KeyType); err != nil {
				return err
			}
		}
		b.clients = append(b.clients, c)
	}
	return nil
}

// register creates accounts until there are n.
func (b *Issue) register(ctx context.Context, n int) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxAccountsAtOnce)
	for range n - len(b.accounts) {
		g.Go(func() error {
			a, err := b.newAccount(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			b.accounts = append(b.accounts, a)
			return nil
		})
	}
	err := g.Wait()
	var r *refusal
	if errors.As(err, &r) && r.problem.Status == 429 {
		return fmt.Errorf("%d of %d accounts were made, then the server limited them; share fewer accounts between the clients: %w", len(b.accounts), n, err)
	}
	return err
}

// newAccount creates one account.
func (b *Issue) newAccount(ctx context.Context) (account, error) {
	key, err := keys.Generate(b.cfg.AccountKeyType)
	if err != nil {
		return account{}, err
	}
	signer, err := acme.NewSigner(key)
	if err != nil {
		return account{}, err
	}
	request := acme.NewAccount{Contact: b.cfg.Contact, TermsOfServiceAgreed: true}
	if b.cfg.EABKeyID != "" {
		request.ExternalAccountBinding, err = acme.SignEAB(b.dir.NewAccount, b.cfg.EABKeyID, b.cfg.EABKey, acme.HS256, signer.PublicKey())
		if err != nil {
			return account{}, err
		}
	}
	payload, err := json.Marshal(request)
	if err != nil {
		return account{}, fmt.Errorf("encode account: %w", err)
	}
	s := session{http: newCaller(&b.cfg.Transport), dir: b.dir, signer: signer}
	defer s.http.close()
	if err := s.register(ctx, payload); err != nil {
		return account{}, err
	}
	return account{signer, s.kid}, nil
}

// issue is one operation: from new-order to the certificate in hand.
func (b *Issue) issue(ctx context.Context, client int, sample *Sample) error {
	c := b.clients[client]
	c.newNames(b.cfg.Names, b.cfg.Suffix)
	start := time.Now()
	order, location, err := b.newOrder(ctx, c, sample)
	start = sample.lap(phaseOrder, start)
	if err != nil {
		return err
	}
	if start, err = b.authorize(ctx, c, sample, order.Authorizations, start); err != nil {
		return err
	}
	key, csr, err := b.request(c)
	start = sample.lap(phaseKey, start)
	if err != nil {
		return err
	}
	url, err := b.finalize(ctx, c, sample, order.Finalize, location, csr)
	start = sample.lap(phaseFinalize, start)
	if err != nil {
		return err
	}
	res, err := c.post(ctx, sample, url, nil)
	sample.lap(phaseCertificate, start)
	if err != nil {
		return fmt.Errorf("download certificate: %w", err)
	}
	if b.cfg.Keep != nil {
		b.cfg.Keep.add(res.body)
	}
	return b.check(res.body, key.Public(), c.names)
}

// newNames chooses names that no other operation has.
func (c *issuer) newNames(n int, suffix string) {
	c.names = c.names[:0]
	for range n {
		// A letter first: some servers refuse labels of digits.
		c.names = append(c.names, "b"+strconv.FormatUint(rand.Uint64(), 36)+"."+suffix)
	}
}

// newOrder asks for a certificate.
func (b *Issue) newOrder(ctx context.Context, c *issuer, sample *Sample) (*orderView, string, error) {
	p := append(c.payload[:0], `{"identifiers":[`...)
	for i, n := range c.names {
		if i > 0 {
			p = append(p, ',')
		}
		p = append(p, `{"type":"dns","value":"`...)
		p = append(p, n...)
		p = append(p, `"}`...)
	}
	p = append(p, ']')
	if b.cfg.Profile != "" {
		p = append(p, `,"profile":`...)
		p = strconv.AppendQuote(p, b.cfg.Profile)
	}
	if c.replaces != "" {
		p = append(p, `,"replaces":`...)
		p = strconv.AppendQuote(p, c.replaces)
	}
	c.payload = append(p, '}')
	res, err := c.post(ctx, sample, b.dir.NewOrder, c.payload)
	if err != nil {
		return nil, "", fmt.Errorf("create order: %w", err)
	}
	location := res.location
	o, err := readOrder(res.body)
	if err != nil {
		return nil, "", fmt.Errorf("create order: %w", err)
	}
	if location == "" || o.Finalize == "" || len(o.Authorizations) == 0 {
		return nil, "", errors.New("create order: the reply lacks its URL, authorizations or finalize")
	}
	return o, location, nil
}

// request makes the subject key and the CSR.
func (b *Issue) request(c *issuer) (crypto.Signer, []byte, error) {
	key := c.key
	if key == nil {
		var err error
		if key, err = keys.Generate(b.cfg.KeyType); err != nil {
			return nil, nil, err
		}
	}
	csr, err := newCSR(key, c.names)
	return key, csr, err
}

// authorize proves every name of the order.
func (b *Issue) authorize(ctx context.Context, c *issuer, sample *Sample, urls []string, start time.Time) (time.Time, error) {
	for _, url := range urls {
		res, err := c.post(ctx, sample, url, nil)
		if err != nil {
			return start, fmt.Errorf("get authorization: %w", err)
		}
		a, err := readAuthorization(res.body)
		if err != nil {
			return start, fmt.Errorf("get authorization: %w", err)
		}
		start = sample.lap(phaseAuthorization, start)
		if a.Status == acme.AuthorizationValid {
			continue
		}
		err = b.prove(ctx, c, sample, url, a)
		start = sample.lap(phaseChallenge, start)
		if err != nil {
			return start, err
		}
	}
	return start, nil
}

// prove fulfils one authorization.
func (b *Issue) prove(ctx context.Context, c *issuer, sample *Sample, url string, a *authorizationView) error {
	ch := a.find(b.cfg.Challenge)
	if ch == nil {
		return fmt.Errorf("authorize %s: the server offers no %s", a.Identifier.Value, b.cfg.Challenge)
	}
	b.responder.present(a.Identifier.Value, ch.Token, acme.KeyAuthorization(ch.Token, c.signer.PublicKey().Thumbprint))
	defer b.responder.forget(a.Identifier.Value, ch.Token)
	res, err := c.post(ctx, sample, ch.URL, []byte("{}"))
	if err != nil {
		return fmt.Errorf("answer challenge: %w", err)
	}
	got, err := readChallenge(res.body)
	if err != nil {
		return fmt.Errorf("answer challenge: %w", err)
	}
	if got.Status == acme.ChallengeValid {
		return nil
	}
	if got.Status == acme.ChallengeInvalid {
		return fmt.Errorf("validate %s: %w", a.Identifier.Value, problemOr(got.Error, "challenge"))
	}
	return b.awaitAuthorization(ctx, c, sample, url, res.retryAfter)
}

// awaitAuthorization polls until the authorization is valid.
func (b *Issue) awaitAuthorization(ctx context.Context, c *issuer, sample *Sample, url string, after time.Duration) error {
	deadline := time.Now().Add(b.cfg.Transport.Timeout)
	for p := (poller{every: b.cfg.Poll}); time.Now().Before(deadline); {
		if err := p.wait(ctx, after); err != nil {
			return err
		}
		res, err := c.post(ctx, sample, url, nil)
		if err != nil {
			return fmt.Errorf("poll authorization: %w", err)
		}
		after = res.retryAfter
		a, err := readAuthorization(res.body)
		if err != nil {
			return fmt.Errorf("poll authorization: %w", err)
		}
		switch a.Status {
		case acme.AuthorizationValid:
			return nil
		case acme.AuthorizationPending:
		default:
			var problem *acme.Problem
			if ch := a.find(b.cfg.Challenge); ch != nil {
				problem = ch.Error
			}
			return fmt.Errorf("validate %s: %w", a.Identifier.Value, problemOr(problem, "authorization"))
		}
	}
	return fmt.Errorf("poll authorization: %w", context.DeadlineExceeded)
}

// finalize sends the CSR and returns the URL of the certificate.
func (b *Issue) finalize(ctx context.Context, c *issuer, sample *Sample, url, location string, csr []byte) (string, error) {
	p := append(c.payload[:0], `{"csr":"`...)
	p = base64.RawURLEncoding.AppendEncode(p, csr)
	c.payload = append(p, `"}`...)
	deadline := time.Now().Add(b.cfg.Transport.Timeout)
	target, payload := url, c.payload
	for p := (poller{every: b.cfg.Poll}); time.Now().Before(deadline); {
		res, err := c.post(ctx, sample, target, payload)
		var r *refusal
		switch {
		case errors.As(err, &r) && r.problem.Code() == fault.OrderNotReady:
			// The authorizations are valid, the order is not yet: look again,
			// then send the CSR once more.
			target, payload = location, nil
			if err := p.wait(ctx, r.after); err != nil {
				return "", err
			}
			continue
		case err != nil:
			return "", fmt.Errorf("finalize order: %w", err)
		}
		after := res.retryAfter
		o, err := readOrder(res.body)
		if err != nil {
			return "", fmt.Errorf("finalize order: %w", err)
		}
		switch o.Status {
		case acme.OrderValid:
			if o.Certificate == "" {
				return "", errors.New("finalize order: it is valid and has no certificate")
			}
			return o.Certificate, nil
		case acme.OrderInvalid:
			return "", fmt.Errorf("finalize order: %w", problemOr(o.Error, "order"))
		case acme.OrderReady:
			if target == location {
				target, payload = url, c.payload
				continue
			}
		}
		target, payload = location, nil
		if err := p.wait(ctx, after); err != nil {
			return "", err
		}
	}
	return "", fmt.Errorf("finalize order: %w", context.DeadlineExceeded)
}

// problemOr is the error of an object that became invalid.
func problemOr(p *acme.Problem, object string) error {
	if p == nil {
		return fmt.Errorf("the %s is invalid, and the server does not say why", object)
	}
	return &refusal{problem: p}
}

// check looks at what was downloaded: always that it is a certificate, with
// Verify all of it.
func (b *Issue) check(chain []byte, key crypto.PublicKey, names []string) error {
	if !strings.HasPrefix(string(chain[:min(len(chain), 64)]), "-----BEGIN CERTIFICATE-----") {
		return fmt.Errorf("%w: the download is no PEM certificate", errVerify)
	}
	if !b.cfg.Verify {
		return nil
	}
	return verifyChain(chain, key, names, b.cfg.Roots, time.Now())
}
