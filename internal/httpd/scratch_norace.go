//go:build !race

package httpd

const overwrite = false
