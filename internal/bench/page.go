package bench

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Series is the content of one result file of the record: runs that answer one
// question together.
type Series struct {
	Name string // of the file, without its ending: "10-clients"
	Runs []Run
}

// Page is what docs/performance.md is made of.
type Page struct {
	Series  []Series
	Costs   string // Markdown: where the CPU goes, and what would have to happen to it
	Profile string // plain text: the heaviest functions
}

// questions are the titles of the series that the record knows, in the order of
// the page, and what to keep in mind when reading them. A file of another name
// is shown under its name, after them.
var questions = []struct{ name, title, text string }{
	{"clients", "Issuance by number of clients", "P-256 throughout, http-01, SQLite on the disk, every certificate on stable storage before it is answered."},
	{"databases", "Databases", "The server's CPU includes that of PostgreSQL's processes, which run on the same machine. A file system in memory is no place for a CA; it shows what the disk costs."},
	{"peers", "Beside other servers", "The same client and load against each server, one after the other in the same minutes. step-ca keeps its default store; Pebble is a server for tests that keeps nothing, told not to wait and not to refuse nonces. Neither lints, asks for CAA or limits rates. The client's CPU is on the same cores."},
	{"subjects", "Types of subject keys", "Keys of RSA subjects are made before the clock starts: making one takes the client longer than issuing takes the server."},
	{"accounts", "Types of account keys", "Every request is signed: five verifications per issuance."},
	{"authorities", "Types of authority keys", "One signature with the authority's key and its verification per issuance. Root and issuing authority are of the type."},
	{"saturation", "RSA-4096, saturated", "The limit is the private key operation: what else the server does hardly shows."},
	{"challenges", "Challenge types", "Each is validated over real sockets. dns-01 and tls-alpn-01 use the bench's own DNS server, http-01 names below localhost."},
	{"names", "Names per certificate", "Each name has an authorization of its own: 2 more requests, 1 validation."},
	{"pools", "Pools", "Read connections of SQLite and write connections of PostgreSQL."},
	{"overload", "Overload", "Operations start by the clock, at a multiple of what the closed loop reached. Failed are those that were answered 503 with Retry-After when they began; latency is that of those that were accepted, counted from the intended start."},
	{"flood", "Next to a flood", "Others order at a fixed rate, alone and next to 200 clients of one account that order without end and heed nothing; rate limits are on."},
	{"stored", "With many certificates stored", "The same load on an empty database and on one with a million certificates."},
	{"record", "The record", "One long run."},
	{"ocsp", "Status answers", "Requests for single certificates over kept connections, against answers that are signed ahead and held in memory. An operation is one request."},
	{"control", "Control plane, everything at once", "Lists, heartbeats and bulk renewals start by the clock, each class at its own rate; latency counts from the intended start. CPU and memory are those of all classes together."},
	{"lists", "Lists", "What the screens ask for, of an inventory of 10,000 and of a million certificates, and the same with If-None-Match when nothing has changed."},
	{"heartbeats", "Heartbeats of agents", "Agents that ask whether there is something to do, each over a connection of its own that its certificate was shown on."},
	{"agents", "Parked agents", "A server of its own and the agents that wait at it, each over one TLS connection: what they cost while nobody has anything to do, how soon one more agent serves a certificate that was asked for, and a restart, while certificates are ordered all the time. An operation is such an order."},
	{"bulk", "Bulk renewal", "One request renews certificates of our own CA by a filter. Latency is that of the request; the rate is that of certificates that were obtained, with every check on."},
	{"import", "Import", "Files of 1,000 new certificates in PEM."},
	{"start", "Start", "From the start of the process until it writes its ready file. CPU is that of the whole life of the process, its end included."},
	{"renew", "Renewal engine", "In one process with its own CA: how late what is due is claimed while many certificates wait and are asked for their windows, and how fast many that are due at once are obtained."},
	{"scan", "Scanner", "Endpoints of a fleet on this machine; every answer is checked."},
}

// WritePage renders the page.
func WritePage(w io.Writer, p Page) error {
	var b strings.Builder
	b.WriteString(pageHead)
	p.sort()
	p.plan(&b)
	p.memory(&b)
	if p.Costs != "" {
		b.WriteString("## Where the CPU goes\n\n" + strings.TrimSpace(p.Costs) + "\n\n")
	}
	if p.Profile != "" {
		b.WriteString("The heaviest calls of a profile under load, callees included:\n\n```\n" + strings.TrimSpace(p.Profile) + "\n```\n\n")
	}
	for _, s := range p.Series {
		s.markdown(&b)
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), "\n")+"\n")
	return err
}

const pageHead = `# Performance

This page is generated by ` + "`make bench-record`" + ` from the result files in
[performance](performance). How to read it:

- Where nothing else is said, one operation is a whole issuance: new-order,
  authorization, challenge (really validated), finalize, download; five signed
  requests over kept connections.
  All safety is on: lint, CAA, journal, throw-away signature, verification of the
  real one, and a commit on stable storage before each answer. Rate limits are
  off, for one client could not load the server otherwise.
- Client and server share one machine, and the machine is shared with others. So
  CPU per operation and ratios within one run count; throughput is what was
  seen, with its spread over the rounds and what others used.
- Allocations, bytes and peak memory are the server's. Some 50 MB of the peak are
  pages of the program's own file, which the system may drop and read again.
- A third of an issuance is seven P-256 verifications. Newer results name what
  one takes on their machine: divide by it before you compare machines.

`

// sort puts the series in the order of the page.
func (p *Page) sort() {
	slices.SortStableFunc(p.Series, func(a, b Series) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.Name, b.Name))
	})
}

// rank is the place of the series on the page.
func (s *Series) rank() int {
	for i, q := range questions {
		if q.name == s.Name {
			return i
		}
	}
	return len(questions)
}

// markdown writes one series: its runs side by side, then each.
func (s *Series) markdown(b *strings.Builder) {
	title, text := s.Name, ""
	if i := s.rank(); i < len(questions) {
		title, text = questions[i].title, questions[i].text
	}
	fmt.Fprintf(b, "## %s\n\n", escape(title))
	if text != "" {
		b.WriteString(text + "\n\n")
	}
	for _, g := range comparisons(s.Runs) {
		g.markdown(b)
		b.WriteByte('\n')
	}
	for i := range s.Runs {
		s.Runs[i].markdown(b)
	}
}

// busiest returns the point of a run that plans are made by: the one with the
// highest throughput in a closed loop.
func (r *Run) busiest() *Point {
	var best *Point
	for i := range r.Points {
		if p := &r.Points[i]; p.comparable() && p.ServerCPU != nil && p.ServerCPU.Median > 0 && (best == nil || p.PerSecond.Median > best.PerSecond.Median) {
			best = p
		}
	}
	return best
}

// renewEvery is how often a certificate of the capacity table is renewed: two
// thirds of the 47 days that public ones may last from 2029 on.
const renewEvery = 31 * 24 * time.Hour

// planned is the share of a core that the capacity table plans with: the rest
// is for peaks.
const planned = 0.5

// plan writes the capacity table.
func (p *Page) plan(b *strings.Builder) {
	g := grid{header: []string{"series", "setup", "server CPU ms", "issuances/s per core", "planned at half load", "certificates kept per core", "p99 ms when saturated"}}
	for i := range p.Series {
		for j := range p.Series[i].Runs {
			r := &p.Series[i].Runs[j]
			at := r.busiest()
			if at == nil || r.Bench != "issue" {
				continue
			}
			perCore := 1000 / at.ServerCPU.Median
			kept := perCore * planned * renewEvery.Seconds()
			g.rows = append(g.rows, []string{p.Series[i].Name, r.Label, number(at.ServerCPU.Median), number(perCore), number(perCore * planned),
				million(kept), number(at.Latency.P99)})
		}
	}
	if len(g.rows) == 0 {
		return
	}
	fmt.Fprintf(b, "## Capacity\n\nWhat one core of the measured machine carries, planned with %.0f %% of it, when each certificate is renewed every %.0f days:\n\n",
		planned*100, renewEvery.Hours()/24)
	g.markdown(b)
	b.WriteByte('\n')
}

// million formats a number of certificates.
func million(n float64) string { return fmt.Sprintf("%.1f million", n/1e6) }

// memory writes what an issuance allocates, and the peak.
func (p *Page) memory(b *strings.Builder) {
	g := grid{header: []string{"series", "setup", "clients", "allocations", "KB allocated", "peak MB"}}
	for _, s := range p.Series {
		for _, r := range s.Runs {
			for _, at := range r.Points {
				if at.Mallocs > 0 && r.Bench == "issue" && at.Rate == 0 {
					g.rows = append(g.rows, []string{s.Name, r.Label, fmt.Sprint(at.Clients), number(at.Mallocs), number(at.Allocated / 1e3), number(float64(at.PeakRSS) / 1e6)})
				}
			}
		}
	}
	if len(g.rows) == 0 {
		return
	}
	b.WriteString("## Memory per issuance\n\n")
	g.markdown(b)
	b.WriteByte('\n')
}
