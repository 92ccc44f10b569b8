package main

import (
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/export"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
)

// handlers are the stages that a rank process can run.
func handlers() map[schemas.StageKind]consume.Handler {
	return map[schemas.StageKind]consume.Handler{
		schemas.KindPrep:   prep.Handle,
		schemas.KindTrain:  train.NewHandler(train.Options{Answers: evaluate.TrainAnswers}),
		schemas.KindEval:   evaluate.Handle,
		schemas.KindExport: export.Handle,
	}
}
