package chaostest_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/telemetry"
	"github.com/tunefleet/tunefleet/services/telemetry/otlptest"
)

const patience = 90 * time.Second

// until polls HEAD until cond holds.
func until(t *testing.T, s *connect.Services, spec *schemas.RunSpec, what string, cond func(h *schemas.Head) bool) *schemas.Head {
	t.Helper()
	heads := checkpoint.NewHeads(s.Objects, checkpoint.Config{})
	deadline := time.Now().Add(patience)
	var last *schemas.Head
	for time.Now().Before(deadline) {
		if h, _, err := heads.Read(t.Context(), spec.Tenant, spec.ID); err == nil {
			if last = h; cond(h) {
				return h
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("no %s within %s; HEAD: %+v", what, patience, last)
	return nil
}

func ended(h *schemas.Head) bool { return h.State.Terminal() }

// TestLosingTheStreamLosesNoRun wipes the broker's data under a running gang and under a stage whose messages are queued.
func TestLosingTheStreamLosesNoRun(t *testing.T) {
	t.Parallel()
	c, s := cell(t, calm, "worker-1", "worker-2")
	spec := chaostest.Spec(chaostest.Options{Steps: 150, CommitEvery: 10, StepDelayMS: 10, EvalSlices: 2})
	submit(t, s, spec)
	until(t, s, spec, "commit", func(h *schemas.Head) bool { return h.Step >= 20 })
	if err := c.Signal("nats", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.Dir, "nats")); err != nil {
		t.Fatal(err)
	}
	if err := c.Start("nats"); err != nil {
		t.Fatal(err)
	}
	h := until(t, s, spec, "end", ended)
	if l := sameAsUndisturbed(t, s, spec, h); l.Generations != 1 {
		t.Errorf("the gang formed %d times though no member was lost", l.Generations)
	}
}

// TestSigtermCommitsAndGivesTheSeatBack drains a worker process midway between two far commits: no step is repeated.
func TestSigtermCommitsAndGivesTheSeatBack(t *testing.T) {
	t.Parallel()
	c, s := cell(t, calm, "worker-1", "worker-2")
	spec := chaostest.Spec(chaostest.Options{Steps: 200, CommitEvery: 100_000, StepDelayMS: 10})
	submit(t, s, spec)
	until(t, s, spec, "generation", func(h *schemas.Head) bool { return len(h.Members) == 2 })
	awaitStep(t, s, spec, 20)
	if err := c.Start("worker-3"); err != nil {
		t.Fatal(err)
	}
	if !c.Stop("worker-1", 30*time.Second) {
		t.Fatal("the worker does not drain")
	}
	h := until(t, s, spec, "end", ended)
	l := sameAsUndisturbed(t, s, spec, h)
	if l.Commits != 2 || h.Ended[0].Cause != schemas.CausePreempted || h.Ended[0].Step < 20 {
		t.Errorf("%d commits, ended %+v", l.Commits, h.Ended)
	}
}

// TestFrozenWorkerIsReplacedAndFenced freezes an agent (SIGSTOP), as a hanging host does, while its rank trains on: the gang goes on with
// another, and the frozen one, woken up, touches nothing.
func TestFrozenWorkerIsReplacedAndFenced(t *testing.T) {
	t.Parallel()
	c, s := cell(t, nil, "worker-1", "worker-2")
	spec := chaostest.Spec(chaostest.Options{Steps: 150, CommitEvery: 10, StepDelayMS: 10})
	submit(t, s, spec)
	until(t, s, spec, "commit", func(h *schemas.Head) bool { return h.Step >= 20 })
	if err := c.Start("worker-3"); err != nil {
		t.Fatal(err)
	}
	if err := c.Signal("worker-1", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, s, spec, "generation without the frozen worker", func(h *schemas.Head) bool {
		return h.Generation > 1 && len(h.Members) == 2 && !slices.ContainsFunc(h.Members, func(m schemas.Member) bool { return m.Worker == "worker-1" })
	})
	if err := c.Signal("worker-1", syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	sameAsUndisturbed(t, s, spec, until(t, s, spec, "end", ended))
}

// awaitStep waits for a step in the live stream.
func awaitStep(t *testing.T, s *connect.Services, spec *schemas.RunSpec, step int64) {
	t.Helper()
	after := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		events, err := s.Leases.Tail(t.Context(), spec.Tenant, spec.ID, after, 100, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			after = e.ID
			if e.Event.Type == schemas.EventStep && e.Event.Step >= step {
				return
			}
		}
	}
	t.Fatalf("no step %d in the live stream", step)
}

// TestOneTraceFollowsTheRun exports the spans of all processes to one collector: submitter, control, agents and ranks share a trace.
func TestOneTraceFollowsTheRun(t *testing.T) {
	t.Parallel()
	sink := otlptest.Start(t)
	_, s := cell(t, sink.Env(), "worker-1", "worker-2")
	spec := chaostest.Spec(chaostest.Options{Steps: 20, CommitEvery: 10, EvalSlices: 1})
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var reply schemas.SubmitReply
	for reply.Run == "" {
		answer, err := s.Queue.Submit(ctx, raw, map[string]string{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01"})
		if err == nil {
			err = json.Unmarshal(answer, &reply)
		}
		if reply.Error != nil || ctx.Err() != nil {
			t.Fatalf("cannot submit: %v %v", err, reply.Error)
		}
	}
	spec.ID = reply.Run
	until(t, s, spec, "end", ended)
	// What must have been seen: span name, role of the process, how often at least.
	want := map[[2]string]int{
		{telemetry.SpanFront, "control"}: 1, {telemetry.SpanPublish, "control"}: 4, {telemetry.SpanProcess, "worker"}: 4, {telemetry.SpanForm, "worker"}: 1,
		{telemetry.SpanSegment, "rank"}: 2, {telemetry.SpanCommit, "rank"}: 2, {telemetry.SpanPart, "rank"}: 2,
	}
	var missing map[[2]string]int
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		missing = map[[2]string]int{}
		got := map[[2]string]int{}
		for _, sp := range sink.Spans() {
			if sp.TraceID == trace {
				got[[2]string{sp.Name, sp.Role}]++
				if sp.Name == telemetry.SpanProcess && len(sp.Links) == 0 {
					t.Errorf("span %q of a worker has no link to the message's publisher", sp.Name)
				}
			}
		}
		for k, n := range want {
			if got[k] < n {
				missing[k] = n - got[k]
			}
		}
		if len(missing) == 0 {
			return
		}
	}
	t.Fatalf("missing in the run's trace: %v; all spans: %+v", missing, sink.Spans())
}
