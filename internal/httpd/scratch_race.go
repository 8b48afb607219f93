//go:build race

package httpd

import "bytes"

// overwrite destroys the memory of a request when it is done, so that tests
// find who keeps some of it.
const overwrite = true

// spoiled is what it is overwritten with.
var spoiled = bytes.Repeat([]byte{0xdd}, scratchSize)
