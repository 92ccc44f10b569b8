package verify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Options of a verification.
type Options struct {
	// Emit, when not empty, is a folder that receives what was computed, in the layout of the fixture.
	Emit string
	// Base overrides the base model's folder (train).
	Base string
	// Runs names the run folders to verify; empty: all that this build trains (train).
	Runs []string
	// Threads of the CPU device, 0: all cores. Results do not depend on it.
	Threads int
	// Backend is empty, or a backend as kernels.Options has it.
	Backend string
	// Device is "cpu" (also when empty) or "cuda"; it counts when Backend is empty.
	Device string
	// Checkpoint recomputes blocks in the backward pass. Results do not depend on it.
	Checkpoint bool
	// DType of activations and products: fp32 (the default), bf16 or fp16 (verify model only), whose references are fp32: logits and loss have
	// wider limits, and gradients are reported without one.
	DType string
	// Progress, when not nil, is called as work goes on.
	Progress func(what string, done, total int)
}

// device refuses what is no device, or not there.
func (o Options) device() error {
	switch o.Device {
	case "", kernels.CPU:
		return nil
	case kernels.CUDA:
		if o.Backend != "" {
			return nil
		}
		d, err := kernels.Open(kernels.Options{Backend: kernels.CUDA})
		if err != nil {
			return schemas.Errorf(schemas.CodeUnsupported, "device", "%v", err).WithHint("tunefleet doctor says what is there")
		}
		return d.Close()
	}
	return schemas.Errorf(schemas.CodeInvalid, "device", "%q is neither cpu nor cuda", o.Device)
}

func (o Options) progress(what string, done, total int) {
	if o.Progress != nil {
		o.Progress(what, done, total)
	}
}

// compute is the element type that DType names.
func (o Options) compute() (kernels.DType, error) {
	switch o.DType {
	case "", "fp32":
		return kernels.F32, nil
	case "bf16":
		return kernels.BF16, nil
	case "fp16":
		return kernels.F16, nil
	}
	return 0, schemas.Errorf(schemas.CodeInvalid, "dtype", "%q is none of fp32, bf16 and fp16", o.DType)
}

// session is a model with its storage on a device.
type session struct {
	dev     *kernels.Device
	queue   *kernels.Queue
	mem     *autograd.Memory
	tape    *autograd.Tape
	model   zoo.Model
	storage *nn.Storage
	lora    *adapter.Adapters
	step    stepper
}

// openSession loads the model of a folder. prepare, when not nil, changes the module tree (adapters, freezing) before storage exists.
func openSession(ctx context.Context, root *os.Root, o Options, prepare func(*session) error) (s *session, err error) {
	s = &session{}
	compute, err := o.compute()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	if s.model, err = openReference(root); err != nil {
		return nil, err
	}
	base := nn.Params(s.model.Root())
	if prepare != nil {
		if err = prepare(s); err != nil {
			return nil, err
		}
	}
	set, err := zoo.OpenWeights(root, s.model.Info())
	if err != nil {
		return nil, err
	}
	defer set.Close()
	if err = zoo.CheckWeights(s.model.Info(), base, set); err != nil {
		return nil, fmt.Errorf("cannot load model: %w", err)
	}
	if s.dev, err = kernels.Open(kernels.Options{Backend: cmp.Or(o.Backend, o.Device), Threads: o.Threads}); err != nil {
		return nil, err
	}
	if s.queue, err = s.dev.NewQueue(kernels.Compute); err != nil {
		return nil, err
	}
	s.mem = autograd.NewMemory(s.dev, s.queue, 0)
	s.tape = autograd.New(s.mem, autograd.Config{Checkpoint: o.Checkpoint, Compute: compute})
	if s.storage, err = nn.NewStorage(s.dev, s.queue, s.model.Units(), true); err != nil {
		return nil, err
	}
	return s, nn.Load(ctx, s.queue, base, set)
}

// openReference makes the model as the references were made: with transformers' eager attention, unless the configuration says otherwise.
func openReference(root *os.Root) (zoo.Model, error) {
	raw, err := zoo.ReadConfig(root)
	if err != nil {
		return nil, err
	}
	const key = "attn_implementation"
	var c map[string]json.RawMessage
	if json.Unmarshal(raw, &c) == nil && c[key] == nil {
		if raw, err = zoo.Override(raw, map[string]any{key: "eager"}); err != nil {
			return nil, err
		}
	}
	return zoo.New(raw)
}

func (s *session) close() error {
	if s == nil || s.dev == nil {
		return nil
	}
	var err error
	if s.step != nil {
		err = s.step.close()
	}
	if s.mem != nil {
		err = errors.Join(err, s.mem.Close())
	}
	s.storage.Close()
	if cerr := s.dev.Close(); err == nil {
		err = cerr
	}
	return err
}

// trainable lists the parameters that get gradients, in unit order.
func (s *session) trainable() []*nn.Param {
	var out []*nn.Param
	for _, u := range s.model.Units() {
		for _, p := range u.Params {
			if !p.Frozen {
				out = append(out, p)
			}
		}
	}
	return out
}

// logits computes [rows*seq, vocab] of a batch.
func (s *session) logits(ctx context.Context, b batch) ([]float32, error) {
	s.tape.Reset(ctx, false)
	return s.tape.Read(s.model.Logits(s.tape, b.leaf()))
}

// leaf converts a batch for the engine.
func (b batch) leaf() *nn.Batch {
	l := &nn.Batch{Rows: b.rows, Seq: b.seq}
	for i := range b.ids {
		l.IDs = append(l.IDs, int32(b.ids[i]))
		l.Labels = append(l.Labels, int32(b.labels[i]))
		l.Mask = append(l.Mask, uint8(min(1, max(0, b.mask[i]))))
	}
	for _, p := range b.positions {
		l.Positions = append(l.Positions, int32(p))
	}
	return l
}

// openRoot opens a user's folder.
func openRoot(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, dir, "cannot open folder: %v", schemas.Reason(err))
	}
	return root, nil
}

// emitter writes results below a folder.
type emitter struct {
	root *os.Root
	rep  *Report
}

func newEmitter(dir string, rep *Report) (*emitter, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make output folder: %w", err)
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	return &emitter{root: root, rep: rep}, nil
}

func (e *emitter) close() {
	if e != nil {
		e.root.Close()
	}
}

func (e *emitter) tensors(name string, entries []safetensors.Entry) error {
	if err := safetensors.WriteFile(e.root, name, entries, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	e.rep.Emitted = append(e.rep.Emitted, name)
	return nil
}
