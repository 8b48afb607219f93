package scan

import (
	"encoding/json/v2"
	"fmt"
	"net/netip"
	"time"

	"chancery/internal/fault"
	"chancery/internal/inventory"
	"chancery/internal/scan/probe"
)

// Bounds of a Batch that comes from elsewhere.
const (
	MaxReports = 500
	maxChain   = 40 // certificates of one report
)

// oversized is the failure of an endpoint whose certificate is larger than the
// inventory takes.
const oversized = "oversized"

// Batch is results on their way to the inventory, as JSON. A certificate that
// many endpoints serve is in it once.
type Batch struct {
	Reports      []Report `json:"reports"`
	Certificates [][]byte `json:"certificates"` // DER
}

// Report is what was found at one endpoint.
type Report struct {
	Host     string    `json:"host"`
	Port     int       `json:"port"`
	SNI      string    `json:"sni,omitempty"`
	Address  string    `json:"address,omitempty"`
	Probe    string    `json:"probe"`
	Problems []string  `json:"problems,omitempty"`
	Failure  string    `json:"failure,omitempty"` // class; "" when the endpoint answered
	At       time.Time `json:"at"`
	// Chain has the positions in Certificates of what the endpoint showed: the
	// leaf first, then its issuers and the certificate of another kind of key.
	Chain []int `json:"chain,omitempty"`
}

// NewBatch turns results into reports. Those that say nothing about their
// endpoint (we could not try) are left out.
func NewBatch(kind Kind, results []Result) Batch {
	var b Batch
	at := map[string]int{}
	for i := range results {
		r := &results[i]
		if r.Class == probe.Local || r.Class == probe.Canceled {
			continue
		}
		b.Reports = append(b.Reports, b.report(kind, r, at))
	}
	return b
}

func (b *Batch) report(kind Kind, r *Result, at map[string]int) Report {
	out := Report{Host: r.Target.Host, Port: int(r.Target.Port), SNI: r.Target.ServerName(), Probe: probeName(kind, r.Target.Protocol), At: r.At}
	if out.Host == "" {
		out.Host = r.Target.Addr.String()
	}
	if r.Addr.IsValid() {
		out.Address = r.Addr.Addr().Unmap().String()
	}
	for _, p := range r.Verdict.Problems {
		out.Problems = append(out.Problems, string(p))
	}
	if r.Class != probe.OK {
		out.Failure = string(r.Class)
	}
	for _, der := range r.shown() {
		if len(der) > inventory.MaxDER {
			if len(out.Chain) == 0 {
				out.Failure = oversized
				break
			}
			continue
		}
		n, known := at[string(der)]
		if !known {
			n = len(b.Certificates)
			at[string(der)] = n
			b.Certificates = append(b.Certificates, der)
		}
		if len(out.Chain) < maxChain {
			out.Chain = append(out.Chain, n)
		}
	}
	return out
}

// shown returns every certificate that the endpoint showed, the leaf first.
func (r *Result) shown() [][]byte {
	var ders [][]byte
	for _, c := range r.Chain {
		ders = append(ders, c.Raw)
	}
	if r.Dual != nil && len(ders) > 0 {
		for _, chain := range [][][]byte{r.Dual.ECDSA, r.Dual.RSA} {
			if len(chain) > 0 && string(chain[0]) != string(ders[0]) {
				ders = append(ders, chain[0])
			}
		}
	}
	return ders
}

// probeName is the inventory's word for how an endpoint was asked.
func probeName(kind Kind, p probe.Protocol) string {
	if p == probe.TLS || p == "" {
		return string(kind)
	}
	return starttls + string(p)
}

// starttls begins the name of a probe through STARTTLS.
const starttls = "starttls-"

// Observations returns b as the inventory takes it. It checks what a stranger may have sent; the
// rest is for the inventory to check. The error is a *fault.Error.
func (b *Batch) Observations() ([]inventory.Observation, error) {
	if len(b.Reports) > MaxReports || len(b.Certificates) > MaxReports*maxChain {
		return nil, fault.New(fault.TooLarge, "a batch has at most %d reports", MaxReports)
	}
	used := make([]bool, len(b.Certificates))
	var out []inventory.Observation
	for i := range b.Reports {
		r := &b.Reports[i]
		o := inventory.Observation{Source: inventory.FromScan, SeenAt: r.At, Endpoint: &inventory.Sighting{Host: r.Host, Port: r.Port,
			SNI: r.sni(), Address: r.Address, Probe: r.Probe, Problems: r.Problems, Failure: r.Failure}}
		if len(r.Chain) > maxChain {
			return nil, fault.New(fault.TooLarge, "a report has at most %d certificates", maxChain)
		}
		for n, at := range r.Chain {
			if at < 0 || at >= len(b.Certificates) {
				return nil, fault.New(fault.Invalid, "a report names certificate %d of %d", at, len(b.Certificates))
			}
			if n == 0 { // again and again for many endpoints: the inventory merges
				o.DER, used[at] = b.Certificates[at], true
				continue
			}
			if !used[at] {
				used[at] = true
				out = append(out, inventory.Observation{DER: b.Certificates[at], Source: inventory.FromScan, SeenAt: r.At})
			}
		}
		out = append(out, o)
	}
	if len(out) > inventory.MaxBatch {
		return nil, fault.New(fault.TooLarge, "a batch has at most %d certificates", inventory.MaxBatch)
	}
	return out, nil
}

// sni is the server name, unless it is an address: none was sent then.
func (r *Report) sni() string {
	if _, err := netip.ParseAddr(r.SNI); err == nil {
		return ""
	}
	return r.SNI
}

// maxEncoded is how large an encoded batch may be: below the largest message
// of the bus.
const maxEncoded = 900 << 10

// Encode returns results as one or more encoded batches, none larger than a
// message of the bus.
func Encode(kind Kind, results []Result) ([][]byte, error) {
	text, err := json.Marshal(NewBatch(kind, results))
	if err != nil {
		return nil, fmt.Errorf("encode results: %w", err)
	}
	switch {
	case len(text) <= maxEncoded:
		return [][]byte{text}, nil
	case len(results) == 1:
		// Its own certificate fits; what came along is not worth more.
		bare := results[0]
		bare.Chain, bare.Dual = bare.Chain[:1:1], nil
		text, err = json.Marshal(NewBatch(kind, []Result{bare}))
		return [][]byte{text}, err
	}
	first, err := Encode(kind, results[:len(results)/2])
	if err != nil {
		return nil, err
	}
	second, err := Encode(kind, results[len(results)/2:])
	return append(first, second...), err
}

// Decode reads what Encode wrote.
func Decode(text []byte) (b Batch, err error) {
	if err := json.Unmarshal(text, &b); err != nil {
		return b, fault.Wrap(err, fault.Invalid, "the batch of results does not parse")
	}
	return b, nil
}

// TargetOf is the target at which an endpoint of the inventory is found again.
func TargetOf(e *inventory.Endpoint) Target {
	t := Target{Host: e.Host, Port: uint16(e.Port), Protocol: probe.TLS}
	if a, err := netip.ParseAddr(e.Host); err == nil {
		t.Host, t.Addr = "", a
	}
	if e.SNI != e.Host {
		t.Name = e.SNI
	}
	if len(e.Probe) > len(starttls) && e.Probe[:len(starttls)] == starttls {
		if p := probe.Protocol(e.Probe[len(starttls):]); p.Valid() {
			t.Protocol = p
		}
	}
	return t
}
