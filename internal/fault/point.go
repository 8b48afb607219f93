//go:build !faultpoint

package fault

// Point marks a place where a crash test may kill the process. In a normal
// build it is nothing; with the build tag "faultpoint" the environment variable
// CHANCERY_FAULT_POINT=NAME[:N] kills the process at the N-th pass (see
// point_on.go).
func Point(string) {}
