//go:build !unix

package scan

// openFiles is how many descriptors this process may have: without a limit to
// ask for, enough not to matter.
func openFiles() uint64 { return 1 << 20 }
