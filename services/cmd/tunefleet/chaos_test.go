package main

import (
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/chaos"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestChaosExitCode: what did not hold ends the command with 1.
func TestChaosExitCode(t *testing.T) {
	if err := chaosVerdict(&chaos.Result{OK: true}, chaos.Options{}); err != nil {
		t.Error(err)
	}
	err := chaosVerdict(&chaos.Result{}, chaos.Options{Seed: 3, Out: "out"})
	if err == nil || schemas.AsErrorInfo(err).ExitCode() != 1 {
		t.Errorf("%v", err)
	}
}
