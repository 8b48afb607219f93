package bench

import (
	"strings"
	"testing"

	"chancery/internal/bench/fleet"
	"chancery/internal/scan/probe"
	"chancery/internal/scan/verdict"
)

func TestJudgeFindsEveryDifference(t *testing.T) {
	truth := []fleet.Endpoint{
		{Target: "a:443", Kind: fleet.P256, Class: probe.OK, Problems: []verdict.Problem{}, Leaf: "aa"},
		{Target: "b:443", Kind: fleet.Expired, Class: probe.OK, Problems: []verdict.Problem{verdict.Expired}, Leaf: "bb"},
		{Target: "c:443", Kind: fleet.Refused, Class: probe.Refused, Leaf: "cc"},
		{Target: "d:443", Kind: fleet.Revoked, Class: probe.OK, Problems: []verdict.Problem{verdict.Revoked}, Leaf: "dd"},
	}
	right := `{"target":"a:443","class":"ok","problems":[],"certificate":{"fingerprint":"aa"}}
{"target":"b:443","class":"ok","problems":["expired"],"certificate":{"fingerprint":"bb"}}
{"target":"c:443","class":"refused","problems":[]}
{"target":"d:443","class":"ok","problems":[],"certificate":{"fingerprint":"dd"}}
`
	for _, c := range []struct {
		name, lines             string
		revocation              bool
		verified, wrong, missed int
	}{
		{"right", right, false, 3, 0, 0},
		{"revocation", right, true, 3, 1, 0},
		{"nothing", "", false, 3, 0, 4},
		{"class", strings.Replace(right, "refused", "reset", 1), false, 3, 1, 0},
		{"problem", strings.Replace(right, `"expired"`, "", 1), false, 3, 1, 0},
		{"certificate", strings.Replace(right, `"aa"`, `"ab"`, 1), false, 3, 1, 0},
		{"one missing", right[strings.Index(right, "\n")+1:], false, 3, 0, 1},
	} {
		r := ScanRun{Probe: "observe", Revocation: c.revocation}
		if err := r.Judge(truth, strings.NewReader(c.lines)); err != nil {
			t.Fatal(err)
		}
		if r.Verified != c.verified || r.Wrong != c.wrong || r.Missing != c.missed || len(r.Examples) != c.wrong+c.missed {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	for _, bad := range []string{"{", right + right} {
		if err := new(ScanRun).Judge(truth, strings.NewReader(bad)); err == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
}
