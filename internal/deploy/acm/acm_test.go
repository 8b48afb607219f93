package acm_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"chancery/internal/deploy"
	"chancery/internal/deploy/acm"
	"chancery/internal/deploy/deploytest"
	"chancery/internal/pki"
)

// service is AWS Certificate Manager as far as the target uses it.
type service struct {
	mu     sync.Mutex
	certs  map[string]string // ARN to certificate PEM
	tags   map[string]string // of the tag "chancery" to ARN
	down   bool
	refuse string // names what is refused
	calls  map[string]int
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	no := func(status int, kind string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"__type": %q, "message": "no"}`, kind)
	}
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	s.calls[action]++
	var in struct {
		Certificate, PrivateKey, CertificateChain []byte
		CertificateArn                            string
		Tags                                      []struct{ Key, Value string }
	}
	if s.down || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDTEST/") || json.NewDecoder(r.Body).Decode(&in) != nil {
		no(400, "AccessDeniedException")
		return
	}
	_, known := s.certs[in.CertificateArn]
	if in.CertificateArn != "" && !known {
		no(400, "ResourceNotFoundException")
		return
	}
	switch action {
	case "ListCertificates":
		fmt.Fprint(w, "{}")
	case "GetCertificate":
		json.NewEncoder(w).Encode(map[string]string{"Certificate": s.certs[in.CertificateArn]})
	case "DeleteCertificate":
		delete(s.certs, in.CertificateArn)
		fmt.Fprint(w, "{}")
	case "ImportCertificate":
		pair, err := tls.X509KeyPair(in.Certificate, in.PrivateKey)
		if err != nil || pair.Leaf.Subject.CommonName == s.refuse {
			no(400, "LimitExceededException")
			return
		}
		if in.CertificateArn == "" {
			in.CertificateArn = fmt.Sprintf("arn:aws:acm:eu-central-1:1:certificate/%d", s.calls[action])
			s.tags[in.Tags[0].Value] = in.CertificateArn
		}
		s.certs[in.CertificateArn] = string(in.Certificate)
		json.NewEncoder(w).Encode(map[string]string{"CertificateArn": in.CertificateArn})
	}
}

// start starts a service and returns the configuration of a target.
func start(t *testing.T) (*service, *acm.Config) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", os.DevNull)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	s := &service{certs: map[string]string{}, tags: map[string]string{}, calls: map[string]int{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c := acm.Kind.Config().(*acm.Config)
	c.Region, c.Endpoint = "eu-central-1", server.URL
	return s, c
}

func TestSuite(t *testing.T) {
	s, c := start(t)
	arns := map[string]string{}
	deploytest.Run(t, deploytest.Suite{
		Kind: acm.Kind, Config: c,
		Served: func(item *deploy.Item) error {
			s.refuse = ""
			arn := s.tags["test/"+item.ID]
			if was := arns[item.ID]; was != "" && was != arn {
				return fmt.Errorf("%s has another ARN", item.ID)
			}
			arns[item.ID] = arn
			if s.certs[arn] != string(pki.EncodeChain(item.Chain[0])) {
				return fmt.Errorf("%s: another certificate", item.ID)
			}
			return nil
		},
		Break: func(*testing.T) func() { s.down = true; return func() { s.down = false } },
		Spoil: func(item *deploy.Item) { s.refuse = item.ID },
	})
}

// New certificates of a batch that fails are deleted again.
func TestNewOnesAreTakenBack(t *testing.T) {
	s, c := start(t)
	s.refuse = "c001"
	state := deploytest.State(t)
	target, err := acm.Kind.Open(deploytest.Env(t, state), c)
	if err != nil {
		t.Fatal(err)
	}
	out := deploy.Run(t.Context(), target, deploytest.NewCA(t).Items(t, 2), deploy.Options{})
	if !out[0].Live || out[1].Live || len(s.certs) != 1 || s.calls["DeleteCertificate"] != 1 {
		t.Errorf("%+v, %d certificates", out, len(s.certs))
	}
	if info, err := os.Stat(filepath.Join(state, "acm-c000.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}

// A certificate that exists already is taken over by its ARN.
func TestAdoption(t *testing.T) {
	s, c := start(t)
	s.certs["arn:theirs"] = "x"
	target, err := acm.Kind.Open(deploytest.Env(t, deploytest.State(t)), c)
	if err != nil {
		t.Fatal(err)
	}
	items := deploytest.NewCA(t).Items(t, 1)
	items[0].Params = map[string]string{"arn": "arn:theirs"}
	deploytest.AllLive(t, deploy.Run(t.Context(), target, items, deploy.Options{}))
	if len(s.certs) != 1 || s.certs["arn:theirs"] == "x" {
		t.Errorf("%v", s.certs)
	}
}

func TestRegion(t *testing.T) {
	if _, err := acm.Kind.Open(deploytest.Env(t, ""), acm.Kind.Config()); err == nil || !strings.HasPrefix(err.Error(), "region:") {
		t.Errorf("%v", err)
	}
}
