//go:build race

package httpd

import "bytes"

// spoiled is what the memory of a request that is done is overwritten with, so
// that tests find who keeps some of it.
var spoiled = bytes.Repeat([]byte{0xdd}, scratchSize)
