package bench

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/crypto/ocsp"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// OCSPConfig describes the benchmark of an OCSP responder.
type OCSPConfig struct {
	URL       string // of the responder
	Issuer    *x509.Certificate
	Serials   []pki.Serial // asked in random order, one per request
	Method    string       // GET or POST
	SHA256    bool         // name the issuer by SHA-256; most clients use SHA-1
	Verify    bool         // check signature and serial of every answer
	Transport Transport
}

// OCSP is the benchmark of an OCSP responder (RFC 6960, RFC 9654 without
// nonce, as browsers ask).
type OCSP struct {
	callers
	cfg  OCSPConfig
	ids  pki.CertIDHashes
	hash crypto.Hash
}

// NewOCSP checks the configuration.
func NewOCSP(cfg OCSPConfig) (*OCSP, error) {
	if len(cfg.Serials) == 0 || cfg.Issuer == nil {
		return nil, fault.New(fault.Invalid, "there are no serials to ask for, or their issuer is unknown")
	}
	if cfg.Method != http.MethodGet && cfg.Method != http.MethodPost {
		return nil, fault.New(fault.Invalid, "method %q: OCSP knows GET and POST", cfg.Method)
	}
	ids, err := pki.NewCertIDHashes(cfg.Issuer.RawSubject, cfg.Issuer.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	o := &OCSP{cfg: cfg, ids: ids, hash: crypto.SHA1}
	if cfg.SHA256 {
		o.hash = crypto.SHA256
	}
	o.t = &o.cfg.Transport
	o.cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	return o, nil
}

// Workload returns the benchmark for a Driver.
func (o *OCSP) Workload() Workload {
	return Workload{Name: "ocsp", Unit: "answers", Open: o.open, Do: o.ask}
}

// ask asks for one serial.
func (o *OCSP) ask(ctx context.Context, client int, s *Sample) error {
	serial := o.cfg.Serials[rand.IntN(len(o.cfg.Serials))]
	der := pki.EncodeOCSPRequest(&o.ids, o.hash, nil, serial)
	var res *reply
	var err error
	if o.cfg.Method == http.MethodGet {
		// Base64 has three characters that a path must not hold bare (RFC 6960
		// appendix A.1).
		target := o.cfg.URL + "/" + url.QueryEscape(base64.StdEncoding.EncodeToString(der))
		res, err = o.list[client].do(ctx, s, http.MethodGet, target, "", nil)
	} else {
		res, err = o.list[client].do(ctx, s, http.MethodPost, o.cfg.URL, "Content-Type: application/ocsp-request\r\n", der)
	}
	if err != nil {
		return err
	}
	if res.status != http.StatusOK {
		return fmt.Errorf("ask for %s: %w", serial.Hex(), refused(res))
	}
	return o.check(res.body, serial)
}

// check looks at an answer: always that it is a successful one, with Verify
// all of it.
func (o *OCSP) check(der []byte, serial pki.Serial) error {
	// OCSPResponse ::= SEQUENCE { responseStatus ENUMERATED, ...
	if head := der[:min(len(der), 8)]; !bytes.HasPrefix(head, []byte{0x30}) || !bytes.Contains(head, []byte{0x0a, 0x01, 0x00}) {
		return fmt.Errorf("ask for %s: %w: %w", serial.Hex(), errVerify, errUnsuccessful)
	}
	if !o.cfg.Verify {
		return nil
	}
	answer, err := ocsp.ParseResponse(der, o.cfg.Issuer)
	if err != nil {
		return fmt.Errorf("ask for %s: %w: %w", serial.Hex(), errVerify, err)
	}
	if pki.SerialFromBig(answer.SerialNumber) != serial {
		return fmt.Errorf("ask for %s: %w: the answer is for another serial", serial.Hex(), errVerify)
	}
	return nil
}

var errUnsuccessful = errors.New("the responder sent no successful OCSP response")

// OCSPTargets finds what to ask in PEM text: every certificate that is no CA,
// its issuer, and the responder that it names. All leaves must have the same
// issuer, which must be among the certificates; "chancery bench issue --keep"
// writes such files.
func OCSPTargets(text []byte) (issuer *x509.Certificate, serials []pki.Serial, responder string, err error) {
	leaves, byName, err := sortPEM(text)
	if err != nil {
		return nil, nil, "", err
	}
	if len(leaves) == 0 {
		return nil, nil, "", fault.New(fault.Invalid, "the file holds no certificate of a subscriber")
	}
	if issuer = byName[string(leaves[0].RawIssuer)]; issuer == nil {
		return nil, nil, "", fault.New(fault.Invalid, "the certificate of the issuer, %s, is missing; add it to the file", leaves[0].Issuer)
	}
	for _, l := range leaves {
		if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
			return nil, nil, "", fault.New(fault.Invalid, "the certificates have different issuers; measure one at a time")
		}
		serials = append(serials, pki.SerialFromBig(l.SerialNumber))
	}
	if urls := leaves[0].OCSPServer; len(urls) > 0 {
		responder = urls[0]
	}
	return issuer, serials, responder, nil
}
