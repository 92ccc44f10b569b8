package train

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// autoNoneBytes is the replicated state (16 bytes a trainable parameter, 4 or 2 a frozen one) up to which "auto" does not shard.
const autoNoneBytes = 1 << 30

// Options of a handler.
type Options struct {
	// Backend of the device, as kernels.Options has it; empty is the task's.
	Backend string
	// OpenData opens the token data that a train stage names; nil reads what the prep stages of the run wrote.
	OpenData func(ctx context.Context, t *consume.Task, ref string) (Dataset, error)
	// Reward, when not nil, scores completions in place of the reward function that a ppo or grpo stage names.
	Reward RewardFunc
	// Answers opens what scores the answers to an evaluation set, where a stage evaluates by generating; nil: such stages are refused.
	Answers func(ctx context.Context, t *consume.Task, ref string) (Answers, error)
}

// Answers scores what a model answers to the prompts of an evaluation set.
type Answers interface {
	// Stops are the ids that end an answer.
	Stops() []int32
	// Score compares answers with the references, row by row; the names of the values begin with prefix.
	Score(prefix string, answers, references [][]int32) (map[string]float64, error)
}

// Handle runs one rank of a generation of a train stage on the task's device. It returns as consume.Handler says.
func Handle(ctx context.Context, t *consume.Task) error { return NewHandler(Options{})(ctx, t) }

// NewHandler makes a handler for a device.
func NewHandler(o Options) consume.Handler {
	if o.OpenData == nil {
		o.OpenData = openDataset
	}
	return func(ctx context.Context, t *consume.Task) (err error) {
		if t.Stage.Train == nil || t.Gang == nil {
			return schemas.Errorf(schemas.CodeInternal, t.Message.Stage, "a train message came without a train stage or a gang")
		}
		if head := t.Gang.Head; head != nil && head.Manifest != nil && head.Manifest.Stage == t.Message.Stage && head.Manifest.Final {
			return nil
		}
		s := &session{t: t, stage: t.Stage.Train, time: consume.NewStopwatch(schemas.TimeLoad)}
		if s.metrics, err = telemetry.NewTrainMetrics(telemetry.Meter()); err != nil {
			return fmt.Errorf("cannot create the instruments of training: %w", err)
		}
		defer func() {
			err = exchange.Explain(s.exchange, err)
			err = errors.Join(err, s.close(err))
		}()
		if err := s.open(ctx, o); err != nil {
			return err
		}
		return s.run(ctx)
	}
}

// session is one rank's work on one generation.
type session struct {
	t     *consume.Task
	stage *schemas.TrainStage

	dev      *kernels.Device
	queue    *kernels.Queue
	exchange exchange.Collective // nil where ranks exchange through the host
	memory   *autograd.Memory
	tape     *autograd.Tape
	offload  *autograd.Offload // nil where inputs of blocks stay on the device
	model    zoo.Model
	adapters *adapter.Adapters // nil without
	engine   *zero.Engine
	// head reads values (rm, ppo); reference is what preference losses compare with. Both may be nil.
	head       *objective.ValueHead
	headValues map[string][]float32 // given initial values
	reference  *reference
	goal       goal
	data       Dataset
	evals      []evalSet
	plan       *Planner
	schedule   optim.Schedule
	commits    *committer
	cadence    *cadence
	log        segmentLog
	metrics    *telemetry.TrainMetrics
	// time divides this rank's time between causes; rank 0's goes with its commits.
	time *consume.Stopwatch

	done int64 // finished steps
	// snapped is the step of the newest snapshot, or where the generation began.
	snapped int64
	// exceeded: it was said that a loss costs more than it may.
	exceeded bool
	// snapBytes is the size of this rank's part of a checkpoint.
	snapBytes int64
	step      int64 // the step being computed, from 0
	// watch remembers steps and evaluations.
	watch watch
	// evaluated is the step of the newest evaluation, evalValues what it gave.
	evaluated  int64
	evalValues map[string]float64
	meta       []byte
	seqs       []Sequence
	// flosPerToken is what transformers takes a trained position to cost: six operations a parameter outside of embeddings; 0 for a model
	// with a value head, of which it does not know.
	flosPerToken float64
}

// close frees what the session holds; cause is why it ends, nil when all is done.
func (s *session) close(cause error) error {
	var errs []error
	if s.exchange != nil {
		errs = append(errs, s.exchange.Close(cause)) // first: what waits for another rank would be waited for
	}
	if s.commits != nil {
		s.commits.close()
	}
	if s.queue != nil {
		if c := s.queue.Graphs(); c.Made > 0 || c.Refused > 0 {
			s.t.Logger.Info("recorded graphs", "made", c.Made, "slower", c.Slower, "refused", c.Refused, "launches", c.Launches, "operations", c.Operations, "of", s.queue.Operations())
		}
	}
	if s.engine != nil {
		if on, why := s.engine.Overlap(); s.t.Gang.World > 1 {
			s.t.Logger.Info("exchanges", "overlap", on, "why", why)
		}
		s.engine.Reset()
		errs = append(errs, s.engine.Close())
	}
	errs = append(errs, s.reference.close(), s.closeCritic())
	if s.offload != nil {
		errs = append(errs, s.offload.Close())
	}
	if s.memory != nil {
		errs = append(errs, s.memory.Close())
	}
	if s.data != nil {
		errs = append(errs, s.data.Close())
	}
	for _, e := range s.evals {
		errs = append(errs, e.data.Close())
	}
	if s.dev != nil {
		errs = append(errs, s.dev.Close())
	}
	return errors.Join(errs...)
}

// open loads data, model and the newest commit.
func (s *session) open(ctx context.Context, o Options) (err error) {
	s.commits = newCommitter(ctx, s.t, s.metrics)
	s.cadence = newCadence(s.stage, s.t.Gang.Head, s.t.Gang.World)
	s.t.Phase(consume.PhaseLoad, 0, 0)
	if s.data, err = o.OpenData(ctx, s.t, s.stage.Data); err != nil {
		return err
	}
	if err := s.openEvals(ctx, o); err != nil {
		return err
	}
	if s.plan, err = NewPlanner(s.t.Spec.Seed, s.data.Len()/groupOf(s.data), s.stage.MicroBatch, s.stage.Leaves, s.stage.Epochs, s.stage.Steps, s.stage.Order); err != nil {
		return schemas.Errorf(schemas.CodeData, s.stage.Data, "%v", err)
	}
	if d, ok := s.data.(interface{ Passes() []int }); ok {
		if err := s.plan.SetPasses(d.Passes()); err != nil {
			return err
		}
	}
	if err := s.planLengths(); err != nil {
		return err
	}
	if s.goal, err = s.newGoal(o.Reward); err != nil {
		return err
	}
	s.schedule = scheduleOf(s.stage.Optim, s.plan.Total())
	if err := s.schedule.Validate(); err != nil {
		return err
	}
	if s.dev, err = kernels.Open(kernels.Options{Backend: cmp.Or(o.Backend, s.t.Backend), Threads: s.t.Threads}); err != nil {
		return err
	}
	if s.queue, err = s.dev.NewQueue(kernels.Compute); err != nil {
		return err
	}
	if err := s.openExchange(ctx); err != nil {
		return err
	}
	if err := s.resolvePrecision(ctx); err != nil {
		return err
	}
	s.openScaler()
	if err := s.openModel(ctx); err != nil {
		return err
	}
	return s.resume(ctx)
}

// openModel makes the model and this rank's share of it, with the values that the stage starts from.
func (s *session) openModel(ctx context.Context) (err error) {
	rec, err := newResolver(s.t.Objects, s.t.Spec).start(ctx, s.t.Spec, s.t.Stage, 0)
	if err != nil {
		return err
	}
	rec.Next = s.t.Stage
	src, err := openSource(ctx, s.t.Objects, s.queue, rec, s.t.Dir, func(done, total int64) { s.t.Phase(consume.PhaseLoad, done, total) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	if s.model, err = zoo.New(rec.Config); err != nil {
		return err
	}
	if err := s.model.Info().Trainable(); err != nil {
		return fmt.Errorf("cannot train the base model: %w", err)
	}
	k := src.next()
	if err := skipMerged(rec.Config, k); err != nil {
		return err
	}
	if s.adapters, err = prepare(s.model, s.stage, k.adapter); err != nil {
		return err
	}
	var own adapter.Stored
	if k.resumed != nil {
		if err := k.resumed.file.Check(s.adapters); err != nil {
			return err
		}
		own = k.resumed.file
	}
	fill := src.filler(src.readers[len(src.readers)-1], s.adapters, own)
	units, err := s.addHead(ctx, k)
	if err != nil {
		return err
	}
	sharding, why := resolveSharding(s.stage.Sharding, units, s.t.Gang.World)
	s.flosPerToken = flosPerToken(units, s.head != nil)
	s.memory = autograd.NewMemory(s.dev, s.queue, 0)
	cfg := engineConfig(s.stage, sharding, optimizerOf(s.stage, s.model.Info(), s.t.Spec.Seed), s.memory)
	cfg.Devices, cfg.Hosts, cfg.HostThreads = s.devices(), s.hosts(), s.t.Threads
	s.engine, err = zero.New(s.queue, units, s.t.Gang.Collective, cfg)
	if err != nil {
		return err
	}
	if bytes, on := s.engine.OffloadBytes(); on {
		s.t.Logger.Info("the optimizer's state is in the host's memory", "host_bytes", bytes)
	} else if s.stage.Optim.Offload {
		s.t.Logger.Info("offload_optimizer changes nothing: the device's memory is the host's")
	}
	res := s.engine.Resident()
	s.t.Logger.Info("model is laid out", "sharding", sharding, "why", why, "trainable", s.engine.Trainable(), "resident_bytes", res.Total(), "world", s.t.Gang.World)
	var done int64
	err = s.engine.Load(ctx, func(ctx context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		err := s.fill(ctx, fill, p, start, dst)
		done += dst.Bytes()
		s.t.Phase(consume.PhaseLoad, done, res.Params)
		return err
	})
	if err != nil {
		return err
	}
	if s.offload, err = openOffload(s.stage, s.dev); err != nil {
		return err
	}
	if s.stage.OffloadActivations && s.offload == nil {
		s.t.Logger.Info("offload_activations changes nothing: the device's memory is the host's")
	}
	recompute, why := s.recompute(ctx, rec.Config)
	s.t.Logger.Info("activations", "recompute", recompute, "why", why)
	s.tape = autograd.New(s.memory, autograd.Config{Hooks: s.engine, Compute: computeType(s.stage.DType), Checkpoint: recompute, Offload: s.offload})
	if err := s.openReference(ctx, rec, src); err != nil {
		return err
	}
	if err := s.openCritic(ctx); err != nil {
		return err
	}
	return s.queue.Sync()
}

// engineConfig is how a stage's trained values are held and updated.
func engineConfig(t *schemas.TrainStage, sharding string, o optim.Config, scratch *autograd.Memory) zero.Config {
	c := zero.Config{Sharding: sharding, Optim: o, ByBlock: t.Optim.ByBlock, Scratch: scratch, Fast: t.Reduction == "fast", Offload: t.Optim.Offload}
	if t.PureBF16 {
		c.Store = kernels.BF16
	}
	return c
}

// resolveSharding turns "auto" into a mode and says why.
func resolveSharding(want string, units []*autograd.Unit, world int) (mode, why string) {
	if want != "auto" {
		return want, "the spec says so"
	}
	if world == 1 {
		return zero.None, "one rank"
	}
	var bytes int64
	for _, u := range units {
		for _, p := range u.Params {
			if p.Frozen {
				bytes += 4 * p.Words()
			} else {
				bytes += 16 * p.Len()
			}
		}
	}
	if bytes <= autoNoneBytes {
		return zero.None, fmt.Sprintf("%d bytes of state fit every rank", bytes)
	}
	return zero.Zero3, fmt.Sprintf("%d bytes of state are more than %d", bytes, autoNoneBytes)
}

// resume loads the newest commit of the stage, whatever world wrote it.
func (s *session) resume(ctx context.Context) (err error) {
	head := s.t.Gang.Head
	if head == nil || head.Manifest == nil || head.Manifest.Stage != s.t.Message.Stage {
		return nil
	}
	r, err := checkpoint.Open(ctx, s.t.Objects, *head.Manifest, s.t.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for key, want := range s.identity() {
		if got := r.Manifest().State[key]; got != want {
			return schemas.Errorf(schemas.CodeConflict, head.Manifest.Key, "the checkpoint was made with %s %q, this stage has %q", key, got, want)
		}
	}
	x, err := s.share(ctx, r)
	if err != nil {
		return err
	}
	if err = s.restore(ctx, r); err != nil {
		return errors.Join(err, x.close())
	}
	return s.shared(ctx, x, r)
}

// restore loads a checkpoint's state.
func (s *session) restore(ctx context.Context, r *checkpoint.Reader) error {
	var done int64
	err := s.engine.Restore(ctx, func(ctx context.Context, tensor string, from int64, dst []float32) error {
		err := r.ReadAt(ctx, tensor, from, dst)
		done += 4 * int64(len(dst))
		s.t.Phase(consume.PhaseLoad, done, 0)
		return err
	})
	if err == nil {
		err = s.engine.RestoreSkips(ctx, r.Has, r.ReadAt)
	}
	if err != nil {
		return err
	}
	s.done, s.snapped = r.Manifest().Step, r.Manifest().Step
	if raw := r.Manifest().State[watchKey]; raw != "" {
		if err := json.Unmarshal([]byte(raw), &s.watch); err != nil {
			return schemas.Errorf(schemas.CodeVerify, s.t.Gang.Head.Manifest.Key, "the checkpoint's %s cannot be read: %v", watchKey, err)
		}
	}
	if f := s.stage.Features; f != nil && f.LoadBest && s.watch.BestStep > 0 && !r.Manifest().Final {
		return s.engine.RestoreBest(ctx, r.ReadAt)
	}
	return nil
}

// identity is what a checkpoint must agree with.
func (s *session) identity() map[string]string {
	return map[string]string{"data": s.data.Fingerprint(), "seed": strconv.FormatUint(s.t.Spec.Seed, 10), "total": strconv.FormatInt(s.plan.Total(), 10)}
}

// run trains to the end of the stage or to a control word.
func (s *session) run(ctx context.Context) error {
	last := time.Now()
	s.snapBytes = s.engine.SnapshotBytes()
	s.commits.stands.Store(s.done)
	if s.stage.EvalOnly {
		return s.boundary(ctx, stepResult{stored: true})
	}
	if s.stage.EvalOnStart && s.done == 0 {
		if _, err := s.evaluate(ctx); err != nil {
			return err
		}
	}
	for s.done < s.total() {
		s.time.To(schemas.TimeStep)
		r, err := s.runStep(ctx, s.done)
		if schemas.IsCode(err, schemas.CodeNumeric) {
			return err // it names its step
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", s.done+1, err)
		}
		// Where the update waited for the copies of a snapshot, that is the snapshot's time.
		s.time.Move(schemas.TimeStep, schemas.TimeCheckpoint, s.engine.Stalled().Seconds())
		s.done++
		if err := s.pace(ctx); err != nil {
			return err
		}
		now := time.Now()
		s.emit(ctx, s.done, r, now.Sub(last))
		last = now
		s.t.Phase(consume.PhaseStep, s.done, s.plan.Total())
		if s.evalDue() {
			values, err := s.evaluate(ctx)
			if err == nil {
				err = s.afterEval(values)
			}
			if err != nil {
				return err
			}
			last = time.Now()
		}
		if err := s.boundary(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// boundary commits where the plan or a control word says so. Every rank decides alike.
func (s *session) boundary(ctx context.Context, r stepResult) error {
	if err := s.commits.failed(); err != nil {
		return err
	}
	s.time.To(schemas.TimeCheckpoint)
	if r.control == schemas.ControlCancel {
		return schemas.Errorf(schemas.CodeInterrupted, "", "stopped at step %d: the run was cancelled", s.done)
	}
	if s.commits.flight != nil && r.stored {
		if err := s.commits.finish(ctx); err != nil {
			return err
		}
	}
	final := s.done == s.total()
	if r.control == schemas.ControlPreempt && !final {
		if done, err := s.leave(ctx, r); done {
			return err
		}
	}
	if !final && r.control == schemas.ControlNone {
		// Where the checkpoint before is still on its way, this one waits until it is stored: training waits for no store. A stage that
		// may roll back does wait: where it goes back to must not depend on the store's speed.
		if s.cadence.due(s.done, s.snapped, s.total()) && (s.commits.flight == nil || s.onAnomaly() == onRollback) {
			if err := s.snapshot(ctx, false, false); err != nil {
				return err
			}
		}
		return s.hold(ctx, r)
	}
	if err := s.snapshot(ctx, final, r.control != schemas.ControlNone); err != nil {
		return err
	}
	// The gang ends or yields here: wait until the commit stands, and leave together.
	bytes := s.commits.flight.snap.Bytes()
	s.t.Phase(consume.PhaseCommit, 0, bytes)
	if err := s.commits.finish(ctx); err != nil {
		return err
	}
	if err := s.commits.settle(ctx); err != nil {
		return err
	}
	if err := s.t.Gang.Collective.Barrier(ctx); err != nil {
		return err
	}
	s.t.Phase(consume.PhaseCommit, bytes, bytes)
	if final {
		return nil
	}
	return schemas.Errorf(schemas.CodeInterrupted, "", "stopped at step %d, which is committed: %s", s.done, r.control)
}

// snapshot takes the boundary's snapshot and starts to store it. A checkpoint still on its way is finished first. closing says that the
// gang stops here.
func (s *session) snapshot(ctx context.Context, final, closing bool) error {
	if err := s.commits.finish(ctx); err != nil {
		return err
	}
	f := &flight{step: s.done, final: final, closing: closing || final, state: s.identity()}
	maps.Copy(f.state, map[string]string{"step": strconv.FormatInt(s.done, 10), "objective": s.stage.Objective, "method": s.stage.Method,
		dtypeKey: s.stage.DType})
	watched, err := s.watch.encode()
	if err != nil {
		return fmt.Errorf("cannot encode what the stage remembers: %w", err)
	}
	f.state[watchKey] = watched
	if final {
		if err := s.useBest(); err != nil {
			return err
		}
		if len(s.evals) > 0 {
			if err := s.finalEval(ctx, f.state); err != nil {
				return err
			}
		}
		if f.hash, err = s.engine.StateHash(ctx); err != nil {
			return err
		}
	}
	if f.snap, err = s.engine.Snapshot(s.commits.spare); err != nil {
		return err
	}
	s.commits.spare = nil
	f.spent, f.taken = s.time.Take()
	s.measure(ctx, f)
	s.commits.begin(f, s.log.take())
	return nil
}

// hold lets training wait for the checkpoint on its way where a loss now would cost as many steps as it may at most, so that the next step
// is not one more: see cadence. All ranks come here alike.
func (s *session) hold(ctx context.Context, r stepResult) error {
	open := s.done - r.stands
	if s.cadence.auto || open < s.cadence.every {
		return nil
	}
	if open > s.cadence.every && !s.exceeded {
		s.exceeded = true
		s.t.Logger.Warn("a loss would cost more steps than commit_every now: the store takes too long", "open", open, "commit_every", s.cadence.every)
	}
	if r.hold <= 0 {
		return nil
	}
	hctx, cancel := context.WithTimeout(ctx, r.hold)
	defer cancel()
	all := true
	if s.commits.flight != nil {
		var err error
		if all, err = everyRank(ctx, s.t.Gang.Collective, s.commits.await(hctx)); err == nil && all {
			err = s.commits.finish(ctx)
		}
		if err != nil {
			return err
		}
	}
	if all { // the other ranks go on: they wait for rank 0 in the next step
		if err := s.commits.settle(hctx); err != nil && (hctx.Err() == nil || ctx.Err() != nil) {
			return err
		}
	}
	s.cadence.waited()
	return nil
}

// measure notes what the segment that ends with a snapshot has cost.
func (s *session) measure(ctx context.Context, f *flight) {
	c := s.cadence
	if n := f.step - s.snapped; n > 0 {
		c.step = follow(c.step, f.spent[schemas.TimeStep]/float64(n))
	}
	s.snapped, s.snapBytes = f.step, f.snap.Bytes()
	c.stall = follow(c.stall, f.spent[schemas.TimeCheckpoint])
	if s.t.Gang.Rank == 0 {
		recordPhase(ctx, s.metrics, phaseStall, f.spent[schemas.TimeCheckpoint])
	}
}
