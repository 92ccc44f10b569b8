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

	"github.com/redis/go-redis/v9"
)

func main() {
	os.Exit(realMain())
}

func realMain() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	redis.SetLogger(quietRedis{})
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// quietRedis takes the place of the Redis client's own logger: it writes a line past --log-level for each dial that fails, a few a second. What
// it means for the work is told by those who ask.
type quietRedis struct{}

// Printf drops the line.
func (quietRedis) Printf(context.Context, string, ...any) {}
