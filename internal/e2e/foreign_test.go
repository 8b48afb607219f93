package e2e

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// TestRenewThroughAnotherCA keeps a certificate alive whose authority is
// another installation, reached by nothing but ACME: one program proves control
// of the name by http-01, the other one looks.
func TestRenewThroughAnotherCA(t *testing.T) {
	t.Parallel()
	authority, p := startSite(t, "foreign.test")
	s := newSite(t)
	live := filepath.Join(t.TempDir(), "live")
	s.configure(fmt.Sprintf(`
[issuer.other]
kind = "acme"
directory = %q
roots_file = %q
[challenges]
http01_listen = %q
[target.web]
kind = "files"
dir = %q
probe = ["none"]
collect = "0s"
`, p.ready.Directory, p.ready.Root, net.JoinHostPort("127.0.0.1", authority.http01), live))
	q := s.start()
	var made struct{ ID string }
	s.callAPI(q, "POST", "/managed", `{"names":["foreign.test"],"issuer":"other","targets":[{"name":"web"}]}`, &made)
	eventually(t, 60*time.Second, func() error {
		var m struct {
			State, Error string
			IssuedBy     string `json:"issued_by"`
			Placements   []struct{ Live bool }
		}
		s.callAPI(q, "GET", "/managed/"+made.ID, "", &m)
		if m.State != "idle" || m.IssuedBy != "other" || len(m.Placements) != 1 || !m.Placements[0].Live {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
	chain, err := filepath.Glob(filepath.Join(live, "*", "fullchain.pem"))
	if err != nil || len(chain) != 1 {
		t.Fatal(chain, err)
	}
	authority.judge(t, readFile(t, chain[0]), "foreign.test").agree(t, good)
	q.stop()
	p.stop()
}
