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

// ScanRun is one measured scan of a fleet, as a JSON line.
type ScanRun struct {
	Bench      string  `json:"bench"` // "scan"
	Label      string  `json:"label,omitempty"`
	Machine    Machine `json:"machine"`
	Endpoints  int     `json:"endpoints"`
	Live       bool    `json:"live"`
	Probe      string  `json:"probe"`
	Revocation bool    `json:"revocation"`
	Wall       float64 `json:"wall_s"`
	CPU        float64 `json:"cpu_s"`             // user and system of the scanner, start and output included
	PerTarget  float64 `json:"cpu_ms_verified"`   // of endpoints that showed a certificate
	Memory     float64 `json:"memory_mb"`         // most resident
	FleetCPU   float64 `json:"fleet_cpu_s"`       // that of the other side, on the same machine
	Verified   int     `json:"verified"`          // endpoints that showed a certificate
	Wrong      int     `json:"wrong"`             // another answer than the truth
	Missing    int     `json:"missing"`           // endpoints without an answer
	Examples   []Wrong `json:"examples,omitzero"` // of wrong and missing, a few
}

// Wrong is an answer that is not the truth.
type Wrong struct {
	Target string `json:"target"`
	Kind   string `json:"kind"`
	Want   string `json:"want"`
	Got    string `json:"got"` // "" = none
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
