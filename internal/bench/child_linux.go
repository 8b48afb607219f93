package bench

import "syscall"

// dieWithParent makes the kernel end a child when this process ends, however.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
