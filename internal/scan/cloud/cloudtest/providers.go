package cloudtest

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ACM returns AWS Certificate Manager. Requests must be signed, which is all
// that is checked of a signature. The environment of the test gets credentials.
func ACM(t testing.TB) *Server {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", file(t, "config", nil))
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file(t, "credentials", nil))
	s := &Server{}
	s.name = func(r *http.Request) string {
		_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
		return op
	}
	refuse := func(w http.ResponseWriter, status int, kind string) {
		w.Header().Set("X-Amzn-ErrorType", kind)
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type": %q, "message": "no"}`, kind)
	}
	s.refuse = func(w http.ResponseWriter, throttle bool) bool {
		if kind := "AccessDeniedException"; !throttle {
			refuse(w, 400, kind)
			return true
		}
		refuse(w, 400, "ThrottlingException")
		return true
	}
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		var in struct {
			CertificateArn, NextToken string
			MaxItems                  int
			Includes                  struct{ KeyTypes []string }
			CertificateKeyPairOrigins []string
		}
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDTEST/") || json.NewDecoder(r.Body).Decode(&in) != nil {
			refuse(w, 400, "UnrecognizedClientException")
			return
		}
		if s.name(r) == "ListCertificates" {
			s.listACM(w, in.NextToken, in.MaxItems, len(in.Includes.KeyTypes) >= 7 && len(in.CertificateKeyPairOrigins) >= 3)
			return
		}
		_, name, _ := strings.Cut(in.CertificateArn, "certificate/")
		it, ok := s.Items[name]
		switch {
		case !ok:
			refuse(w, 400, "ResourceNotFoundException")
		case s.name(r) == "GetCertificate":
			reply(w, map[string]string{"Certificate": chain(it.DER)})
		default:
			tags := []map[string]string{}
			for k, v := range it.Tags {
				tags = append(tags, map[string]string{"Key": k, "Value": v})
			}
			reply(w, map[string]any{"Tags": tags})
		}
	}
	start(t, false, s)
	s.settings["region"], s.settings["endpoint"] = "eu-central-1", s.URL
	return s
}

// listACM lists. Like the service, it leaves half of the certificates out for
// callers who do not ask for every type of key.
func (s *Server) listACM(w http.ResponseWriter, token string, size int, all bool) {
	names, next := s.page(token, size)
	out := map[string]any{}
	list := []map[string]any{}
	for i, name := range names {
		if it := s.Items[name]; all || i%2 == 0 {
			c := map[string]any{"CertificateArn": "arn:aws:acm:eu-central-1:123456789012:certificate/" + name, "IssuedAt": it.Version, "NotAfter": time.Now().Unix() / 1e6, "Status": "ISSUED"}
			if it.Revoked {
				c["Status"], c["RevokedAt"] = "REVOKED", time.Now().Unix()/1e4*1e4
			}
			list = append(list, c)
		}
	}
	if out["CertificateSummaryList"] = list; next != "" {
		out["NextToken"] = next
	}
	reply(w, out)
}

// KeyVault returns an Azure Key Vault together with the directory that gives
// tokens for it.
func KeyVault(t testing.TB) *Server {
	t.Helper()
	s := &Server{}
	s.name = func(r *http.Request) string {
		switch p := strings.Trim(r.URL.Path, "/"); {
		case p == "certificates":
			return "ListCertificates"
		case strings.HasPrefix(p, "certificates/"):
			return "GetCertificate"
		}
		return "token"
	}
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/.well-known/openid-configuration"):
			reply(w, map[string]any{"issuer": s.URL + "/tenant/v2.0", "authorization_endpoint": s.URL + "/tenant/authorize", "token_endpoint": s.URL + "/tenant/oauth2/v2.0/token", "jwks_uri": s.URL + "/keys"})
		case strings.HasSuffix(r.URL.Path, "/token"):
			if r.ParseForm(); r.Form.Get("client_secret") != "hunter2" {
				w.WriteHeader(401)
				fmt.Fprint(w, `{"error": "invalid_client"}`)
				return
			}
			reply(w, map[string]any{"token_type": "Bearer", "expires_in": 3600, "access_token": "vault-token"})
		case r.Header.Get("Authorization") != "Bearer vault-token":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer authorization="%s/tenant", resource="https://vault.azure.net"`, s.URL))
			w.WriteHeader(401)
		case s.name(r) == "ListCertificates":
			s.listKeyVault(w, r.URL.Query().Get("$skiptoken"))
		default:
			it, ok := s.Items[strings.Split(strings.Trim(r.URL.Path, "/"), "/")[1]]
			if !ok {
				w.WriteHeader(404)
				fmt.Fprint(w, `{"error": {"code": "CertificateNotFound"}}`)
				return
			}
			reply(w, map[string]any{"id": s.URL + "/certificates/" + it.Name + "/1", "cer": base64.StdEncoding.EncodeToString(it.DER)})
		}
	}
	start(t, true, s)
	for k, v := range map[string]any{"vault_url": s.URL, "authority": s.URL + "/", "tenant_id": "tenant", "client_id": "client", "client_secret_file": file(t, "secret", []byte("hunter2\n"))} {
		s.settings[k] = v
	}
	return s
}

func (s *Server) listKeyVault(w http.ResponseWriter, token string) {
	names, next := s.page(token, 25)
	list := []map[string]any{}
	for _, name := range names {
		it := s.Items[name]
		sum := sha1.Sum(it.DER)
		list = append(list, map[string]any{"id": s.URL + "/certificates/" + name, "x5t": base64.RawURLEncoding.EncodeToString(sum[:]), "attributes": map[string]any{"enabled": true, "updated": it.Version}, "tags": it.Tags})
	}
	out := map[string]any{"value": list}
	if host := s.URL; next != "" {
		if s.NextHost != "" {
			host = s.NextHost
		}
		out["nextLink"] = host + "/certificates?api-version=7.6&$skiptoken=" + next
	}
	reply(w, out)
}

// CertificateManager returns Google's Certificate Manager together with the
// endpoint that gives tokens to a service account.
func CertificateManager(t testing.TB) *Server {
	t.Helper()
	s := &Server{}
	s.name = func(r *http.Request) string {
		if r.URL.Path == "/token" {
			return "token"
		}
		return "ListCertificates"
	}
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			reply(w, map[string]any{"access_token": "google-token", "token_type": "Bearer", "expires_in": 3600})
			return
		case r.Header.Get("Authorization") != "Bearer google-token":
			w.WriteHeader(401)
			return
		case r.URL.Path != "/v1/projects/estate/locations/-/certificates":
			w.WriteHeader(404)
			return
		}
		size, _ := strconv.Atoi(r.URL.Query().Get("pageSize"))
		names, next := s.page(r.URL.Query().Get("pageToken"), size)
		list := []map[string]any{}
		for _, name := range names {
			it := s.Items[name]
			list = append(list, map[string]any{"name": "projects/estate/locations/europe-west1/certificates/" + name, "updateTime": fmt.Sprint(it.Version), "labels": it.Tags, "pemCertificate": chain(it.DER)})
		}
		reply(w, map[string]any{"certificates": list, "nextPageToken": next, "unreachable": s.Lost})
	}
	start(t, false, s)
	_, key := rsaKey(t)
	account, err := json.Marshal(map[string]string{"type": "service_account", "client_email": "a@estate.test", "private_key": string(key), "token_uri": s.URL + "/token"})
	if err != nil {
		t.Fatal(err)
	}
	s.settings["project"], s.settings["endpoint"], s.settings["credentials_file"] = "estate", s.URL, file(t, "account.json", account)
	return s
}

// Vault returns a PKI secrets engine.
func Vault(t testing.TB) *Server {
	t.Helper()
	s := &Server{}
	s.name = func(r *http.Request) string {
		switch {
		case r.Method == "LIST" && strings.HasSuffix(r.URL.Path, "/revoked"):
			return "ListRevoked"
		case r.Method == "LIST":
			return "ListCertificates"
		}
		return "GetCertificate"
	}
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		none := func(status int) { w.WriteHeader(status); fmt.Fprint(w, `{"errors":[]}`) }
		if r.Header.Get("X-Vault-Token") != "hvs.test" {
			none(403)
			return
		}
		var keys []string
		for _, name := range s.names() {
			if it := s.Items[name]; s.name(r) == "ListCertificates" || it.Revoked {
				keys = append(keys, name)
			}
		}
		it, ok := s.Items[strings.TrimPrefix(r.URL.Path, "/v1/pki/cert/")]
		switch {
		case r.Method == "LIST" && len(keys) > 0:
			reply(w, map[string]any{"data": map[string]any{"keys": keys}})
		case r.Method == "LIST" || !ok:
			none(404)
		default:
			at := int64(0)
			if it.Revoked {
				at = time.Now().Unix()
			}
			reply(w, map[string]any{"data": map[string]any{"certificate": chain(it.DER), "revocation_time": at}})
		}
	}
	start(t, false, s)
	s.settings["url"], s.settings["token_file"] = s.URL, file(t, "token", []byte("hvs.test\n"))
	return s
}

// Cluster returns the API server of a Kubernetes cluster, with watches.
func Cluster(t testing.TB) *Server {
	t.Helper()
	s := &Server{}
	s.name = func(r *http.Request) string {
		if r.URL.Query().Get("watch") != "" {
			return "WatchSecrets"
		}
		return "ListSecrets"
	}
	s.serve = func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.Header.Get("Authorization") != "Bearer sa-token":
			w.WriteHeader(401)
			return
		case r.URL.Path != "/api/v1/secrets" || q.Get("fieldSelector") != "type=kubernetes.io/tls":
			w.WriteHeader(403)
			fmt.Fprint(w, `{"message": "only TLS secrets may be listed"}`)
			return
		case q.Get("watch") != "":
			s.watch(w, r)
			return
		}
		size, _ := strconv.Atoi(q.Get("limit"))
		names, next := s.page(q.Get("continue"), size)
		items := []any{}
		for _, name := range names {
			items = append(items, s.secret(s.Items[name]))
		}
		reply(w, map[string]any{"kind": "SecretList", "metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version), "continue": next}, "items": items})
	}
	start(t, true, s)
	s.settings["url"], s.settings["cluster"], s.settings["token_file"] = s.URL, "prod", file(t, "token", []byte("sa-token"))
	return s
}

func (s *Server) secret(it Item) map[string]any {
	return map[string]any{"type": "kubernetes.io/tls", "metadata": map[string]any{"name": it.Name, "namespace": "web", "resourceVersion": fmt.Sprint(it.Version), "labels": it.Tags},
		"data": map[string]any{"tls.crt": base64.StdEncoding.EncodeToString([]byte(chain(it.DER))), "tls.key": base64.StdEncoding.EncodeToString([]byte("a private key"))}}
}

// watch sends changes after a version until the time-out. It is called with
// the lock held, and returns with it.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	seconds, _ := strconv.Atoi(r.URL.Query().Get("timeoutSeconds"))
	end := time.After(time.Duration(seconds) * time.Second)
	sent := map[string]int{}
	for name, it := range s.Items {
		if it.Version <= since {
			sent[name] = it.Version
		}
	}
	emit := func(kind string, it Item) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": s.secret(it)}) // the client may be gone
	}
	for {
		for _, name := range s.names() {
			if it := s.Items[name]; sent[name] != it.Version {
				emit("MODIFIED", it)
				sent[name] = it.Version
			}
		}
		for name := range sent {
			if _, ok := s.Items[name]; !ok {
				emit("DELETED", Item{Name: name, Version: s.version})
				delete(sent, name)
			}
		}
		w.(http.Flusher).Flush()
		changed := s.changed
		s.mu.Unlock()
		done := false
		select {
		case <-changed:
		case <-end:
			done = true
		case <-r.Context().Done():
			done = true
		}
		if s.mu.Lock(); done {
			return
		}
	}
}
