package bench

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"chancery/internal/fault"
)

// Format is the version of the result files.
const Format = 1

// Run is one run of a benchmark: the content of a result file, and of each of
// its JSON lines (there with a single point). Runs with equal ID are one run.
type Run struct {
	Format   int               `json:"format"`
	ID       string            `json:"id"`
	Bench    string            `json:"bench"` // "issue", "ocsp", "api", "sign"
	Label    string            `json:"label"` // what was measured, in the user's words
	Unit     string            `json:"unit"`  // plural of what one operation is: "issuances"
	Settings map[string]string `json:"settings,omitempty"`
	Machine  Machine           `json:"machine"`
	Figures  []Figure          `json:"figures,omitempty"` // of the run as a whole
	Points   []Point           `json:"points"`
}

// Figure is a result that belongs to a run as a whole.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitzero"`
}

// Point is the measurement at one number of clients.
type Point struct {
	Clients int     `json:"clients"`
	Rate    float64 `json:"rate,omitzero"`    // operations asked for per second; 0: closed loop
	Variant string  `json:"variant,omitzero"` // what differs from the other points, when not the clients

	PerSecond Spread  `json:"per_second"` // successful operations per second, over the rounds
	Latency   Latency `json:"latency"`    // of all rounds; from the intended start with a Rate
	Service   Latency `json:"service"`    // the same from the real start
	Phases    []Phase `json:"phases,omitempty"`

	Requests float64          `json:"requests_per_op,omitzero"`
	Retries  float64          `json:"retries_per_op,omitzero"` // requests sent again for a bad nonce or a lost connection
	Errors   map[string]int64 `json:"errors,omitempty"`        // failed operations by class
	Examples []string         `json:"examples,omitempty"`      // one error of each class

	ClientCPU Spread  `json:"client_cpu_ms"`           // per operation, this process
	ServerCPU *Spread `json:"server_cpu_ms,omitempty"` // per operation, the watched processes
	Others    Spread  `json:"others_cpu_share"`        // 0..1 of the machine, used by neither
	PeakRSS   int64   `json:"server_peak_rss,omitzero"`
	Mallocs   float64 `json:"server_mallocs_per_op,omitzero"`
	Allocated float64 `json:"server_alloc_bytes_per_op,omitzero"`
	SQL       *Spread `json:"server_sql_per_second,omitempty"` // statements that the server ran, for whatever reason

	Rounds []Round `json:"rounds,omitempty"`

	Flood *FloodStats `json:"flood,omitempty"` // what went on next to it
}

// Phase is the latency of one part of an operation.
type Phase struct {
	Name    string  `json:"name"`
	Latency Latency `json:"latency"`
}

// Round is one measured window.
type Round struct {
	Seconds    float64 `json:"seconds"`
	Operations int64   `json:"operations"` // successful ones
	Failed     int64   `json:"failed,omitzero"`
	PerSecond  float64 `json:"per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	Usage      Usage   `json:"usage"`
}

// Spread is a figure over several rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spread returns the spread of values, which may come in any order.
func spread(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + mid) / 2
	}
	return Spread{Median: round4(mid), Min: round4(v[0]), Max: round4(v[len(v)-1])}
}

// round4 keeps four decimals; the rest is noise that makes files hard to read.
func round4(v float64) float64 { return math.Round(v*1e4) / 1e4 }

// Percent returns half of the range in percent of the median.
func (s Spread) Percent() float64 {
	if s.Median == 0 {
		return 0
	}
	return (s.Max - s.Min) / 2 / s.Median * 100
}

// failed returns how many operations failed.
func (p *Point) failed() int64 {
	n := int64(0)
	for _, c := range p.Errors {
		n += c
	}
	return n
}

// ReadRuns reads result files and JSON lines alike: any sequence of Runs.
// Runs with the same ID become one, with the points of all. name is for
// errors, which are *fault.Error when the text is no result.
func ReadRuns(r io.Reader, name string) ([]Run, error) {
	var runs []Run
	for dec := json.NewDecoder(r); ; {
		var run Run
		err := dec.Decode(&run)
		if errors.Is(err, io.EOF) {
			return runs, nil
		}
		if err != nil {
			return nil, fault.Wrap(err, fault.Invalid, "%s is not a result of chancery bench", name)
		}
		if run.Format != Format || run.ID == "" {
			return nil, fault.New(fault.Invalid, "%s is not a result of chancery bench that this version can read (format %d, not %d)", name, run.Format, Format)
		}
		runs = merge(runs, run)
	}
}

// merge adds run to runs.
func merge(runs []Run, run Run) []Run {
	i := slices.IndexFunc(runs, func(r Run) bool { return r.ID == run.ID })
	if i < 0 {
		return append(runs, run)
	}
	for _, p := range run.Points {
		same := func(q Point) bool { return q.Clients == p.Clients && q.Rate == p.Rate && q.Variant == p.Variant }
		if !slices.ContainsFunc(runs[i].Points, same) { // result.json and its lines may both be read
			runs[i].Points = append(runs[i].Points, p)
		}
	}
	return runs
}

// WriteLine appends the run with only its last point as one JSON line.
func (r *Run) WriteLine(w io.Writer) error {
	line := *r
	line.Points = r.Points[max(len(r.Points)-1, 0):]
	if err := json.NewEncoder(w).Encode(line); err != nil {
		return fmt.Errorf("write result line: %w", err)
	}
	return nil
}

// WriteFile writes the whole run as indented JSON.
func (r *Run) WriteFile(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// classes returns the error classes, most frequent first.
func (p *Point) classes() []string {
	names := make([]string, 0, len(p.Errors))
	for name := range p.Errors {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.Errors[b], p.Errors[a]), cmp.Compare(a, b))
	})
	return names
}

// perOp divides a total by a number of operations; 0 operations give 0.
func perOp(total float64, n int64) float64 {
	if n == 0 {
		return 0
	}
	return round4(total / float64(n))
}
