//go:build !linux || !(amd64 || arm64)

package clockfault

import (
	"context"
	"errors"
)

var errPlatform = errors.New("the wall clock of one process can be moved on Linux (amd64, arm64) only")

// Unsupported says why this machine cannot do it.
func Unsupported() string { return errPlatform.Error() }

// Serve is not there on this platform.
func Serve(context.Context, string) error { return errPlatform }

// Enter is not there on this platform.
func Enter(string, string, string, []string, []string) error { return errPlatform }
