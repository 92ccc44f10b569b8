// Package localrun runs the stages of a run in this process: the same handlers as workers run, over a store in memory and a gang of
// goroutines, without queue, leases or control. Verification uses it to compare whole runs with references.
package localrun

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// Input is a local file that the spec refers to by content.
type Input struct {
	// Local is the file's path on this machine.
	Local string
	File  schemas.File
}

// maxInput bounds an input file: all are held in memory.
const maxInput = 4 << 30

// Config of a run.
type Config struct {
	// Spec is validated and has its defaults; ID may be empty.
	Spec   *schemas.RunSpec
	Inputs []Input
	// Handlers by kind.
	Handlers map[schemas.StageKind]consume.Handler
	// Dir is scratch space, Threads the CPU threads of a rank (0: all).
	Dir     string
	Threads int
	Logger  *slog.Logger
	// Phase, when not nil, hears how far a stage is.
	Phase func(stage, name string, done, total int64)
}

// Run is a run whose stages are done one after the other.
type Run struct {
	cfg     Config
	objects store.Objects
	heads   *checkpoint.Heads
	gang    *Gang

	mu     sync.Mutex
	events []schemas.Event
}

// New stores spec and inputs, and makes the run's HEAD.
func New(ctx context.Context, c Config) (*Run, error) {
	if c.Spec.ID == "" {
		c.Spec.ID = "local"
	}
	c.Spec.FreezeDate(time.Now())
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	objects := memstore.New()
	r := &Run{cfg: c, objects: objects, heads: checkpoint.NewHeads(objects, checkpoint.Config{})}
	r.gang = &Gang{Heads: r.heads, Spec: c.Spec, Worker: "local"}
	for _, in := range c.Inputs {
		if err := r.upload(ctx, in); err != nil {
			return nil, err
		}
	}
	head := schemas.Head{Tenant: c.Spec.Tenant, Run: c.Spec.ID, State: schemas.RunRunning}
	for _, st := range c.Spec.Stages {
		head.Stages = append(head.Stages, schemas.StageState{Name: st.Name, Kind: st.Kind, State: schemas.StagePending})
	}
	if _, err := r.heads.Create(ctx, head); err != nil {
		return nil, fmt.Errorf("cannot create the run: %w", err)
	}
	raw, err := json.Marshal(c.Spec)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the spec: %w", err)
	}
	if _, err := objects.Put(ctx, schemas.SpecKey(c.Spec.Tenant, c.Spec.ID), raw, store.Condition{}); err != nil {
		return nil, fmt.Errorf("cannot store the spec: %w", err)
	}
	return r, nil
}

func (r *Run) upload(ctx context.Context, in Input) error {
	f, err := os.Open(in.Local)
	if err != nil {
		return schemas.Errorf(schemas.CodeNotFound, in.Local, "cannot open: %v", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxInput))
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", in.Local, err)
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != in.File.SHA256 {
		return schemas.Errorf(schemas.CodeConflict, in.Local, "the file changed while it was read")
	}
	if _, err := r.objects.Put(ctx, schemas.InputKey(r.cfg.Spec.Tenant, in.File.SHA256), raw, store.Condition{}); err != nil {
		return fmt.Errorf("cannot store %s: %w", in.Local, err)
	}
	return nil
}

// Objects is the store of the run.
func (r *Run) Objects() store.Objects { return r.objects }

// Spec is the run's spec.
func (r *Run) Spec() *schemas.RunSpec { return r.cfg.Spec }

// Events are what handlers reported so far, in order.
func (r *Run) Events() []schemas.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]schemas.Event(nil), r.events...)
}

// Stage runs one stage to its end. Stages must be run in the order of the spec.
func (r *Run) Stage(ctx context.Context, name string) error {
	st, err := r.cfg.Spec.StageOf(name)
	if err != nil {
		return err
	}
	h := r.cfg.Handlers[st.Kind]
	if h == nil {
		return schemas.Errorf(schemas.CodeInternal, name, "there is no handler for stages of kind %s", st.Kind)
	}
	switch st.Kind {
	case schemas.KindTrain:
		_, err := r.gang.Train(ctx, h, name, st.Train.World.Min, func() (*consume.Task, func() error, error) { return r.task(st, 0, 0) })
		return err
	case schemas.KindPrep:
		return r.parts(ctx, h, st, st.Prep.Parts, false)
	case schemas.KindEval:
		return r.parts(ctx, h, st, st.Eval.Slices, true)
	}
	return r.parts(ctx, h, st, 1, false)
}

// parts runs every part of a stage, and its reducer.
func (r *Run) parts(ctx context.Context, h consume.Handler, st *schemas.Stage, parts int, reduce bool) error {
	n := parts
	if reduce {
		n++
	}
	for part := range n {
		t, done, err := r.task(st, part, parts)
		if err != nil {
			return err
		}
		err = h(ctx, t)
		if err = errors.Join(err, done()); err != nil {
			return err
		}
	}
	return nil
}

// task makes a task with a scratch folder, which done removes.
func (r *Run) task(st *schemas.Stage, part, parts int) (t *consume.Task, done func() error, err error) {
	dir, err := os.MkdirTemp(r.cfg.Dir, "task-*")
	if err != nil {
		return nil, nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	spec := r.cfg.Spec
	t = &consume.Task{Message: schemas.Message{Version: 1, Kind: st.Kind, Pool: spec.Pool, Tenant: spec.Tenant, Run: spec.ID, Stage: st.Name, Part: part, Parts: parts},
		Spec: spec, Stage: st, Objects: r.objects, Logger: r.cfg.Logger, Worker: "local", Dir: dir, Threads: r.cfg.Threads,
		Phase: func(name string, n, total int64) {
			if r.cfg.Phase != nil {
				r.cfg.Phase(st.Name, name, n, total)
			}
		},
		Report: func(e schemas.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
		}}
	return t, func() error { return os.RemoveAll(dir) }, nil
}
