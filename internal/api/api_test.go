package api_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"chancery/internal/api"
	"chancery/internal/api/client"
	"chancery/internal/audit"
	"chancery/internal/db/dbtest"
	"chancery/internal/fault"
	"chancery/internal/pki"
)

func now() time.Time { return time.Now() }

var ctx = context.Background()

func TestCertificates(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for i := range 7 {
			w.issue(t, fmt.Sprintf("h%d.example.test", i))
		}
		c := w.issue(t, "www.example.test", "*.example.test")
		list, more, err := client.List[api.Certificate](ctx, w.viewer, "/issued", url.Values{"q": {"*.example.test"}}, 0)
		if err != nil || more || len(list) != 8 {
			t.Fatal(len(list), more, err)
		}
		first, more, err := client.List[api.Certificate](ctx, w.viewer, "/issued", nil, 3)
		if err != nil || !more || len(first) != 3 || first[0].ID != c.ID || first[0].Status != "issued" || len(first[0].Names) != 2 {
			t.Fatal(first, more, err)
		}
		one, err := client.Get[api.KnownDetail](ctx, w.viewer, "/certs/"+c.ID, nil)
		check(t, err)
		if one.Serial != c.Serial.Hex() || one.Status != "active" || one.Issuance == nil || len(one.Issuance.Evidence) != 2 || one.Issuance.Evidence[0].Method != "http-01" ||
			len(one.Issuance.Events) != 2 || one.Issuance.Events[1].Kind != "certificate.issue" {
			t.Errorf("%+v", one)
		}
		chain, err := pki.DecodeChain([]byte(one.Chain), 1<<20, 8)
		if err != nil || len(chain) != 2 || string(chain[0]) != string(c.DER) {
			t.Errorf("chain of %d, %v", len(chain), err)
		}
		for format, want := range map[string]string{"der": string(c.DER), "pem": string(pki.EncodeChain(c.DER)), "chain": one.Chain} {
			var got []byte
			check(t, w.viewer.Do(ctx, http.MethodGet, "/certs/"+c.ID+"/download", url.Values{"format": {format}}, nil, &got))
			if string(got) != want {
				t.Errorf("download as %s differs", format)
			}
		}
		if _, err := client.Get[api.KnownDetail](ctx, w.viewer, "/certs/nothing", nil); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
	})
}

// A body is what it says it is, and JSON.
func TestMediaTypeOfRequests(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	for kind, status := range map[string]int{"application/json": 201, "application/json; charset=utf-8": 201, "text/plain": 415, "application/x-www-form-urlencoded": 415, "multipart/form-data; boundary=x": 415, "application/cbor": 415} {
		resp, body := w.raw(t, "POST", "/api/v1/tokens", `{"name":"x"}`, "Authorization", "Bearer "+w.adminText(), "Content-Type", kind)
		if resp.StatusCode != status {
			t.Errorf("%s: %d %s", kind, resp.StatusCode, body)
		}
	}
}

func TestInputIsStrict(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	bearer := []string{"Authorization", "Bearer " + w.adminText()}
	for _, c := range []struct {
		method, path, body, says string
		status                   int
	}{
		{"GET", "/certs?limt=1", "", `unknown query parameter \"limt\"; known are: cursor, limit, q, sort`, 422},
		{"GET", "/certs?limit=1001", "", "query.limit", 422},
		{"GET", "/certs?limit=0", "", "query.limit", 422},
		{"GET", "/certs?limit=x", "", "query.limit", 422},
		{"GET", "/certs?limit=1&limit=2", "", "given 2 times", 400},
		{"GET", "/certs?q=%zz", "", "does not parse", 400},
		{"GET", "/certs?q=profile:tls", "", "keys are: owner", 400},
		{"GET", "/issued?q=owner:pay", "", "known are: name, serial", 400},
		{"GET", "/issued?cursor=AAAA", "", "start again without a cursor", 400},
		{"GET", "/certs?cursor=AAAA", "", "cursor", 400},
		{"GET", "/authorities?cursor=AAAA", "", "start again without a cursor", 400},
		{"GET", "/journal?cursor=azp4", "", "start again without a cursor", 400},
		{"GET", "/tokens?cursor=azp4", "", "start again without a cursor", 400},
		{"POST", "/tokens", `{"name":"x","rol":"admin"}`, "body.rol", 422},
		{"POST", "/tokens", `{"name":"x","name":"y"}`, "duplicate", 400},
		{"POST", "/tokens", `{"name":"x"} {}`, "", 400},
		{"POST", "/tokens", `{"name":"x","role":"root"}`, "body.role", 422},
		{"POST", "/tokens", `{"name":"x","expires":"-1d"}`, "90d", 400},
		{"POST", "/tokens", ``, "body", 400},
		{"POST", "/tokens", `{"name":"` + strings.Repeat("x", 400<<10) + `"}`, "", 413},
		{"POST", "/certs/x/revoke", `{"reason":"whim"}`, "superseded", 400},
		{"POST", "/certs/x/revoke", `{"reason":"6"}`, "0, 1, 3, 4, 5 or 9", 400},
		{"POST", "/certs/x/revoke", `{"reason":"superseded","block_key":true}`, "keyCompromise", 400},
		{"POST", "/authorities/root", `{"ca":"UPPER"}`, "lower-case", 400},
		{"PUT", "/certs", "", "GET", 405},
		{"GET", "/nothing", "", "nothing at this path", 404},
	} {
		header := bearer
		if c.body != "" {
			header = append(header, "Content-Type", "application/json")
		}
		resp, body := w.raw(t, c.method, "/api/v1"+c.path, c.body, header...)
		if resp.StatusCode != c.status || !strings.Contains(body, c.says) || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %s %.300s\nwant %d %q", c.method, c.path, resp.StatusCode, resp.Header.Get("Content-Type"), body, c.status, c.says)
		}
		if id := resp.Header.Get("X-Request-Id"); id == "" || !strings.Contains(body, id) {
			t.Errorf("%s %s: the problem does not name the request %s", c.method, c.path, id)
		}
	}
	resp, body := w.raw(t, "POST", "/api/v1/tokens", "name=x", append(bearer, "Content-Type", "application/x-www-form-urlencoded")...)
	if resp.StatusCode != 415 {
		t.Errorf("a form was taken: %d %s", resp.StatusCode, body)
	}
}

// An input that is refused may hold a secret: it is repeated neither to the
// client nor to the log.
func TestErrorsRepeatNoSecrets(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	secret := "hunter2hunter2hunter2"
	key := "-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n"
	for path, body := range map[string]string{
		"/tokens":                          `{"name":"x","role":"` + secret + `"}`,
		"/authorities/nothing/certificate": fmt.Sprintf(`{"chain":%q}`, key),
		"/authorities/nothing/sign":        fmt.Sprintf(`{"csr":%q}`, key),
	} {
		_, answer := w.raw(t, "POST", "/api/v1"+path, body, "Authorization", "Bearer "+w.adminText(), "Content-Type", "application/json")
		if strings.Contains(answer, secret) || strings.Contains(w.log.String(), secret) {
			t.Errorf("%s: the secret is repeated: %s", path, answer)
		}
	}
}

// tries repeats what depends on the clock (the tag's minute, the memory's 250
// ms) until it was quick enough once.
func tries(t *testing.T, f func() bool) {
	t.Helper()
	for range 20 {
		if f() {
			return
		}
	}
	t.Error("20 tries did not work once")
}

func TestNotModified(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.issue(t, "a.test")
		get := func(tag string) (*http.Response, string) {
			return w.raw(t, "GET", "/api/v1/issued?limit=10", "", "Authorization", "Bearer "+w.adminText(), "If-None-Match", tag)
		}
		tries(t, func() bool { // a 304 costs no SQL
			resp, _ := get("")
			before := w.queries.get()
			again, body := get(`"other", ` + resp.Header.Get("ETag"))
			return again.StatusCode == 304 && body == "" && again.Header.Get("ETag") == resp.Header.Get("ETag") && w.queries.get() == before
		})
		tries(t, func() bool { // the same list again is one look at the journal
			_, first := get("")
			before := w.queries.get()
			resp, second := get("")
			return resp.StatusCode == 200 && first == second && w.queries.get() == before+1
		})
		resp, _ := get("")
		tag := resp.Header.Get("ETag")
		_, err := client.Post[api.Certificate](ctx, w.admin, "/certs/"+c.ID+"/revoke", map[string]any{"reason": "superseded"})
		check(t, err)
		if resp, body := get(tag); resp.StatusCode != 200 || !strings.Contains(body, `"revoked"`) {
			t.Errorf("after a change: %d %s", resp.StatusCode, body)
		}
		for i := range 20 { // what others change is in the next list at once
			name := fmt.Sprintf("n%d.test", i)
			w.issue(t, name)
			if _, body := get(""); !strings.Contains(body, name) {
				t.Fatalf("%s was issued and is not listed", name)
			}
		}
		if resp, _ := w.raw(t, "GET", "/api/v1/issued?limit=0", "", "Authorization", "Bearer "+w.adminText()); resp.Header.Get("ETag") != "" {
			t.Error("a problem document has an entity tag")
		}
		if resp, _ := w.raw(t, "GET", "/api/v1/issued?limit=10", "", "If-None-Match", tag); resp.StatusCode != 401 {
			t.Errorf("without a token: %d", resp.StatusCode)
		}
	})
}

func TestRevoke(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.issue(t, "a.test")
		got, err := client.Post[api.Certificate](ctx, w.admin, "/certs/"+c.ID+"/revoke", map[string]any{"reason": "KeyCompromise", "block_key": true})
		if err != nil || got.Status != "revoked" || got.RevokedReason != "keyCompromise" || !strings.HasPrefix(got.RevokedBy, "token:") {
			t.Fatal(got, err)
		}
		if w.changes.get() != 1 {
			t.Errorf("told of %d changes", w.changes.get())
		}
		if _, err := client.Post[api.Certificate](ctx, w.admin, "/certs/"+c.ID+"/revoke", map[string]any{}); !fault.Is(err, fault.AlreadyRevoked) {
			t.Error(err)
		}
		spki, err := c.X509()
		check(t, err)
		if n := countBlocked(t, w, pki.SPKIHash(spki.RawSubjectPublicKeyInfo)); n != 1 {
			t.Error("the key is not blocked")
		}
	})
}

func TestRevokeByQuery(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for i := range 12 {
			w.issue(t, fmt.Sprintf("h%d.pay.test", i))
		}
		keep := w.issue(t, "pay.test")
		body := map[string]any{"q": "*.pay.test", "reason": "5", "dry_run": true}
		plan, err := client.Post[api.Revocation](ctx, w.admin, "/certs/revoke", body)
		if err != nil || plan.Matched != 12 || plan.Revoked != 0 || len(plan.Sample) != 12 || !plan.DryRun {
			t.Fatal(plan, err)
		}
		body["dry_run"], body["plan"] = false, plan.Plan
		if _, err := client.Post[api.Revocation](ctx, w.admin, "/certs/revoke", body); !fault.Is(err, fault.Precondition) {
			t.Fatalf("12 certificates without confirm: %v", err)
		}
		body["confirm"] = true
		late := w.issue(t, "late.pay.test")
		if _, err := client.Post[api.Revocation](ctx, w.admin, "/certs/revoke", body); !fault.Is(err, fault.Conflict) {
			t.Fatalf("another set than planned: %v", err)
		}
		_, err = client.Post[api.Certificate](ctx, w.admin, "/certs/"+late.ID+"/revoke", map[string]any{})
		check(t, err)
		if len(w.told) != 1 || len(w.told[0]) != 1 || w.told[0][0].ID != late.ID || w.told[0][0].RevokedAt.IsZero() {
			t.Errorf("of one revocation the status service heard %+v", w.told)
		}
		changes := w.changes.get()
		done, err := client.Post[api.Revocation](ctx, w.admin, "/certs/revoke", body)
		if err != nil || done.Revoked != 12 || done.Left != 0 || done.Problem != "" {
			t.Fatal(done, err)
		}
		if len(w.told) != 2 || len(w.told[1]) != 12 || w.changes.get() != changes+1 {
			t.Errorf("of twelve it heard %d times, and was woken %d times", len(w.told)-1, w.changes.get()-changes)
		}
		left, _, err := client.List[api.Certificate](ctx, w.viewer, "/issued", url.Values{"q": {"status:issued profile:tls"}}, 0)
		if err != nil || len(left) != 1 || left[0].ID != keep.ID {
			t.Error(left, err)
		}
		if _, err := client.Post[api.Revocation](ctx, w.admin, "/certs/revoke", map[string]any{"q": ""}); err == nil {
			t.Error("an empty query would revoke everything")
		}
	})
}

func TestAuthorities(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root, err := client.Post[api.Authority](ctx, w.admin, "/authorities/root", api.AuthoritySpec{CA: "second", KeyType: pki.P256, Period: "3650d"})
		check(t, err)
		issuing, err := client.Post[api.Authority](ctx, w.admin, "/authorities/issuing", map[string]any{"ca": "second", "key_type": "p256", "shards": 4})
		if err != nil || issuing.Parent != root.ID || issuing.Shards != 4 || len(issuing.Chains) != 1 {
			t.Fatal(issuing, err)
		}
		// An authority whose root is elsewhere: here, the first CA's.
		asked, err := client.Post[api.Authority](ctx, w.admin, "/authorities/request", api.AuthoritySpec{CA: "third", KeyType: pki.P384})
		if err != nil || asked.State != "pending" || asked.CSR == "" {
			t.Fatal(asked, err)
		}
		signed, err := client.Post[api.Signed](ctx, w.admin, "/authorities/"+root.Name+"/sign", map[string]any{"csr": asked.CSR, "period": "365d"})
		check(t, err)
		if _, err := client.Post[api.Authority](ctx, w.admin, "/authorities/"+asked.ID+"/certificate", map[string]any{"chain": root.Certificate}); !fault.Is(err, fault.Invalid) {
			t.Fatalf("the certificate of another key was imported: %v", err)
		}
		active, err := client.Post[api.Authority](ctx, w.admin, "/authorities/"+asked.ID+"/certificate", map[string]any{"chain": signed.Chain})
		if err != nil || active.State != "active" || active.Parent != root.ID {
			t.Fatal(active, err)
		}
		if _, err := client.Post[api.Authority](ctx, w.admin, "/authorities/"+asked.ID+"/cross-sign", map[string]any{"chain": signed.Chain}); !fault.Is(err, fault.Invalid) {
			t.Fatalf("an authority was cross-signed by its own certificate: %v", err)
		}
		again, err := client.Post[api.Signed](ctx, w.admin, "/authorities/"+root.Name+"/sign", map[string]any{"csr": asked.CSR, "period": "300d"})
		check(t, err)
		crossed, err := client.Post[api.Authority](ctx, w.admin, "/authorities/"+asked.ID+"/cross-sign", map[string]any{"chain": again.Chain})
		if err != nil || len(crossed.Chains) != 2 {
			t.Fatal(len(crossed.Chains), err)
		}
		retired, err := client.Post[api.Authority](ctx, w.admin, "/authorities/"+issuing.ID+"/retire", nil)
		if err != nil || retired.State != "retired" {
			t.Fatal(retired, err)
		}
		if _, err := client.Post[api.Authority](ctx, w.admin, "/authorities/"+issuing.ID+"/retire", nil); !fault.Is(err, fault.Conflict) {
			t.Error(err)
		}
		var roles []string
		all, _, err := client.List[api.Authority](ctx, w.viewer, "/authorities", nil, 0)
		check(t, err)
		for _, a := range all {
			roles = append(roles, a.CA+" "+a.Role)
		}
		want := "default root,default issuing,second root,second issuing,second ocsp,third issuing,third ocsp"
		if strings.Join(roles, ",") != want {
			t.Errorf("authorities are %v", roles)
		}
		var paged []api.Authority
		for page, err := range client.Pages[api.Authority](ctx, w.viewer, "/authorities", nil, 2) {
			check(t, err)
			paged = append(paged, page.Items...)
		}
		if len(paged) != len(all) {
			t.Errorf("%d in pages of 2, %d at once", len(paged), len(all))
		}
		block, _ := pem.Decode([]byte(signed.Chain))
		if cert, err := x509.ParseCertificate(block.Bytes); err != nil || cert.NotAfter.Sub(cert.NotBefore) > 366*24*time.Hour {
			t.Errorf("the signed certificate lives until %v, %v", cert.NotAfter, err)
		}
	})
}

func TestJournal(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		c := w.issue(t, "a.test")
		if _, err := audit.Sequence(ctx, w.db, 1000); err != nil {
			t.Fatal(err)
		}
		var seqs []int64
		for page, err := range client.Pages[api.Event](ctx, w.viewer, "/journal", nil, 3) {
			check(t, err)
			for _, e := range page.Items {
				seqs = append(seqs, e.Seq)
			}
		}
		for i, seq := range seqs {
			if seq != int64(len(seqs)-i) {
				t.Fatalf("the order is %v", seqs)
			}
		}
		about, _, err := client.List[api.Event](ctx, w.viewer, "/journal", url.Values{"subject": {"certificate:" + c.ID}}, 0)
		if err != nil || len(about) != 2 || about[0].Kind != "certificate.intend" {
			t.Error(about, err)
		}
		v, err := client.Get[api.Verification](ctx, w.viewer, "/journal/verify", nil)
		if err != nil || !v.Whole || v.Entries != int64(len(seqs)) || v.Head == "" {
			t.Error(v, err)
		}
		sum, err := client.Get[api.Summary](ctx, w.viewer, "/summary", nil)
		if err != nil || sum.JournalSeq != int64(len(seqs)) || sum.Authorities["active"] != 2 || sum.OpenIntents != 0 {
			t.Error(sum, err)
		}
	})
}

func TestProfilesAndAbout(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	profiles, _, err := client.List[api.Profile](ctx, w.viewer, "/profiles", nil, 0)
	if err != nil || len(profiles) != 2 || profiles[1].Name != "tls" || profiles[1].Period != "2160h0m0s" {
		t.Fatal(profiles, err)
	}
	byHash, err := client.Get[api.Profile](ctx, w.viewer, "/profiles/"+profiles[1].Hash, nil)
	if err != nil || byHash.Name != "tls" {
		t.Error(byHash, err)
	}
	if _, err := client.Get[api.Profile](ctx, w.viewer, "/profiles/other", nil); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if resp, body := w.raw(t, "GET", "/api/v1/version", ""); resp.StatusCode != 200 || !strings.Contains(body, `"v9"`) {
		t.Error(resp.StatusCode, body)
	}
	if resp, body := w.raw(t, "GET", "/api/v1/health", ""); resp.StatusCode != 200 || !strings.Contains(body, `"ok"`) {
		t.Error(resp.StatusCode, body)
	}
	if resp, body := w.raw(t, "GET", "/api/v1/openapi.yaml", ""); resp.StatusCode != 200 || !strings.Contains(body, "openapi: 3.1.0") || resp.Header.Get("Content-Type") != "application/yaml" {
		t.Error(resp.StatusCode, resp.Header)
	}
	check(t, w.db.Close())
	resp, body := w.raw(t, "GET", "/api/v1/health", "")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Error(resp.StatusCode, body)
	}
}

// A GET changes nothing, whoever sends it and whatever comes of it.
func TestGetsWriteNothing(t *testing.T) {
	w := newWorld(t, dbtest.SQLiteURL(t))
	c := w.issue(t, "a.test")
	_, doc := openapi(t)
	before := dump(t, w)
	for path, methods := range doc.Paths {
		if _, ok := methods["get"]; !ok {
			continue
		}
		target := strings.ReplaceAll(path, "{id}", c.ID)
		for _, header := range [][]string{nil, {"Authorization", "Bearer " + w.adminText()}} {
			w.raw(t, "GET", target, "", header...)
		}
	}
	if dump(t, w) != before {
		t.Error("a GET wrote to the database")
	}
}
