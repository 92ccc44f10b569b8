package main

import (
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
)

// handlers are the stages that a rank process can run.
func handlers() map[schemas.StageKind]consume.Handler {
	return map[schemas.StageKind]consume.Handler{}
}
