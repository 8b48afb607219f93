package bench

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/url"

	"chancery/internal/fault"
	"chancery/internal/pki"
)

// certPage is a page of Chancery's list of certificates.
type certPage struct {
	Items []struct {
		ID        string `json:"id"`
		Serial    string `json:"serial"`
		Status    string `json:"status"`
		Authority string `json:"authority"`
	} `json:"items"`
	Next string `json:"next"`
}

// maxPages bounds how much of the list is read: a million certificates.
const maxPages = 1000

// ListOCSPTargets is OCSPTargets for a Chancery server: it reads up to limit
// serials of one authority from its API. base is such as
// "https://localhost:8443/api/v1".
func ListOCSPTargets(ctx context.Context, t *Transport, base, token string, limit int) (issuer *x509.Certificate, serials []pki.Serial, responder string, err error) {
	c := newCaller(t)
	defer c.close()
	get := func(path string) ([]byte, error) {
		res, err := c.do(ctx, &Sample{}, "GET", base+path, "Authorization: Bearer "+token+"\r\n", nil)
		if err == nil && res.status != 200 {
			err = fmt.Errorf("get %s: %w", base+path, refused(res))
		}
		if err != nil {
			return nil, err
		}
		return res.body, nil
	}
	first, authority, cursor := "", "", ""
	for range maxPages {
		var page certPage
		body, err := get("/issued?limit=1000&cursor=" + url.QueryEscape(cursor))
		if err != nil {
			return nil, nil, "", err
		}
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, nil, "", fmt.Errorf("read list of certificates: %w", err)
		}
		for _, item := range page.Items {
			if item.Status != "issued" && item.Status != "revoked" {
				continue
			}
			if first == "" {
				first, authority = item.ID, item.Authority
			}
			if serial, err := pki.ParseSerial(item.Serial); err == nil && item.Authority == authority && len(serials) < limit {
				serials = append(serials, serial)
			}
		}
		if cursor = page.Next; cursor == "" || len(serials) >= limit {
			break
		}
	}
	if first == "" {
		return nil, nil, "", fault.New(fault.NotFound, "the server has no certificates to ask for; make some with chancery bench issue")
	}
	chain, err := get("/certs/" + url.PathEscape(first) + "/download")
	if err != nil {
		return nil, nil, "", err
	}
	issuer, _, responder, err = OCSPTargets(chain)
	return issuer, serials, responder, err
}
