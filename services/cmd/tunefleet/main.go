// Command tunefleet submits fine-tuning runs, follows them, and runs every part of the system: workers, control, API and, on one
// machine, the embedded servers.
//
// Data goes to standard output, everything said about it to standard error. Exit codes are those of schemas.ExitCodes.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(realMain())
}

func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}
