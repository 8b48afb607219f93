package inventory

import (
	"math/bits"
	"slices"
	"strings"

	"chancery/internal/fault"
)

// Status is what became of a certificate.
type Status string

// Statuses, in the order shown to users. A certificate has the last one that
// applies: one that was revoked and has expired is revoked.
const (
	Active     Status = "active"     // within its validity, nothing newer known
	Superseded Status = "superseded" // a newer certificate has the same names, kind of key and owner
	Expired    Status = "expired"    // its end has passed (moved by Sweep, so up to one sweep late)
	Revoked    Status = "revoked"    // revoked by its CA
	Retired    Status = "retired"    // taken out of view by a person; deleted after the retention time
)

// Statuses lists every status.
var Statuses = []Status{Active, Superseded, Expired, Revoked, Retired}

// Valid reports whether s is a known status.
func (s Status) Valid() bool { return slices.Contains(Statuses, s) }

// linked reports whether certificates of this status are part of a chain of
// successors.
func (s Status) linked() bool { return s == Active || s == Superseded || s == Expired }

// transitions lists the changes of status that can happen; everything else is
// a bug of this package. Restoring a retired certificate gives it the status
// that its facts ask for.
var transitions = map[Status][]Status{
	Active:     {Superseded, Expired, Revoked, Retired},
	Superseded: {Active, Expired, Revoked, Retired},
	Expired:    {Revoked, Retired},
	Revoked:    {Retired},
	Retired:    {Active, Superseded, Expired, Revoked},
}

// facts are what the status follows from.
type facts struct {
	retired, revoked bool
	notAfter         int64 // Unix milliseconds
	successor        bool
}

// status returns the status of a certificate at the instant now (Unix
// milliseconds).
func (f facts) status(now int64) Status {
	switch {
	case f.retired:
		return Retired
	case f.revoked:
		return Revoked
	case f.notAfter <= now:
		return Expired
	case f.successor:
		return Superseded
	}
	return Active
}

// Source says how a certificate came to be known; a set of bits, because most
// are known from several sides.
type Source int64

// Sources.
const (
	FromCA     Source = 1 << iota // issued by one of our authorities
	FromImport                    // a file or an upload
	FromScan                      // presented by an endpoint
	FromCT                        // a Certificate Transparency log
	FromCloud                     // a cloud's certificate store
	FromAgent                     // found on a host by an agent
	FromRenew                     // obtained from another CA by the renewal engine
)

var sourceNames = []string{"ca", "import", "scan", "ct", "cloud", "agent", "renew"}

// allSources is the set of every known source.
const allSources = FromRenew<<1 - 1

// Valid reports whether s is a set of known sources with at least one member.
func (s Source) Valid() bool { return s > 0 && s <= allSources }

// Names returns the members of s as users write them ("ca", "scan").
func (s Source) Names() []string {
	if s == 0 {
		return nil
	}
	out := make([]string, 0, bits.OnesCount64(uint64(s)))
	for i, name := range sourceNames {
		if s&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// String returns the members of s with "+" between them.
func (s Source) String() string { return strings.Join(s.Names(), "+") }

// ParseSource returns the source with a name, or a *fault.Error (invalid) that
// lists the names.
func ParseSource(name string) (Source, error) {
	i := slices.Index(sourceNames, name)
	if i < 0 {
		return 0, fault.New(fault.Invalid, "source %.32q is not known; sources are: %s", name, strings.Join(sourceNames, " "))
	}
	return 1 << i, nil
}
