package challenge

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"chancery/internal/fault"
)

// Multi-perspective issuance corroboration: what this process saw of an
// identifier counts only if remote perspectives, which reach it over other
// networks, saw it too. Whoever redirects the traffic or the DNS of one place
// thus gains nothing (Baseline Requirements section 3.2.2.9).

// Verdict is what a remote perspective says to a validation or a CAA check.
type Verdict string

// Verdicts.
const (
	Agrees    Verdict = "agrees"    // it found what it was asked to look for
	Disagrees Verdict = "disagrees" // it looked, and found something else
	Silent    Verdict = "silent"    // no usable answer in time; counts as a disagreement
)

// Observation is the answer of one remote perspective, as it is kept. It is no
// Proof and cannot become one: it only decides whether a Proof made here stays.
type Observation struct {
	Perspective string     `json:"perspective"`
	Region      string     `json:"region"`
	Verdict     Verdict    `json:"verdict"`
	At          time.Time  `json:"at"`                         // of the answer, by this process's clock
	Millis      int64      `json:"took_ms"`                    // from the question to it
	Code        fault.Code `json:"code,omitempty"`             // class of Problem, when it disagrees
	Problem     string     `json:"problem,omitempty"`          // why it does not agree
	Steps       []Step     `json:"validationRecord,omitempty"` // what it contacted, with the addresses it was given
	CAAFound    string     `json:"caaFound,omitempty"`         // domain with the relevant CAA records
	CAARecords  []string   `json:"caaRecords,omitempty"`       // these, escaped
}

// MinRemotes is the fewest remote perspectives that make a quorum.
const MinRemotes = 2

// MinRegions is in how many regions those that agree must be.
const MinRegions = 2

// MayDisagree returns how many of a number of remote perspectives need not
// corroborate: none of fewer than 2, 1 of up to 5, and 2 of 6 or more.
func MayDisagree(remotes int) int {
	switch {
	case remotes < MinRemotes:
		return 0
	case remotes <= 5:
		return 1
	}
	return 2
}

// Corroboration is the part of a Proof or Clearance that says who confirmed
// it. Its zero value says that nobody was asked.
type Corroboration struct {
	Remotes int      `json:"remotes"` // how many were asked
	Agreed  []string `json:"agreed"`  // who agreed
	Regions []string `json:"regions"` // where those are, each once
}

// Judge applies the quorum rule to the answers of all remotes that were asked.
// The error is a *fault.Error: of the disagreement's class if too many
// disagree, and unavailable, so that the applicant may try again, if only
// silence stands in the way.
func Judge(observations []Observation) (Corroboration, error) {
	c := Corroboration{Remotes: len(observations)}
	var against, silent []Observation
	for _, o := range observations {
		switch o.Verdict {
		case Agrees:
			c.Agreed = append(c.Agreed, o.Perspective)
			if !slices.Contains(c.Regions, o.Region) {
				c.Regions = append(c.Regions, o.Region)
			}
		case Disagrees:
			against = append(against, o)
		default:
			silent = append(silent, o)
		}
	}
	may := MayDisagree(c.Remotes)
	switch {
	case c.Remotes < MinRemotes:
		return Corroboration{}, fault.New(fault.ServerInternal, "%d remote perspectives make no quorum", c.Remotes)
	case len(against) > may:
		return Corroboration{}, disagreement(against, c.Remotes, may)
	case len(against)+len(silent) > may:
		return Corroboration{}, fault.New(fault.Unavailable, "%d of %d network perspectives gave no answer, and at most %d may be missing; nothing was decided, try again",
			len(silent), c.Remotes, may).Retry(5 * time.Second)
	case len(c.Regions) < MinRegions && len(against) > 0:
		return Corroboration{}, disagreement(against, c.Remotes, may)
	case len(c.Regions) < MinRegions:
		return Corroboration{}, fault.New(fault.Unavailable, "the network perspectives that answered are in fewer than %d regions; nothing was decided, try again",
			MinRegions).Retry(5 * time.Second)
	}
	return c, nil
}

// disagreement is the applicant's error: each disagreeing perspective with
// what it saw, and the class that all of them share.
func disagreement(against []Observation, remotes, may int) error {
	code := against[0].Code
	var seen []string
	for _, o := range against {
		if o.Code != code {
			code = fault.Unauthorized
		}
		seen = append(seen, fmt.Sprintf("%s: %s", o.Perspective, o.Problem))
	}
	if code == "" {
		code = fault.Unauthorized
	}
	return fault.New(code, "%d of %d remote network perspectives did not see the same (at most %d may differ, and those that agree must be in %d regions): %s",
		len(against), remotes, may, MinRegions, strings.Join(seen, "; "))
}

// Corroborate returns p and c with the confirmation of the remotes that were
// asked, or an error and neither. It never makes a Proof or a Clearance: both
// were made here, of what was seen here.
func Corroborate(p Proof, c Clearance, observations []Observation) (Proof, Clearance, error) {
	by, err := Judge(observations)
	if err != nil {
		return Proof{}, Clearance{}, err
	}
	if p.p == nil {
		return Proof{}, Clearance{}, fault.New(fault.ServerInternal, "there is no proof to corroborate")
	}
	proof := *p.p
	proof.Corroboration = &by
	clear, err := c.with(by)
	if err != nil {
		return Proof{}, Clearance{}, err
	}
	return Proof{&proof}, clear, nil
}

// CorroborateCAA is Corroborate for a CAA check alone.
func CorroborateCAA(c Clearance, observations []Observation) (Clearance, error) {
	by, err := Judge(observations)
	if err != nil {
		return Clearance{}, err
	}
	return c.with(by)
}

func (c Clearance) with(by Corroboration) (Clearance, error) {
	if c.c == nil {
		return Clearance{}, fault.New(fault.ServerInternal, "there is no clearance to corroborate")
	}
	clear := *c.c
	clear.Corroboration = &by
	return Clearance{&clear}, nil
}

// Corroboration returns who confirmed p.
func (p Proof) Corroboration() Corroboration {
	if p.p == nil || p.p.Corroboration == nil {
		return Corroboration{}
	}
	return *p.p.Corroboration
}

// Corroboration returns who confirmed c.
func (c Clearance) Corroboration() Corroboration {
	if c.c == nil || c.c.Corroboration == nil {
		return Corroboration{}
	}
	return *c.c.Corroboration
}
