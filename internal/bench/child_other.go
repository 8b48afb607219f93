//go:build !linux

package bench

import "syscall"

// dieWithParent keeps an interrupt at the terminal from the child; it is ended
// by its owner.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
