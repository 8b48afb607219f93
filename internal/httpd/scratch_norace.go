//go:build !race

package httpd

var spoiled []byte // nothing is overwritten
