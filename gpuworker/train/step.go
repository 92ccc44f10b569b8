package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
	"github.com/tunefleet/tunefleet/schemas"
)

// stepResult is what all ranks know after a step.
type stepResult struct {
	loss, norm, lr float64
	// metrics has the goal's metrics.
	metrics []float64
	tokens  int64
	control schemas.Control
	// skipped: the gradient overflowed in fp16, and no update was made.
	skipped bool
	// stored: every rank's parts of the checkpoint on its way are stored, and the commit before it stands.
	stored bool
	// stands is the step of the newest commit that stands, hold how long training may now be held for the next one: rank 0 says both.
	stands int64
	hold   time.Duration
	// leaving is what the gang knows of a machine that goes.
	leaving leaving
}

// controls are the words in the order of their numbers on the wire.
func controls() []schemas.Control {
	return []schemas.Control{schemas.ControlNone, schemas.ControlCancel, schemas.ControlPause, schemas.ControlPreempt, schemas.ControlRegroup}
}

// report is what a rank tells the others in every step: after the sums of its leaves.
type report struct {
	tokens  int64
	control schemas.Control
	stored  bool
	// next is the step that rank 0 wants to commit after: see cadence. stands and hold are as in stepResult; other ranks' do not count.
	next, stands int64
	hold         time.Duration
	leaving      leaving
}

const reportBytes = 40 + leavingBytes

func (r report) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.tokens))
	word := max(0, slices.Index(controls(), r.control))
	stored := uint32(0)
	if r.stored {
		stored = 1
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(word))
	b = binary.LittleEndian.AppendUint32(b, stored)
	for _, v := range []int64{r.next, r.stands, int64(r.hold)} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return r.leaving.append(b)
}

func parseReport(b []byte) (report, error) {
	if len(b) != reportBytes {
		return report{}, fmt.Errorf("a step report has %d bytes, not %d", len(b), reportBytes)
	}
	word := binary.LittleEndian.Uint32(b[8:])
	if int(word) >= len(controls()) {
		return report{}, fmt.Errorf("unknown control word %d", word)
	}
	return report{tokens: int64(binary.LittleEndian.Uint64(b)), control: controls()[word], stored: binary.LittleEndian.Uint32(b[12:]) == 1,
		next: int64(binary.LittleEndian.Uint64(b[16:])), stands: int64(binary.LittleEndian.Uint64(b[24:])), hold: time.Duration(binary.LittleEndian.Uint64(b[32:])),
		leaving: parseLeaving(b[40:])}, nil
}

// report is what this rank has to say once it has computed its leaves: as late as can be, so that a checkpoint that is stored meanwhile is
// committed after this step and not after the next.
func (s *session) report(tokens int64) report {
	r := report{tokens: tokens, control: s.t.Gang.Control(), stored: s.commits.stored(), leaving: s.leaving()}
	if s.t.Gang.Rank == 0 {
		s.cadence.observe(s.commits.took()) // before stands is read: what stands by then has told, or will tell, how long it took
		r.next, r.stands, r.hold = s.cadence.plan(s.snapped), s.commits.stands.Load(), s.cadence.allowance()
	}
	return r
}

// runStep computes one step, counted from 0, and updates the parameters: once, or as often as the goal makes updates of what it has drawn.
func (s *session) runStep(ctx context.Context, step int64) (stepResult, error) {
	if err := s.goal.begin(ctx, step); err != nil {
		return stepResult{}, err
	}
	var out stepResult
	passes := s.goal.passes()
	for pass := range passes {
		var use bool
		amp := s.watch.Scaler
		n := step*int64(passes) + int64(pass) + 1 - amp.skipped()
		s.engine.Turn(n)
		if s.onePass(step) {
			u := optim.Step{LR: s.stage.Optim.LR * s.schedule.Factor(step), N: n, Clip: 1}
			r, err := s.computeTo(ctx, step, zero.Stream{Norms: true, Update: &u})
			if err == nil {
				err = s.judgeApplied(step, r)
			}
			if err != nil {
				return r, err
			}
			out = r
			continue
		}
		r, err := s.compute(ctx, step)
		if err != nil {
			return r, err
		}
		if amp.overflowed(r.loss, r.norm) {
			s.t.Logger.Info("the gradient overflows in fp16: the step is skipped", "step", step+1, "next_scale", amp.Scale)
			r.skipped = true
			out = r
			break
		}
		if pass > 0 && out.control != schemas.ControlNone {
			r.control = out.control
		}
		if out, use, err = s.judge(ctx, step, r); err != nil {
			return out, err
		}
		if !use {
			break
		}
		if err := s.update(ctx, step, optim.Step{LR: out.lr, N: n, Clip: zero.ClipFactor(out.norm, s.stage.Optim.MaxGradNorm) * float32(1/amp.scale())}); err != nil {
			return out, err
		}
		amp.stepped()
	}
	return out, nil
}

// onePass reports whether gradients are applied as they come: block by block, without clipping, and kept whatever they are. Not where the
// ranks must first know which experts any of them has reached.
func (s *session) onePass(step int64) bool {
	return s.watch.Scaler == nil && s.engine.Experts() == 0 && s.engine.Streams(s.plan.Leaves(step)) && s.stage.Optim.MaxGradNorm >= schemas.NoClip &&
		s.onAnomaly() == "keep"
}

// update applies the gradient of a computed step. Where only its norm was taken, block by block, the pass is made once more to apply it.
func (s *session) update(ctx context.Context, step int64, u optim.Step) error {
	leaves := s.plan.Leaves(step)
	if !s.engine.Streams(leaves) {
		return s.engine.Update(ctx, u.LR, u.N, u.Clip)
	}
	s.engine.Stream(zero.Stream{Update: &u})
	defer s.engine.Stream(zero.Stream{})
	_, err := s.runLeaf(ctx, step, 0, leaves)
	return err
}

// compute computes loss and gradient of a step, or, where gradients are applied block by block, the gradient's norm.
func (s *session) compute(ctx context.Context, step int64) (stepResult, error) {
	return s.computeTo(ctx, step, zero.Stream{Norms: s.engine.Streams(s.plan.Leaves(step))})
}

func (s *session) computeTo(ctx context.Context, step int64, stream zero.Stream) (stepResult, error) {
	leaves, world := s.plan.Leaves(step), s.t.Gang.World
	s.tape.SetLossScale(float32(s.watch.Scaler.scale()))
	s.engine.Stream(stream)
	defer s.engine.Stream(zero.Stream{})
	names := s.goal.metrics()
	width := 8 * (1 + len(names)) // bytes of a leaf's numbers
	micros := (leaves + world - 1) / world
	meta := s.meta[:0]
	tokens := int64(0)
	for micro := range micros {
		r, err := s.runLeaf(ctx, step, micro, leaves)
		if err != nil {
			return stepResult{}, err
		}
		tokens += r.tokens
		meta = binary.LittleEndian.AppendUint64(meta, math.Float64bits(r.loss))
		for k := range names {
			meta = binary.LittleEndian.AppendUint64(meta, math.Float64bits(r.metrics[k]))
		}
	}
	meta = s.report(tokens).append(meta)
	s.meta = meta
	sumsq, metas, err := s.engine.Finish(ctx, meta)
	if err != nil {
		return stepResult{}, err
	}
	// As in transformers' Trainer a skipped update leaves the schedule where it is.
	at := step - s.watch.Scaler.skipped()/int64(s.goal.passes())
	res := stepResult{norm: zero.Norm(sumsq) / s.watch.Scaler.scale(), lr: s.stage.Optim.LR * s.schedule.Factor(at), stored: true, metrics: make([]float64, len(names))}
	for leaf := range leaves {
		numbers := metas[leaf%world][width*(leaf/world):]
		res.loss += math.Float64frombits(binary.LittleEndian.Uint64(numbers))
		for k := range names {
			res.metrics[k] += math.Float64frombits(binary.LittleEndian.Uint64(numbers[8*(k+1):]))
		}
	}
	for rank, m := range metas {
		r, err := parseReport(m[width*micros:])
		if err != nil {
			return stepResult{}, fmt.Errorf("cannot read a rank's report: %w", err)
		}
		if rank == 0 {
			s.cadence.next, res.stands, res.hold = r.next, r.stands, r.hold
		}
		res.tokens += r.tokens
		res.stored = res.stored && r.stored
		res.leaving = res.leaving.with(r.leaving)
		if res.control == schemas.ControlNone {
			res.control = r.control
		}
	}
	return res, nil
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }

// runLeaf computes this rank's leaf of a micro-step. A loss that is not finite is returned as such, so that all ranks learn of it in the
// same step.
func (s *session) runLeaf(ctx context.Context, step int64, micro, leaves int) (leafResult, error) {
	rank, world := s.t.Gang.Rank, s.t.Gang.World
	if err := s.engine.BeginLeaf(micro, leaves); err != nil {
		return leafResult{}, err
	}
	var samples []int32
	at, has := micro*world+rank, s.engine.HasLeaf(micro, leaves, rank)
	s.step = step
	s.tape.SetNoise(nil)
	if has {
		samples = s.plan.Leaf(step, at)
	}
	r, err := s.goal.leaf(ctx, at, samples)
	if err != nil && !schemas.IsCode(err, schemas.CodeNumeric) {
		return leafResult{}, fmt.Errorf("cannot compute leaf %d of step %d: %w", at, step+1, err)
	}
	if err := s.engine.EndLeaf(ctx); err != nil {
		return leafResult{}, err
	}
	if !has {
		return leafResult{metrics: make([]float64, len(s.goal.metrics()))}, nil
	}
	if r.metrics == nil {
		r.metrics = make([]float64, len(s.goal.metrics()))
	}
	return r, nil
}

// trainLeaf reads samples into a batch to train on: what is random in the pass depends on the run's seed, the step and the samples.
func (s *session) trainLeaf(ctx context.Context, samples []int32) (*nn.Batch, error) {
	b, err := s.leaf(ctx, s.data, samples)
	if err == nil {
		ids := tokenIDs(b, s.seqs, samples)
		s.tape.SetNoise(&autograd.Noise{Seed: s.t.Spec.Seed, Step: s.step, IDs: ids})
		if f := s.stage.Features; f != nil && f.NEFTune > 0 {
			b.EmbedNoise = neftune(b, f.NEFTune, s.t.Spec.Seed, s.step, ids)
		}
	}
	return b, err
}

// leaf reads samples into a batch.
func (s *session) leaf(ctx context.Context, data Dataset, samples []int32) (*nn.Batch, error) {
	seqs := s.seqs[:0]
	for _, i := range samples {
		q, err := data.Sequence(ctx, int(i))
		if err != nil {
			return nil, err
		}
		seqs = append(seqs, q)
	}
	s.seqs = seqs
	var mask []uint8
	if p := s.stage.Pad; p != nil {
		var err error
		if seqs, mask, err = padLeaf(seqs, p); err != nil {
			return nil, err
		}
		s.seqs = seqs
	}
	b, err := makeBatch(seqs)
	if err != nil {
		return nil, err
	}
	b.Mask = mask
	// The data was prepared with another tokenizer than the model's: it stays so, however often it is tried.
	if err := b.Validate(s.model.Info().Vocab); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, s.t.Stage.Name, "the data does not fit the model: %v", err).
			WithHint("prepare it with the model's own tokenizer")
	}
	return b, nil
}

// pace slows a step down where the spec asks for it.
func (s *session) pace(ctx context.Context) error {
	if s.stage.StepDelayMS == 0 {
		return nil
	}
	t := time.NewTimer(time.Duration(s.stage.StepDelayMS) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// emit reports a finished step; step counts from 1.
func (s *session) emit(ctx context.Context, step int64, r stepResult, took time.Duration) {
	if s.t.Gang.Rank != 0 {
		return
	}
	e := schemas.Event{At: time.Now().UTC(), Type: schemas.EventStep, Tenant: s.t.Message.Tenant, Run: s.t.Message.Run, Stage: s.t.Message.Stage,
		Worker: s.t.Worker, Generation: s.t.Gang.Generation, Step: step, Values: map[string]float64{
			"step": float64(step), "total": float64(s.plan.Total()), "loss": r.loss, "grad_norm": r.norm, "learning_rate": r.lr,
			"tokens_per_second": float64(r.tokens) / max(1e-9, took.Seconds()), "tokens": float64(r.tokens),
			"epoch": s.plan.Epoch(step), "leaves": float64(s.plan.Leaves(step - 1)),
		}}
	if a := s.watch.Scaler; a != nil {
		e.Values["loss_scale"], e.Values["skipped"] = a.Scale, 0
		if r.skipped {
			e.Values["skipped"] = 1
		}
	}
	if n := s.paddedTokens(step - 1); n > 0 {
		e.Values["padded_tokens"], e.Values["flos"] = float64(n), float64(n)*s.flosPerToken
	}
	if g, ok := s.goal.(reporter); ok {
		maps.Copy(e.Values, g.report(r.metrics))
	} else {
		for k, name := range s.goal.metrics() {
			e.Values[name] = r.metrics[k]
		}
	}
	for name, v := range e.Values {
		if !finite(v) {
			delete(e.Values, name) // a skipped step may have such a loss; JSON has no number for it
		}
	}
	s.log.add(e)
	s.t.Report(e)
	if m := s.metrics; m != nil {
		m.StepDuration.Record(ctx, took.Seconds())
		m.Tokens.Add(ctx, r.tokens)
		m.Loss.Record(ctx, r.loss)
		m.GradNorm.Record(ctx, r.norm)
	}
}

var _ consume.Handler = Handle
