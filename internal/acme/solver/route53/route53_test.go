package route53_test

import (
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chancery/internal/acme/solver"
	"chancery/internal/acme/solver/route53"
	"chancery/internal/acme/solver/solvertest"
)

type set struct {
	Name, Type string
	TTL        int
	Records    []string `xml:"ResourceRecords>ResourceRecord>Value"`
}

type change struct {
	Action string
	Set    set `xml:"ResourceRecordSet"`
}

// api answers as Route 53 does, in pages of at most three sets.
type api struct {
	mu       sync.Mutex
	sets     []set
	changes  int
	throttle int
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fail := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>no</Message></Error></ErrorResponse>`, code)
	}
	w.Header().Set("Content-Type", "text/xml")
	switch {
	case !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDEXAMPLE/"):
		fail(403, "InvalidClientTokenId")
	case a.throttle != 0:
		a.throttle--
		fail(400, "Throttling")
	case r.URL.Path == "/2013-04-01/hostedzonesbyname":
		fmt.Fprint(w, `<ListHostedZonesByNameResponse><HostedZones><HostedZone><Id>/hostedzone/Z0</Id><Name>example.test.</Name><CallerReference>a</CallerReference><Config><PrivateZone>true</PrivateZone></Config></HostedZone><HostedZone><Id>/hostedzone/Z1</Id><Name>example.test.</Name><CallerReference>b</CallerReference><Config><PrivateZone>false</PrivateZone></Config></HostedZone></HostedZones><IsTruncated>false</IsTruncated><MaxItems>10</MaxItems></ListHostedZonesByNameResponse>`)
	case r.Method == http.MethodGet && r.URL.Path == "/2013-04-01/hostedzone/Z1/rrset":
		a.list(w, r.URL.Query().Get("name"))
	case r.Method == http.MethodPost && strings.TrimSuffix(r.URL.Path, "/") == "/2013-04-01/hostedzone/Z1/rrset":
		a.change(w, r, fail)
	default:
		fail(404, "NoSuchHostedZone")
	}
}

func (a *api) list(w http.ResponseWriter, from string) {
	slices.SortFunc(a.sets, func(x, y set) int { return strings.Compare(x.Name, y.Name) })
	i := 0
	for i < len(a.sets) && a.sets[i].Name < from {
		i++
	}
	to := min(i+3, len(a.sets))
	fmt.Fprint(w, `<ListResourceRecordSetsResponse><ResourceRecordSets>`)
	for _, s := range a.sets[i:to] {
		fmt.Fprintf(w, `<ResourceRecordSet><Name>%s</Name><Type>%s</Type><TTL>%d</TTL><ResourceRecords>`, s.Name, s.Type, s.TTL)
		for _, v := range s.Records {
			fmt.Fprint(w, "<ResourceRecord><Value>")
			xml.EscapeText(w, []byte(v))
			fmt.Fprint(w, "</Value></ResourceRecord>")
		}
		fmt.Fprint(w, "</ResourceRecords></ResourceRecordSet>")
	}
	fmt.Fprintf(w, `</ResourceRecordSets><IsTruncated>%t</IsTruncated><MaxItems>3</MaxItems>`, to < len(a.sets))
	if to < len(a.sets) {
		fmt.Fprintf(w, "<NextRecordName>%s</NextRecordName><NextRecordType>TXT</NextRecordType>", a.sets[to].Name)
	}
	fmt.Fprint(w, "</ListResourceRecordSetsResponse>")
}

func (a *api) change(w http.ResponseWriter, r *http.Request, fail func(int, string)) {
	var in struct {
		Changes []change `xml:"ChangeBatch>Changes>Change"`
	}
	if err := xml.NewDecoder(r.Body).Decode(&in); err != nil || len(in.Changes) == 0 {
		fail(400, "InvalidInput")
		return
	}
	next := slices.Clone(a.sets)
	for _, c := range in.Changes {
		i := slices.IndexFunc(next, func(s set) bool { return s.Name == c.Set.Name && s.Type == c.Set.Type })
		switch {
		case c.Action == "UPSERT" && i >= 0:
			next[i] = c.Set
		case c.Action == "UPSERT":
			next = append(next, c.Set)
		case c.Action == "DELETE" && i >= 0 && slices.Equal(next[i].Records, c.Set.Records) && next[i].TTL == c.Set.TTL:
			next = slices.Delete(next, i, i+1)
		default:
			fail(400, "InvalidChangeBatch")
			return
		}
	}
	a.sets = next
	a.changes++
	fmt.Fprint(w, `<ChangeResourceRecordSetsResponse><ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status><SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo></ChangeResourceRecordSetsResponse>`)
}

func TestProvider(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	a := &api{}
	srv := httptest.NewServer(a)
	defer srv.Close()
	open := func(c route53.Config) solver.Provider {
		c.URL, c.Region = srv.URL, "us-east-1"
		return solvertest.Open(t, route53.Kind, &c)
	}
	p := open(route53.Config{Timeout: time.Minute})
	solvertest.Run(t, solvertest.Suite{Provider: p, Zone: "example.test",
		Changes: func() int { a.mu.Lock(); defer a.mu.Unlock(); return a.changes },
		Values: func(_ testing.TB, name string) (out []string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, s := range a.sets {
				for _, v := range s.Records {
					if s.Name == name+"." {
						out = append(out, solver.Unquote(v))
					}
				}
			}
			return out
		}})
	if err := p.(solver.Checker).Check(t.Context()); err != nil {
		t.Error(err)
	}
	r := []solver.Record{{Name: "t.example.test", Value: "v", TTL: time.Minute}}
	a.mu.Lock()
	a.throttle = 1
	a.mu.Unlock()
	if err := p.Apply(t.Context(), "example.test", r, nil); err != nil {
		t.Errorf("a short throttle: %v", err)
	}
	if err := open(route53.Config{ZoneID: "Z1", Timeout: time.Minute}).Apply(t.Context(), "whatever.test", nil, r); err != nil {
		t.Errorf("a zone by its id: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "OTHER")
	if err := open(route53.Config{Timeout: time.Minute}).Apply(t.Context(), "example.test", r, nil); err == nil {
		t.Error("wrong credentials are accepted")
	}
}
