package main

import (
	"os"
	"testing"
)

// TestMain lets the test binary stand in for tunefleet: workers, ranks and servers that the tests start are this binary with other arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1][0] != '-' {
		os.Exit(realMain())
	}
	os.Exit(m.Run())
}
