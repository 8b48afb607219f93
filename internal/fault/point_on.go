//go:build faultpoint

package fault

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	pointName, pointPass = parsePoint(os.Getenv("CHANCERY_FAULT_POINT"))
	passes               atomic.Int64
)

func parsePoint(s string) (string, int64) {
	name, n, _ := strings.Cut(s, ":")
	pass, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		pass = 1
	}
	return name, pass
}

// Point kills the process, as a power cut would stop it, when it passes the
// place that CHANCERY_FAULT_POINT names for the N-th time.
func Point(name string) {
	if name == pointName && passes.Add(1) == pointPass {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}
