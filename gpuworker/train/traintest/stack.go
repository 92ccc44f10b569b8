// Package traintest runs the stages of a run in one process, over a store in memory and gangs of goroutines, for tests of the handlers.
package traintest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// Stack is one run.
type Stack struct {
	T       testing.TB
	Objects store.Objects
	Heads   *checkpoint.Heads
	Spec    *schemas.RunSpec
	Threads int

	gang *localrun.Gang
}

// New makes a run of tenant acme; add its stages with Start.
func New(t testing.TB) *Stack {
	objects := memstore.New()
	return &Stack{T: t, Objects: objects, Heads: checkpoint.NewHeads(objects, checkpoint.Config{}), Threads: 1,
		Spec: &schemas.RunSpec{Version: 1, ID: "r1", Tenant: "acme", Pool: "cpu", Seed: 7}}
}

// Upload stores an input file.
func (s *Stack) Upload(path string, raw []byte) schemas.File {
	s.T.Helper()
	sum := sha256.Sum256(raw)
	f := schemas.File{Path: path, SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(raw))}
	if _, err := s.Objects.Put(s.T.Context(), schemas.InputKey(s.Spec.Tenant, f.SHA256), raw, store.Condition{}); err != nil {
		s.T.Fatal(err)
	}
	return f
}

// Start creates HEAD for the stages and stores the spec beside it.
func (s *Stack) Start(stages ...schemas.Stage) {
	s.T.Helper()
	s.Spec.Stages = stages
	head := schemas.Head{Tenant: s.Spec.Tenant, Run: s.Spec.ID, State: schemas.RunRunning}
	for _, st := range stages {
		head.Stages = append(head.Stages, schemas.StageState{Name: st.Name, Kind: st.Kind, State: schemas.StagePending})
	}
	if _, err := s.Heads.Create(s.T.Context(), head); err != nil {
		s.T.Fatal(err)
	}
	raw, err := json.Marshal(s.Spec)
	if err != nil {
		s.T.Fatal(err)
	}
	if _, err := s.Objects.Put(s.T.Context(), schemas.SpecKey(s.Spec.Tenant, s.Spec.ID), raw, store.Condition{}); err != nil {
		s.T.Fatal(err)
	}
}

// Task is a task of a stage without a gang.
func (s *Stack) Task(stage string, part, parts int) *consume.Task {
	s.T.Helper()
	st, err := s.Spec.StageOf(stage)
	if err != nil {
		s.T.Fatal(err)
	}
	return &consume.Task{Message: schemas.Message{Version: 1, Kind: st.Kind, Pool: s.Spec.Pool, Tenant: s.Spec.Tenant, Run: s.Spec.ID, Stage: stage, Part: part, Parts: parts},
		Spec: s.Spec, Stage: st, Objects: s.Objects, Logger: slog.New(slog.DiscardHandler), Worker: "w", Dir: s.T.TempDir(), Threads: s.Threads,
		Phase: func(string, int64, int64) {}, Report: func(schemas.Event) {}}
}

// Part runs one part of a stage and returns its result.
func (s *Stack) Part(h consume.Handler, stage string, part, parts int) *schemas.StageResult {
	s.T.Helper()
	if err := h(s.T.Context(), s.Task(stage, part, parts)); err != nil {
		s.T.Fatalf("part %d of stage %s: %v", part, stage, err)
	}
	raw, _, err := s.Objects.Get(s.T.Context(), schemas.ResultKey(s.Spec.Tenant, s.Spec.ID, stage, part), 16<<20)
	if err != nil {
		s.T.Fatal(err)
	}
	var r schemas.StageResult
	if err := json.Unmarshal(raw, &r); err != nil {
		s.T.Fatal(err)
	}
	return &r
}

// Train runs a whole train stage on a gang of goroutines and returns its final manifest.
func (s *Stack) Train(h consume.Handler, stage string, world int) *schemas.Manifest {
	s.T.Helper()
	ctx := s.T.Context()
	if s.gang == nil {
		s.gang = &localrun.Gang{Heads: s.Heads, Spec: s.Spec, Worker: "w"}
	}
	head, err := s.gang.Train(ctx, h, stage, world, func() (*consume.Task, func() error, error) {
		return s.Task(stage, 0, 0), func() error { return nil }, nil
	})
	if err != nil {
		s.T.Fatalf("stage %s: %v", stage, err)
	}
	m, err := checkpoint.ReadManifest(ctx, s.Objects, *head.Manifest)
	if err != nil {
		s.T.Fatal(err)
	}
	return m
}
