//go:build race

package httpd

// overwrite destroys the memory of a request when it is done, so that tests
// find who keeps some of it.
const overwrite = true
