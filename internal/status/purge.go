package status

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"chancery/internal/audit"
	"chancery/internal/ca"
	"chancery/internal/db"
	"chancery/internal/loop"
	"chancery/internal/pki"
)

// Purge is a hook that empties caches in front of the status service. It gets
// POST requests with a JSON object:
//
//	{"urls": ["http://..."], "prefixes": ["http://.../ocsp/ID/"]}
//
// and answers 2xx when the caches have forgotten all URLs, and all that begin
// with a prefix (after the revocation of many).
type Purge struct {
	URL   string
	Token string // sent as "Authorization: Bearer TOKEN"; "": none
}

// purgeOneByOne is how many certificates of one authority are purged by URL;
// if more were revoked together, all answers of the authority are.
const purgeOneByOne = 100

const purgeCursor = "status.purge_seq"

var (
	qGetCursor = db.SQL("status.get_cursor", `SELECT value FROM setting WHERE name = $1`)
	qNewCursor = db.SQL("status.insert_cursor", `INSERT INTO setting (name, value, updated_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	qSetCursor = db.SQL("status.move_cursor", `UPDATE setting SET value = $3, updated_at = $4 WHERE name = $1 AND value = $2`)
)

var errMoved = errors.New("another replica was faster")

// planPurges is a tick that follows the journal with a position that all
// replicas share, and enters revoked certificates into the outbox. What the
// journal says is purged even if every process died right after it was said.
func (s *Service) planPurges(ctx context.Context) (n loop.Count, err error) {
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		n = loop.Count{}
		at, err := db.Get(ctx, tx, qGetCursor, (*db.Row).Text, purgeCursor)
		if errors.Is(err, db.ErrNotFound) { // caches may keep what is older; it is good until its max-age
			head, err := audit.Head(ctx, tx)
			if err != nil {
				return err
			}
			tx.Queue(qNewCursor, nil, purgeCursor, strconv.FormatInt(head, 10), s.now())
			return nil
		}
		if err != nil {
			return err
		}
		seq, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return fmt.Errorf("position %q is not a number", at)
		}
		page, err := ca.ReadChanges(ctx, tx, seq, followPage, "certificate.revoke")
		if err != nil || page.Entries == 0 {
			return err
		}
		n.More = page.Entries == followPage
		if n.Done, err = s.planPage(ctx, tx, page.IDs); err != nil {
			return err
		}
		tx.Queue(qSetCursor, db.ExactlyOne(errMoved), purgeCursor, at, strconv.FormatInt(page.Last, 10), s.now())
		return nil
	})
	if errors.Is(err, errMoved) {
		return loop.Count{}, nil
	}
	if err != nil {
		return n, fmt.Errorf("plan purges: %w", err)
	}
	return n, nil
}

// planPage enters the revocations of one page of the journal.
func (s *Service) planPage(ctx context.Context, tx *db.Tx, ids []string) (entered int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	byAuthority := map[string][]string{}
	err = tx.All(ctx, qChanged, func(r *db.Row) error {
		row := scanRow(r)
		byAuthority[row.authority] = append(byAuthority[row.authority], row.serial)
		return nil
	}, ids)
	if err != nil {
		return 0, err
	}
	for authority, serials := range byAuthority {
		if len(serials) > purgeOneByOne {
			serials = []string{"*"}
		}
		for _, serial := range serials {
			s.put(tx, "ocsp/"+authority+"/"+serial, s.now(), sinkPurge)
			entered++
		}
	}
	return entered, nil
}

// purgeRequest is what the hook gets.
type purgeRequest struct {
	URLs     []string `json:"urls,omitempty"`
	Prefixes []string `json:"prefixes,omitempty"`
}

// purge delivers letters to the hook, in one request.
func (s *Service) purge(ctx context.Context, due []letter) []error {
	var req purgeRequest
	for i := range due {
		s.addPurge(&req, due[i].target)
	}
	err := s.postPurge(ctx, &req)
	results := make([]error, len(due))
	for i := range results {
		results[i] = err
	}
	return results
}

// addPurge translates a target: "crl/AUTHORITY/SHARD", "ocsp/AUTHORITY/SERIAL"
// or "ocsp/AUTHORITY/*".
func (s *Service) addPurge(req *purgeRequest, target string) {
	kind, rest, _ := strings.Cut(target, "/")
	authority, what, _ := strings.Cut(rest, "/")
	a := s.ca.Authority(authority)
	b := s.book(authority)
	switch serial, err := pki.ParseSerial(what); {
	case a == nil || b == nil: // nothing of it was ever served
	case kind == "crl":
		shard, _ := strconv.Atoi(what) // we wrote it
		req.URLs = append(req.URLs, s.ca.URLs().CRL(a, shard))
	case what == "*":
		req.Prefixes = append(req.Prefixes, s.ca.URLs().OCSP(a)+"/")
	case err == nil:
		req.URLs = append(req.URLs, b.requestURLs(s.ca.URLs().OCSP(a), serial)...)
	}
}

// requestURLs are the URLs under which clients ask about a serial with GET, and
// caches keep the answer: by both hashes, with the request in base64 as it is
// and percent-encoded (RFC 6960 appendix A.1 asks for that; not all do).
func (b *book) requestURLs(base string, serial pki.Serial) []string {
	var urls []string
	for _, hash := range []crypto.Hash{crypto.SHA1, crypto.SHA256} {
		text := base64.StdEncoding.EncodeToString(pki.EncodeOCSPRequest(&b.hashes, hash, nil, serial))
		urls = append(urls, base+"/"+text)
		if escaped := url.QueryEscape(text); escaped != text {
			urls = append(urls, base+"/"+escaped)
		}
	}
	return urls
}

// outsideTimeout bounds one request to a hook or a bucket.
const outsideTimeout = 30 * time.Second

func (s *Service) postPurge(ctx context.Context, body *purgeRequest) error {
	if len(body.URLs)+len(body.Prefixes) == 0 {
		return nil
	}
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode purge: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.Purge.URL, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("purge caches: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if s.cfg.Purge.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.cfg.Purge.Token)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("purge caches: %w", err)
	}
	return finish(res, "purge caches")
}

// finish reads the end of an answer and returns an error unless it is 2xx.
func finish(res *http.Response, doing string) error {
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 512))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %.200q", doing, res.Status, text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}
