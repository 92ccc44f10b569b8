package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/kernels"
)

// graphsVariable chooses how the CUDA backend submits what comes again and again (kernels/cuda/graph.cu).
const graphsVariable = "TUNEFLEET_CUDA_GRAPHS"

// graphsResult is a training of the toy with one choice.
type graphsResult struct {
	Graphs string `json:"graphs"` // off, auto or on
	// StepMS is the median of the second half of the steps.
	StepMS float64             `json:"step_ms"`
	Counts kernels.GraphCounts `json:"counts"`
	Hash   string              `json:"hash"`
	// Same: the weights are those of training without graphs.
	Same  bool   `json:"same"`
	Error string `json:"error,omitempty"`
}

// graphs trains a toy without recorded graphs, with them where they are faster, and with them everywhere: the weights have to have the same
// bits. On a backend without graphs all of it is one way.
func (c *checker) graphs(ctx context.Context, _ []string) (err error) {
	before, set := os.LookupEnv(graphsVariable)
	defer func() {
		if set {
			err = errors.Join(err, os.Setenv(graphsVariable, before))
		} else {
			err = errors.Join(err, os.Unsetenv(graphsVariable))
		}
	}()
	want := ""
	for _, choice := range []string{"off", "auto", "on"} {
		if err := os.Setenv(graphsVariable, choice); err != nil {
			return err
		}
		r := c.graphsOnce(ctx, choice)
		if choice == "off" {
			want = r.Hash
		}
		r.Same = r.Error == "" && r.Hash == want
		if r.Same && choice == "on" && c.backend != "cpu" && r.Counts.Launches == 0 {
			r.Error = fmt.Sprintf("no graph was launched, %d sequences could not be recorded", r.Counts.Refused)
		}
		c.line(r, r.Same && r.Error == "")
	}
	return nil
}

func (c *checker) graphsOnce(ctx context.Context, choice string) graphsResult {
	r := graphsResult{Graphs: choice}
	var took []time.Duration
	host := collective.NewLocal(1)[0]
	var err error
	r.Hash, _, err = trainToy(ctx, kernels.Options{Backend: c.backend, Threads: 1}, host, toy{steps: c.steps, seq: 16, told: func(q *kernels.Queue, step int, d time.Duration) {
		r.Counts = q.Graphs()
		if step >= c.steps/2 {
			took = append(took, d)
		}
	}})
	if err = errors.Join(err, host.Close()); err != nil {
		r.Error = err.Error()
		return r
	}
	slices.Sort(took)
	r.StepMS = float64(took[len(took)/2].Microseconds()) / 1000
	return r
}
