//go:build unix

package scan

import "syscall"

// openFiles is how many descriptors this process may have. The Go runtime has
// raised the soft limit to the hard one already.
func openFiles() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return uint64(l.Cur)
}
