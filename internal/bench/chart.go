package bench

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// Geometry of the chart, in CSS pixels.
const (
	chartWidth, chartHeight = 860, 320
	panelWidth, panelHeight = 340, 210
	panelTop                = 60
)

// panel is one diagram: a value per point.
type panel struct {
	left   float64
	title  string
	class  string
	values []float64
	low    []float64 // lower and upper end of the spread; nil: none
	high   []float64
}

// WriteSVG draws throughput and p99 latency against the number of clients.
// The points stand at equal distances: numbers of clients are chosen like
// 1, 5, 10, 25, and a linear axis would squeeze the first ones.
func (r *Run) WriteSVG(w io.Writer) error {
	tput := panel{left: 70, title: r.Unit + " per second", class: "a"}
	p99 := panel{left: 500, title: "p99 latency, ms", class: "b"}
	for _, p := range r.Points {
		tput.values = append(tput.values, p.PerSecond.Median)
		tput.low = append(tput.low, p.PerSecond.Min)
		tput.high = append(tput.high, p.PerSecond.Max)
		p99.values = append(p99.values, p.Latency.P99)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui,sans-serif" font-size="12" role="img">`, chartWidth, chartHeight)
	// Colours follow the reader's theme, and differ without colour vision, too.
	b.WriteString(`<style>text{fill:#333}.g{stroke:#ccc}.a{stroke:#0b62c4;fill:#0b62c4}.b{stroke:#b4500a;fill:#b4500a;stroke-dasharray:6 3}` +
		`polyline{fill:none!important;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#ddd}.g{stroke:#555}}</style>`)
	fmt.Fprintf(&b, `<title>%s</title><text x="70" y="24" font-size="15">%s</text>`, svgText(r.Title()), svgText(r.Title()))
	for _, p := range []panel{tput, p99} {
		p.draw(&b, r.Points)
	}
	fmt.Fprintf(&b, `<text x="70" y="%d" font-size="10">%s</text></svg>`+"\n", chartHeight-8, svgText(r.Machine.Where()))
	_, err := io.WriteString(w, b.String())
	return err
}

func svgText(s string) string { return html.EscapeString(printable(s)) }

// draw writes one panel.
func (p *panel) draw(b *strings.Builder, points []Point) {
	top := niceCeiling(p.values, p.high)
	x := func(i int) float64 {
		return p.left + panelWidth*(float64(i)+.5)/float64(max(len(points), 1))
	}
	y := func(v float64) float64 { return panelTop + panelHeight*(1-v/top) }
	fmt.Fprintf(b, `<text x="%g" y="%d">%s</text>`, p.left, panelTop-12, svgText(p.title))
	for i := range 5 {
		v := top * float64(i) / 4
		fmt.Fprintf(b, `<line class="g" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/>`, p.left, p.left+panelWidth, y(v), y(v))
		fmt.Fprintf(b, `<text x="%g" y="%.1f" text-anchor="end">%s</text>`, p.left-6, y(v)+4, number(v))
	}
	var line []string
	for i, v := range p.values {
		line = append(line, fmt.Sprintf("%.1f,%.1f", x(i), y(v)))
		if p.low != nil {
			fmt.Fprintf(b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, p.class, x(i), x(i), y(p.low[i]), y(p.high[i]))
		}
		fmt.Fprintf(b, `<circle class="%s" cx="%.1f" cy="%.1f" r="3"><title>%s</title></circle>`, p.class, x(i), y(v), number(v))
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(i), panelTop+panelHeight+16, svgText(points[i].axis()))
	}
	fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`, p.class, strings.Join(line, " "))
	fmt.Fprintf(b, `<text x="%g" y="%d" text-anchor="middle">clients</text>`, p.left+panelWidth/2, panelTop+panelHeight+32)
}

// axis is the label of a point under the axis.
func (p *Point) axis() string {
	if p.Variant != "" {
		return p.Variant
	}
	return fmt.Sprint(p.Clients)
}

// niceCeiling is a round number at or above all values: 1, 2, 2.5 or 5 times a
// power of ten.
func niceCeiling(lists ...[]float64) float64 {
	largest := 0.0
	for _, l := range lists {
		for _, v := range l {
			largest = max(largest, v)
		}
	}
	if largest <= 0 || math.IsInf(largest, 0) {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(largest)))
	for _, f := range []float64{1, 2, 2.5, 5} {
		if largest <= f*unit {
			return f * unit
		}
	}
	return 10 * unit
}
