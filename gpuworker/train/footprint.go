package train

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Footprint is what the rank with the most of a training gang takes of its device, in bytes.
type Footprint struct {
	World int `json:"world"`
	// Sharding is the mode, Why how it was chosen.
	Sharding string `json:"sharding"`
	Why      string `json:"why"`
	// Parameters counts the base model's elements, Trainable those that are trained.
	Parameters int64 `json:"parameters"`
	Trainable  int64 `json:"trainable"`
	// Weights, Gradients and Optimizer are held all the time; Window is the most that gathered units and passing gradients take.
	Weights   int64 `json:"weights"`
	Gradients int64 `json:"gradients"`
	Optimizer int64 `json:"optimizer"`
	Window    int64 `json:"window"`
	// Activations are what the pass of a leaf holds at its worst moment, with their gradients; Workspace is the kernels'.
	Activations int64 `json:"activations"`
	Workspace   int64 `json:"workspace"`
	// Staging is host memory that exchanges between ranks go through; it is part of the Go heap.
	Staging int64 `json:"staging"`
	// Host is memory of the machine beside its device: the optimizer's state, and what an update goes through, where they are offloaded.
	Host int64 `json:"host,omitempty"`
	// HostActivations is the same of the inputs of blocks.
	HostActivations int64 `json:"host_activations,omitempty"`
	// Peak is the most that was allocated at once, which is not the sum: the parts peak at different moments.
	Peak int64 `json:"peak"`
	// Threads is what the device's threads on this machine hold beside that, scratch and stacks; 0 for accelerators.
	Threads int64 `json:"threads"`
}

// MeasureConfig says what to measure.
type MeasureConfig struct {
	// Stage is the train stage, Model the base's config.json.
	Stage *schemas.TrainStage
	Model []byte
	// World is the number of ranks, Seq the tokens of a sequence; a leaf has Stage.MicroBatch sequences.
	World, Seq int
	// Recompute keeps only the input of each block and computes it again in the backward pass, as it always is where these are offloaded.
	Recompute bool
	// Backend of the device, as kernels.Options has it; empty is the CPU.
	Backend string
	// Progress is told what the step does and how far that is, of a total in the same unit (elements, leaves); nil for nobody.
	Progress func(what string, done, total int64)
}

// tell reports progress to whom it may concern.
func (c *MeasureConfig) tell(what string, done, total int64) {
	if c.Progress != nil {
		c.Progress(what, done, total)
	}
}

// Measure runs one optimizer step of a stage on a device without memory: the code that trains, with allocations counted and operations left
// out. Objectives with a reference or reward model are measured without it. Errors: what training would refuse.
func Measure(ctx context.Context, c MeasureConfig) (f Footprint, err error) {
	if p := c.Stage.Pad; p != nil {
		c.Seq = padLength(p, c.Seq)
	}
	dev, err := kernels.Open(kernels.Options{Backend: c.Backend, Counting: true})
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	f, err = MeasureOn(ctx, dev, c)
	if err != nil {
		return f, fmt.Errorf("cannot measure: %w", err)
	}
	return f, nil
}

// Bounds of what is measured. The step is taken apart as training takes it apart, by chunks of 4,096 elements and by tokens, of which each costs
// some bytes of the machine that counts: about a tenth of a GiB per 10 billion parameters, and half a GiB per million tokens.
const (
	maxParameters = 1 << 40 // elements of a model
	maxLeafTokens = 1 << 22 // of one leaf
)

// bounded refuses what would take hours and all of the machine's memory to count, or more than an int64 to tell.
func (c *MeasureConfig) bounded(params []*autograd.Param) error {
	elements := 0.0
	for _, p := range params {
		n := 1.0
		for _, d := range p.Shape {
			n *= float64(d)
		}
		elements += n
	}
	if elements > maxParameters {
		return schemas.Errorf(schemas.CodeUnsupported, "config.json", "a model of %.3g parameters is more than the %.3g that are planned", elements, float64(maxParameters)).
			WithHint("are vocab_size, hidden_size, num_hidden_layers and the number of experts what they should be?")
	}
	if tokens := float64(max(1, c.Stage.MicroBatch)) * float64(c.Seq); tokens > maxLeafTokens {
		return schemas.Errorf(schemas.CodeUnsupported, "micro_batch", "a leaf of %d sequences of %d tokens is more than the %d tokens that are planned", max(1, c.Stage.MicroBatch), c.Seq, maxLeafTokens).
			WithHint("a leaf is what one pass holds at once; a larger batch is more leaves, which take no more memory")
	}
	return nil
}

// MeasureOn runs the step of Measure on any device: on one with memory it is a real step, of weights drawn at random, tokens that are all 0
// and, where World is more than 1, whatever the buffers hold in place of what other ranks send.
func MeasureOn(ctx context.Context, dev *kernels.Device, c MeasureConfig) (Footprint, error) {
	return measureRank(ctx, dev, c, silent{max(1, c.World)})
}

// measureRank runs one rank's step.
func measureRank(ctx context.Context, dev *kernels.Device, c MeasureConfig, comm zero.Collective) (f Footprint, err error) {
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return f, err
	}
	model, err := zoo.New(c.Model)
	if err != nil {
		return f, err
	}
	ac, err := AdapterConfig(c.Stage, nil)
	if err != nil {
		return f, err
	}
	params := nn.Params(model.Root())
	if err := c.bounded(params); err != nil {
		return f, err
	}
	for _, p := range params {
		f.Parameters += p.Len()
	}
	if _, err := prepare(model, c.Stage, ac); err != nil {
		return f, err
	}
	units := model.Units()
	f.World = max(1, c.World)
	f.Sharding, f.Why = resolveSharding(c.Stage.Sharding, units, f.World)
	mem := autograd.NewMemory(dev, q, 0)
	defer func() { err = errors.Join(err, mem.Close()) }()
	engine, err := zero.New(q, units, comm, engineConfig(c.Stage, f.Sharding, optimizerOf(c.Stage, model.Info(), 0), mem))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	loaded := int64(0)
	err = engine.Load(ctx, func(_ context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		c.tell("weights", loaded, f.Parameters)
		loaded += dst.Numel()
		if dst.DType == kernels.F32 {
			nn.InitRange(q, p, dst, start, 0)
		} else {
			q.Fill(kernels.Fill{Y: dst}) // which values does not matter
		}
		return q.Err()
	})
	if err != nil {
		return f, err
	}
	off, err := openOffload(c.Stage, dev)
	if err != nil {
		return f, err
	}
	if off != nil {
		defer func() { err = errors.Join(err, off.Close()) }()
	}
	tape := autograd.New(mem, autograd.Config{Hooks: engine, Compute: computeType(c.Stage.DType), Checkpoint: c.Recompute || off != nil, Offload: off})
	if err := countStep(ctx, engine, tape, model, c, f.World); err != nil {
		return f, err
	}
	res := engine.Resident()
	f.Trainable = engine.Trainable()
	f.Host, _ = engine.OffloadBytes()
	if off != nil {
		f.HostActivations = off.HostBytes()
	}
	f.Weights, f.Gradients, f.Optimizer, f.Window, f.Staging = res.Params, res.Grads, res.Optimizer, res.Window, res.Staging
	f.Activations, f.Workspace, f.Peak, f.Threads = mem.Peak(), q.Workspace(), dev.Peak(), dev.ThreadMemory()
	return f, q.Sync()
}

// openOffload is where a stage keeps the inputs of blocks if not on the device: nil where it does not, or where the device's memory is the
// host's. A counting device stands for one with memory of its own.
func openOffload(t *schemas.TrainStage, dev *kernels.Device) (*autograd.Offload, error) {
	if !t.OffloadActivations || dev.SharesHost() && !dev.Counting() {
		return nil, nil
	}
	return autograd.NewOffload(dev)
}

// countStep runs up to two leaves a rank, as the second one adds to what the first one left, and the update.
func countStep(ctx context.Context, e *zero.Engine, tape *autograd.Tape, m zoo.Model, c MeasureConfig, world int) error {
	rows := max(1, c.Stage.MicroBatch)
	ids := make([]int32, rows*c.Seq)
	batch := &nn.Batch{Rows: rows, Seq: c.Seq, IDs: ids, Labels: ids}
	switch c.Stage.Objective {
	case "dpo", "kto", "ppo", "grpo": // train without dropout
	default:
		tape.SetNoise(&autograd.Noise{IDs: make([]int64, len(ids))})
	}
	leaves := max(world, c.Stage.Leaves)
	if c.Stage.Reduction == "fast" {
		leaves = min(leaves, 2*world) // the last leaf brings the exchange
	}
	pass := func(micro int, s zero.Stream) error {
		e.Stream(s)
		if err := e.BeginLeaf(micro, leaves); err != nil {
			return err
		}
		_, err := objective.Backward(ctx, tape, m, batch, batch.LabelTokens())
		if err != nil && !schemas.IsCode(err, schemas.CodeNumeric) { // weights are whatever they are
			return err
		}
		return e.EndLeaf(ctx)
	}
	streams := e.Streams(leaves)
	passes := min(2, (leaves+world-1)/world)
	for micro := range passes {
		c.tell("forward and backward pass", int64(micro), int64(passes))
		if err := pass(micro, zero.Stream{Norms: streams}); err != nil {
			return err
		}
	}
	c.tell("update", 0, 1)
	sumsq, _, err := e.Finish(ctx, nil)
	if err != nil {
		return err
	}
	u := optim.Step{N: 1, Clip: zero.ClipFactor(zero.Norm(sumsq), c.Stage.Optim.MaxGradNorm)}
	if streams {
		return pass(0, zero.Stream{Update: &u})
	}
	return e.Update(ctx, u.LR, u.N, u.Clip)
}

// silent is the collective of rank 0 in a world where nothing is sent: what is received is whatever the buffers hold.
type silent struct{ world int }

// Rank implements zero.Collective.
func (silent) Rank() int { return 0 }

// World implements zero.Collective.
func (s silent) World() int { return s.world }

// AllToAll implements zero.Collective.
func (silent) AllToAll(context.Context, [][]byte, [][]byte) error { return nil }

// AllGather implements zero.Collective. Sizes travel in the real one; here every rank has what rank 0 sends.
func (silent) AllGather(_ context.Context, send []byte, recv [][]byte) error {
	for _, r := range recv {
		copy(r, send)
	}
	return nil
}

// autoMargin is the share of the device's free memory that "auto" plans with: the rest is for what is not counted, such as host buffers.
const autoMargin = 0.85

// recompute says whether blocks are computed again in the backward pass, and why.
func (s *session) recompute(ctx context.Context, model []byte) (bool, string) {
	switch s.stage.Recompute {
	case "on":
		return true, "the spec says so"
	case "off":
		return false, "the spec says so"
	}
	if s.offload != nil {
		return true, "the inputs of blocks are in the host's memory"
	}
	info, err := s.dev.Info()
	if err != nil || info.MemoryFree <= 0 {
		return false, "the device does not tell its memory"
	}
	seq := cutoffOf(s.t.Spec, s.stage.Data)
	if seq == 0 {
		return false, "the length of the sequences is not known"
	}
	leaf := *s.stage
	leaf.MicroBatch *= groupOf(s.data) // pairs are two sequences each
	leaf.OffloadActivations = false
	f, err := Measure(ctx, MeasureConfig{Stage: &leaf, Model: model, World: s.t.Gang.World, Seq: seq})
	if err != nil {
		return false, "its memory cannot be measured: " + err.Error()
	}
	// The weights are there already: what is free has to hold the rest.
	need, have := f.Peak-f.Weights-f.Gradients-f.Optimizer, int64(autoMargin*float64(info.MemoryFree))
	if need <= have {
		return false, fmt.Sprintf("%d bytes of activations fit the %d free", need, have)
	}
	return true, fmt.Sprintf("%d bytes of activations are more than the %d free", need, have)
}

// cutoffOf is the most tokens of a sequence of a data set that a prep stage of the run wrote, 0 when it is none of these.
func cutoffOf(spec *schemas.RunSpec, ref string) int {
	name, output, _ := strings.Cut(ref, "/")
	st, err := spec.StageOf(name)
	if err != nil || st.Prep == nil {
		return 0
	}
	for _, o := range st.Prep.Outputs {
		if o.Name == output {
			return o.CutoffLen
		}
	}
	return 0
}
