package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"chancery/internal/bench/fleet"
	"chancery/internal/scan"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

// ScanRun is one measured scan of a fleet.
type ScanRun struct {
	Label      string
	Machine    Machine
	Endpoints  int
	Live       bool
	Probe      string
	Revocation bool
	Wall       float64 // seconds
	CPU        float64 // seconds, user and system of the scanner, start and output included
	PerTarget  float64 // milliseconds of CPU, of endpoints that showed a certificate
	Memory     float64 // most resident, in MB
	FleetCPU   float64 // seconds, of the other side, on the same machine
	Verified   int     // endpoints that showed a certificate
	Wrong      int     // another answer than the truth
	Missing    int     // endpoints without an answer
	Examples   []Wrong // of wrong and missing, a few
}

// Wrong is an answer that is not the truth.
type Wrong struct {
	Target, Kind, Want string
	Got                string // "" = none
}

// Result is the scan as a result: an operation is an endpoint that showed a
// certificate, and the scanner is the server.
func (r *ScanRun) Result(id string) Run {
	p := Point{Clients: 1, Variant: fmt.Sprintf("%d endpoints, %s", r.Endpoints, r.Probe), PerSecond: spread([]float64{float64(r.Verified) / max(r.Wall, 1e-9)}),
		ServerCPU: &Spread{}, PeakRSS: int64(r.Memory * 1e6), Rounds: []Round{{Seconds: round4(r.Wall), Operations: int64(r.Verified), Failed: int64(r.Wrong + r.Missing)}}}
	*p.ServerCPU = spread([]float64{r.PerTarget})
	p.Latency.Count = int64(r.Verified)
	for class, n := range map[string]int{"wrong": r.Wrong, "missing": r.Missing} {
		if n > 0 {
			if p.Errors == nil {
				p.Errors = map[string]int64{}
			}
			p.Errors[class] = int64(n)
		}
	}
	for _, w := range r.Examples {
		p.Examples = append(p.Examples, fmt.Sprintf("%s (%s): %q, want %q", w.Target, w.Kind, w.Got, w.Want))
	}
	return Run{Format: Format, ID: id, Bench: "scan", Label: r.Label, Unit: "endpoints", Machine: r.Machine, Points: []Point{p},
		Settings: map[string]string{"live": fmt.Sprint(r.Live), "revocation": fmt.Sprint(r.Revocation)},
		Figures:  []Figure{{"wall", round4(r.Wall), "s"}, {"scanner CPU", round4(r.CPU), "s"}, {"fleet CPU", round4(r.FleetCPU), "s"}}}
}

// maxWrong is how many examples are kept.
const maxWrong = 10

// Judge compares the JSON lines of `chancery scan` with what is there, answer
// by answer: class, alert, problems and fingerprint.
func (r *ScanRun) Judge(truth []fleet.Endpoint, lines io.Reader) error {
	got := make(map[string]string, len(truth))
	in := bufio.NewScanner(lines)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var v scan.View
		if err := json.Unmarshal(in.Bytes(), &v); err != nil {
			return fmt.Errorf("read a line of the scanner: %w", err)
		}
		leaf := ""
		if v.Certificate != nil && v.Class == probe.OK {
			leaf = v.Certificate.Fingerprint
		}
		if _, twice := got[v.Target]; twice {
			return fmt.Errorf("the scanner answers twice for %s", v.Target)
		}
		got[v.Target] = answer(v.Class, v.Alert, v.Problems, leaf)
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read the scanner's output: %w", err)
	}
	r.Endpoints, r.Verified, r.Wrong, r.Missing, r.Examples = len(truth), 0, 0, 0, nil
	for i := range truth {
		r.judge(&truth[i], got)
	}
	return nil
}

func (r *ScanRun) judge(e *fleet.Endpoint, got map[string]string) {
	if e.Class == probe.OK {
		r.Verified++
	}
	problems, leaf := e.Problems, e.Leaf
	if e.Kind == fleet.Revoked && !r.Revocation {
		problems = nil
	}
	if r.Probe == string(scan.Fetch) { // proves nothing, and does not claim to
		problems = slices.DeleteFunc(slices.Clone(problems), func(p verdict.Problem) bool { return p == verdict.Unproven })
	}
	if e.Class != probe.OK {
		leaf = ""
	}
	want := answer(e.Class, e.Alert, problems, leaf)
	text, ok := got[e.Target]
	switch {
	case !ok:
		r.Missing++
	case text != want:
		r.Wrong++
	default:
		return
	}
	if len(r.Examples) < maxWrong {
		r.Examples = append(r.Examples, Wrong{e.Target, string(e.Kind), want, text})
	}
}

// answer is an answer as one text.
func answer(class probe.Class, alert uint8, problems []verdict.Problem, leaf string) string {
	problems = slices.Sorted(slices.Values(problems))
	return fmt.Sprintf("%s %d %v %.16s", class, alert, problems, leaf)
}

// Text is the run for people, in one line.
func (r *ScanRun) Text() string {
	return fmt.Sprintf("%6d endpoints  %-8s wall %6.2f s  CPU %5.2f s, %.3f ms per verified target  memory %4.0f MB  wrong %d  missing %d",
		r.Endpoints, r.Probe, r.Wall, r.CPU, r.PerTarget, r.Memory, r.Wrong, r.Missing)
}
