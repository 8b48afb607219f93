//go:build !race

package httpd

const overwrite = false

var spoiled []byte
