package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"chancery/internal/db"
	"chancery/internal/db/dbtest"
)

// killsPerEngine returns how often to kill: once per spot of the plan, or half
// of CHANCERY_KILLS, which counts both engines.
func killsPerEngine(t testing.TB, plan []killSpot) int {
	t.Helper()
	text := os.Getenv("CHANCERY_KILLS")
	if text == "" {
		return len(plan)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 2 {
		t.Fatalf("CHANCERY_KILLS=%q is not a number of kills", text)
	}
	return n / 2
}

// faultPoints finds the places in the source where a crash test may kill the
// program, so that a new one is tested from its first day.
func faultPoints(t testing.TB) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if name, ok := faultPoint(n); ok {
				names = append(names, name)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 || slices.Contains(names, "") {
		t.Fatalf("the source has fault points %q; each needs a constant name", names)
	}
	return names
}

// faultPoint returns the name in a call of fault.Point, or the constant it begins
// with.
func faultPoint(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Point" || len(call.Args) != 1 {
		return "", false
	}
	if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "fault" {
		return "", false
	}
	arg := call.Args[0]
	if sum, ok := arg.(*ast.BinaryExpr); ok {
		arg = sum.X // a family of points, by their common beginning
	}
	lit, ok := arg.(*ast.BasicLit)
	if !ok {
		return "", true
	}
	name, err := strconv.Unquote(lit.Value)
	return name, err == nil
}

// faultSite is an installation of the program that dies at fault points.
func faultSite(t testing.TB, url string) *site {
	t.Helper()
	bin, err := faultBuild()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.bin, s.db = bin, url
	s.flags = append(s.flags, "--no-limits")
	return s
}

// TestKillUnderLoad kills the program, with kill -9, at every fault point and
// at random instants, while clients order and revoke certificates and an operator
// begins incidents. After every kill it starts again on the same data. The invariants of issuance hold at
// every restart, every client gets every certificate it asked for, no
// certificate is issued twice, and no revocation is forgotten.
func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		killUnderLoad(t, "")
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		killUnderLoad(t, dbtest.PostgresURL(t))
	})
}

func killUnderLoad(t *testing.T, url string) {
	s := faultSite(t, url)
	p := s.start()
	l := startLoad(t, p, 4)
	l.workers.Go(l.incidents)
	p.silent = true
	p.kill()
	plan := killPlan(faultPoints(t))
	kills := 0
	for want := killsPerEngine(t, plan); kills < want && !t.Failed(); kills++ {
		s.killAt(plan[kills%len(plan)])
	}
	p = s.start()
	s.doctor()
	l.finish()
	if n := s.count(qProcessing); n != 0 {
		t.Errorf("%d orders are still processing when every client is content", n)
	}
	issued, revoked := l.count()
	t.Logf("%d kills; %d certificates issued, %d revoked; %d requests repeated, %d orders begun anew",
		kills, issued, revoked, l.client.retries.Load(), l.lost.Load())
	if issued < kills {
		t.Errorf("only %d certificates were issued between %d kills: the load was too small to prove anything", issued, kills)
	}
	l.keepsPromises()
	p.stop()
	s.doctor()
}

// killSpot is where to kill: the n-th pass of a fault point, or a random
// instant when there is no name.
type killSpot struct {
	point string
	n     int
}

// beyond are fault points that this load cannot reach, each with the reason:
// they belong to what an operator starts, and are crashed by their own tests.
var beyond = map[string]string{
	"ca.after_precertificate": "needs Certificate Transparency; TestKillWhileLogging",
	"ca.after_logs":           "needs Certificate Transparency; TestKillWhileLogging",
}

// killPlan lists every fault point once, with random instants between. What
// recovery does is reached only after a crash that left an order half done.
func killPlan(points []string) (plan []killSpot) {
	for i, point := range points {
		switch {
		case beyond[point] != "", strings.HasPrefix(point, "deploy."), strings.HasPrefix(point, "renew."), strings.HasPrefix(point, "alone."), strings.HasPrefix(point, "alert."): // those die in the tests of their own packages
		case strings.Contains(point, "recover"):
			plan = append(plan, killSpot{"ca.after_intent", 1}, killSpot{point, 1})
		default:
			plan = append(plan, killSpot{point, 1 + chaos(5)})
		}
		if i%4 == 3 {
			plan = append(plan, killSpot{})
		}
	}
	return append(plan, killSpot{}, killSpot{}, killSpot{})
}

// killAt runs the program until it dies at the given spot.
func (s *site) killAt(at killSpot) {
	s.t.Helper()
	if at.point == "" {
		s.killAtRandom()
		return
	}
	p := s.launch("CHANCERY_FAULT_POINT=" + at.point + ":" + strconv.Itoa(at.n))
	p.silent = true
	if p.waitReady() == nil {
		s.doctor()
	}
	if !p.wait(90 * time.Second) {
		s.t.Errorf("nothing that the clients do passes fault point %s %d times in 90 s", at.point, at.n)
		p.kill()
		return
	}
	s.mustBeKilled(p, at.point)
}

// mustBeKilled fails the test if the program ended by itself.
func (s *site) mustBeKilled(p *process, at string) {
	s.t.Helper()
	if !p.killed() {
		s.t.Errorf("at %s the program ended by itself, %s:\n%s", at, p.state, p.log.last())
	}
	p.checkLog()
}

// killAtRandom kills the program some time after its launch, possibly before
// it is ready, in most cases soon after.
func (s *site) killAtRandom() {
	s.t.Helper()
	p := s.launch()
	p.silent = true
	if chaos(4) > 0 {
		if err := p.waitReady(); err != nil {
			s.t.Errorf("%v\n%s", err, p.log.last())
			return
		}
		s.doctor()
	}
	p.wait(time.Duration(chaos(600)) * time.Millisecond)
	if !p.running() {
		s.t.Errorf("the program ended by itself, %s:\n%s", p.state, p.log.last())
		return
	}
	p.kill()
	s.mustBeKilled(p, "a random instant")
}

// TestKillDuringTheFirstStart kills the program at every fault point that it
// passes while it makes its authorities, and at random instants, and expects
// the next start to carry on with what is there.
func TestKillDuringTheFirstStart(t *testing.T) {
	t.Parallel()
	dbtest.EachURL(t, func(t *testing.T, url string) {
		passed := 0
		for i, point := range faultPoints(t) {
			s := faultSite(t, sibling(t, url, i))
			p := s.launch("CHANCERY_FAULT_POINT=" + point + ":1")
			p.silent = true
			if p.waitReady() == nil {
				p.kill() // this start does not pass the point
				continue
			}
			s.mustBeKilled(p, point)
			passed++
			s.startsAfterAll("first.test")
		}
		if passed == 0 {
			t.Error("the first start passes no fault point")
		}
		s := faultSite(t, url)
		for range 8 {
			p := s.launch()
			p.wait(time.Duration(chaos(150)) * time.Millisecond)
			p.kill()
			s.mustBeKilled(p, "a random instant")
		}
		s.startsAfterAll("random.test")
	})
}

// sibling returns the URL of another empty database on the same engine.
func sibling(t testing.TB, url string, n int) string {
	t.Helper()
	if db.IsPostgresURL(url) {
		return dbtest.PostgresURL(t)
	}
	return url + strconv.Itoa(n)
}

// startsAfterAll starts the program in good order and gets a certificate.
func (s *site) startsAfterAll(name string) {
	s.t.Helper()
	p := s.start()
	s.doctor()
	mustIssue(s.t, s, newClient(s.t, p), name)
	p.stop()
}
