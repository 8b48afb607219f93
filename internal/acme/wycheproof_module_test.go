//go:build wycheproof_module

package acme

// wycheproof_test.go reads the test vectors of Project Wycheproof (Apache-2.0)
// from the module cache. Importing the package would embed all 109 MB of them
// in the test binary, so this import, which is never built, only keeps the
// module in go.mod.
import _ "github.com/c2sp/wycheproof"
