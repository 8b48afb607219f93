package status

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bucket is an S3-compatible store that CRLs are copied to, or any HTTP server
// that takes PUT and honours If-Match and If-None-Match.
type Bucket struct {
	// URL is that of the bucket, with a prefix if wanted:
	// "https://s3.eu-central-1.amazonaws.com/my-bucket/pki". CRLs are put below
	// it as crl/AUTHORITY/N.crl.
	URL string
	// Region, AccessKey and SecretKey sign requests (AWS signature version 4).
	// An empty AccessKey: requests are not signed.
	Region, AccessKey, SecretKey string
}

// numberHeader keeps the number of the list beside it.
const numberHeader = "X-Amz-Meta-Crl-Number"

// upload delivers letters to the bucket, one after the other.
func (s *Service) upload(ctx context.Context, due []letter) []error {
	results := make([]error, len(due))
	s.crlMu.Lock()
	err := s.syncCRLs(ctx) // the letter may be about a list of another replica
	s.crlMu.Unlock()
	for i := range due {
		if results[i] = err; err == nil {
			results[i] = s.uploadList(ctx, due[i].target)
		}
	}
	return results
}

// uploadList puts the current list of a target ("crl/AUTHORITY/SHARD") into the
// bucket, unless a newer one is there. Of two that try at once, one is told
// that the object has changed, and tries again later.
func (s *Service) uploadList(ctx context.Context, target string) error {
	authority, shard, _ := strings.Cut(strings.TrimPrefix(target, "crl/"), "/")
	b := s.book(authority)
	n, err := strconv.Atoi(shard)
	if b == nil || err != nil || n < 0 || n >= len(b.crls) || b.crls[n].published.Load() == nil {
		return nil // not one of this installation any more
	}
	p := b.crls[n].published.Load()
	ctx, cancel := context.WithTimeout(ctx, outsideTimeout)
	defer cancel()
	at := strings.TrimRight(s.cfg.Bucket.URL, "/") + "/" + target + ".crl"
	head, err := s.bucketDo(ctx, http.MethodHead, at, nil, nil)
	if err != nil {
		return err
	}
	head.Body.Close()
	condition := http.Header{"Content-Type": {typeCRL}, numberHeader: {strconv.FormatUint(p.number, 10)}, "Cache-Control": {"max-age=600"}}
	switch head.StatusCode {
	case http.StatusOK:
		if there, err := strconv.ParseUint(head.Header.Get(numberHeader), 10, 64); err == nil && there >= p.number {
			return nil
		}
		condition.Set("If-Match", head.Header.Get("Etag"))
	case http.StatusNotFound:
		condition.Set("If-None-Match", "*")
	default:
		return finish(head, "look at bucket")
	}
	res, err := s.bucketDo(ctx, http.MethodPut, at, p.der, condition)
	if err != nil {
		return err
	}
	return finish(res, "put CRL into bucket")
}

func (s *Service) bucketDo(ctx context.Context, method, at string, body []byte, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("use bucket: %w", err)
	}
	if header != nil {
		req.Header = header
	}
	s.cfg.Bucket.sign(req, body, s.now())
	res, err := s.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("use bucket: %w", err)
	}
	return res, nil
}

var errBucket = errors.New("the bucket's URL is not one of http or https, with a path")

func (b *Bucket) check() error {
	if u, err := url.Parse(b.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return errBucket
	}
	return nil
}

// sign adds an AWS signature, version 4: over the method, the path, the host,
// the digest of the body and every x-amz- header. Requests have no query.
func (b *Bucket) sign(req *http.Request, body []byte, now time.Time) {
	if b.AccessKey == "" {
		return
	}
	sum := sha256.Sum256(body)
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	req.Header.Set("X-Amz-Date", now.UTC().Format("20060102T150405Z"))
	names, canonical := canonicalHeaders(req)
	text := strings.Join([]string{req.Method, req.URL.EscapedPath(), "", canonical, names, hex.EncodeToString(sum[:])}, "\n")
	day := now.UTC().Format("20060102")
	scope := day + "/" + b.Region + "/s3/aws4_request"
	hash := sha256.Sum256([]byte(text))
	toSign := "AWS4-HMAC-SHA256\n" + req.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + hex.EncodeToString(hash[:])
	key := []byte("AWS4" + b.SecretKey)
	for _, part := range []string{day, b.Region, "s3", "aws4_request", toSign} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+b.AccessKey+"/"+scope+",SignedHeaders="+names+",Signature="+hex.EncodeToString(key))
}

// canonicalHeaders returns the names of the signed headers, and their lines.
func canonicalHeaders(req *http.Request) (names, lines string) {
	headers := map[string]string{"host": req.URL.Host}
	for name, values := range req.Header {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "x-amz-") || name == "range" || name == "date" {
			headers[name] = strings.TrimSpace(strings.Join(values, ","))
		}
	}
	sorted := slices.Sorted(maps.Keys(headers))
	for _, name := range sorted {
		lines += name + ":" + headers[name] + "\n"
	}
	return strings.Join(sorted, ";"), lines
}
