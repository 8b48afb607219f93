package bench

import (
	"fmt"
	"io"
	"strings"
)

// barWidth is the width of the bar alone, in columns.
const barWidth = 24

// Bar draws the progress of a run on one line of a terminal.
type Bar struct {
	w     io.Writer // nil: draw nothing
	drawn bool
	last  float64
}

// NewBar returns a Bar on w, or one that draws nothing when w is no terminal.
func NewBar(w io.Writer, terminal bool) *Bar {
	if !terminal {
		w = nil
	}
	return &Bar{w: w}
}

// Progress draws p; it is what Driver.Progress wants.
func (b *Bar) Progress(p Progress) {
	if b.w == nil {
		return
	}
	b.last = max(b.last, p.Share) // a bar that goes back confuses
	full := int(b.last * barWidth)
	state := "warming up"
	if p.Measuring {
		state = number(p.PerSecond) + "/s"
	}
	if p.Failed > 0 {
		state += fmt.Sprintf(", %d failed", p.Failed)
	}
	b.drawn = true
	fmt.Fprintf(b.w, "\r\x1b[K[%s%s] %3.0f%%  %d clients, round %d of %d: %s", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full),
		b.last*100, p.Clients, p.Round, p.Rounds, state)
}

// Part returns a Driver.Progress for part i of n equal runs.
func (b *Bar) Part(i, n int) func(Progress) {
	return func(p Progress) {
		p.Share = (float64(i) + p.Share) / float64(n)
		b.Progress(p)
	}
}

// Clear removes the bar, so that a report can follow.
func (b *Bar) Clear() {
	if b.drawn {
		fmt.Fprint(b.w, "\r\x1b[K")
		b.drawn = false
	}
}
