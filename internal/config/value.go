package config

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ParseDuration reads "90m", "7d", "1d12h": Go's syntax with days first.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration; write one such as \"90s\", \"15m\", \"12h\" or \"7d\"", s)
	var days int64
	rest := s
	if n, after, ok := strings.Cut(s, "d"); ok {
		var err error
		if days, err = strconv.ParseInt(n, 10, 64); err != nil || days < 0 || days > math.MaxInt64/int64(day) {
			return 0, bad
		}
		if rest = after; rest == "" {
			return time.Duration(days) * day, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || days*int64(day) > math.MaxInt64-int64(d) {
		return 0, bad
	}
	return time.Duration(days)*day + d, nil
}

// FormatDuration writes d the way ParseDuration reads it, as short as can be.
func FormatDuration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	if days := d / day; days > 0 {
		fmt.Fprintf(&b, "%dd", days)
		if d %= day; d == 0 {
			return b.String()
		}
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return b.String() + s
}

// units of sizes; all are powers of 1024 and may be written KB or KiB.
var units = []struct {
	suffix string
	bytes  int64
}{{"GB", 1 << 30}, {"GIB", 1 << 30}, {"MB", 1 << 20}, {"MIB", 1 << 20}, {"KB", 1 << 10}, {"KIB", 1 << 10}, {"B", 1}, {"", 1}}

// ParseSize reads "64KB", "10 MiB" or a plain number of bytes.
func ParseSize(s string) (int64, error) {
	upper := strings.ToUpper(strings.TrimSpace(s))
	for _, u := range units {
		n, ok := strings.CutSuffix(upper, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
		if err == nil && v >= 0 && v <= math.MaxInt64/u.bytes {
			return v * u.bytes, nil
		}
		break
	}
	return 0, fmt.Errorf("%q is not a size; write one such as \"512\", \"64KB\" or \"10MB\"", s)
}

// FormatSize writes n the way ParseSize reads it.
func FormatSize(n int64) string {
	for _, u := range units[:6] {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

// Rate is a rate limit: Count per Per, with at most Burst at once. A Count of
// 0 is unlimited; a Burst of 0 is the Count.
type Rate struct {
	Count int
	Per   time.Duration
	Burst int
}

// unlimited is how a Rate without a limit is written.
const unlimited = "unlimited"

// ParseRate reads "300 per 3h", "300 per 3h burst 50" or "unlimited".
func ParseRate(s string) (Rate, error) {
	bad := fmt.Errorf("%q is not a rate; write one such as \"300 per 3h\", \"300 per 3h burst 50\" or %q", s, unlimited)
	f := strings.Fields(s)
	if len(f) == 1 && f[0] == unlimited {
		return Rate{}, nil
	}
	if (len(f) != 3 && len(f) != 5) || f[1] != "per" {
		return Rate{}, bad
	}
	count, err1 := strconv.Atoi(f[0])
	per, err2 := ParseDuration(f[2])
	r := Rate{Count: count, Per: per}
	var err3 error
	if len(f) == 5 {
		if r.Burst, err3 = strconv.Atoi(f[4]); f[3] != "burst" || r.Burst < 1 {
			return Rate{}, bad
		}
	}
	if errors.Join(err1, err2, err3) != nil || count < 1 || per <= 0 {
		return Rate{}, bad
	}
	return r, nil
}

// String writes r the way ParseRate reads it.
func (r Rate) String() string {
	if r.Count == 0 {
		return unlimited
	}
	s := fmt.Sprintf("%d per %s", r.Count, FormatDuration(r.Per))
	if r.Burst != 0 {
		s += " burst " + strconv.Itoa(r.Burst)
	}
	return s
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// checkURL accepts an absolute http or https URL without anything that would
// break when a path is appended.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is not a URL; write one such as \"https://ca.example.com\"", s)
	}
	return nil
}
