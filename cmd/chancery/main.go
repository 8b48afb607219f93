// Command chancery is a certificate authority, an ACME server, a renewal
// engine, a scanner and the control plane over them, in one program.
// `chancery help` shows the whole of it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version and revision are set by the linker in release builds.
var version, revision string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], env{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()})
	stop()
	os.Exit(code)
}
