package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// outcome is what a run computed.
type outcome struct {
	traj               trajectory
	grads              map[string][]float32 // at step 0
	initLogits, logits []float32            // on batch 0, before and after
}

func (t *train) run(ctx context.Context, name string, m method) error {
	ref, err := readTrajectory(t.root, name)
	if err != nil {
		return err
	}
	s, err := t.open(ctx, name, m)
	if err != nil {
		return err
	}
	defer s.close()
	bs, err := t.batches(s.model.Info().Vocab)
	if err != nil {
		return err
	}
	ratio := m.plus
	if ratio > 0 && ref.LoRAPlus != nil {
		ratio = *ref.LoRAPlus
	}
	out, err := t.train(ctx, s, m, ratio, bs)
	if err != nil {
		return err
	}
	if name == policyRun {
		if err := t.keepPolicy(s); err != nil {
			return err
		}
	}
	if err := t.emitRun(name, s, out); err != nil {
		return err
	}
	t.compareTrajectory(name, ref, out.traj)
	if err := t.compareFinal(name, m, s); err != nil {
		return err
	}
	return t.compareGolden(ctx, name, m, s, out, bs[0])
}

// open prepares the model of a run: freezing, or adapters with their initial weights.
func (t *train) open(ctx context.Context, name string, m method) (*session, error) {
	var init *os.Root
	if m.lora {
		var err error
		if init, err = t.root.OpenRoot(path.Join(name, m.init)); err != nil {
			return nil, fmt.Errorf("cannot open initial adapter: %w", err)
		}
		defer init.Close()
	}
	s, err := openSession(ctx, t.base, t.o, func(s *session) error {
		if m.prepare != nil {
			return m.prepare(s.model)
		}
		if init == nil {
			return nil
		}
		c, err := adapter.ReadConfig(init)
		if err != nil {
			return err
		}
		s.lora, err = adapter.Apply(s.model, c)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.lora != nil {
		if err := s.lora.Load(ctx, s.queue, init); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// train runs the steps as the reference does: clip, then AdamW with the learning rate of the step.
func (t *train) train(ctx context.Context, s *session, m method, ratio float64, bs []batch) (*outcome, error) {
	h := t.sum.HParams
	cfg := optim.Config{Beta1: h.Betas[0], Beta2: h.Betas[1], Eps: h.Eps, WeightDecay: h.WD, SkipDecay: m.groups, LoRAPlusRatio: ratio}
	sched := optim.Schedule{Name: "cosine", Warmup: h.Warmup, Total: int64(h.Steps)}
	lr := h.LR
	if m.lora {
		lr = h.LoRALR
	}
	out := &outcome{grads: map[string][]float32{}}
	for _, p := range s.trainable() {
		out.traj.Trainable += p.Len()
		out.traj.Tensors++
	}
	if m.lora {
		if err := out.before(ctx, s, bs[0]); err != nil {
			return nil, err
		}
	}
	st, err := s.stepper(ctx, cfg, h.Clip, t.o)
	if err != nil {
		return nil, err
	}
	s.step = st
	for k, b := range bs {
		tokens := b.tokens()
		res, gn, err := st.backward(ctx, b.leaf(), int64(tokens))
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", k, err)
		}
		at := lr * sched.Factor(int64(k))
		if err := st.update(ctx, at, int64(k+1)); err != nil {
			return nil, fmt.Errorf("step %d: %w", k, err)
		}
		out.traj.Log = append(out.traj.Log, stepLog{Step: k, Loss: res.Sum / float64(tokens), GradNorm: gn, LR: at, Tokens: tokens})
	}
	res, err := objective.Loss(ctx, s.tape, s.model, bs[0].leaf())
	if err != nil {
		return nil, err
	}
	final := res.Sum / float64(bs[0].tokens())
	out.traj.FinalLoss = &final
	if m.plus > 0 {
		out.traj.LoRAPlus = &ratio
	}
	out.logits, err = s.logits(ctx, bs[0])
	return out, err
}

// before notes logits and gradients on the first batch.
func (out *outcome) before(ctx context.Context, s *session, b batch) error {
	var err error
	if out.initLogits, err = s.logits(ctx, b); err != nil {
		return err
	}
	if _, err = objective.Backward(ctx, s.tape, s.model, b.leaf(), int64(b.tokens())); err != nil {
		return err
	}
	for _, p := range s.trainable() {
		if out.grads[p.Name], err = nn.Read(s.queue, p.Grad); err != nil {
			return err
		}
	}
	return nil
}

func (t *train) emitRun(name string, s *session, out *outcome) error {
	if t.emit == nil {
		return nil
	}
	if err := t.emit.root.MkdirAll(name, 0o755); err != nil {
		return fmt.Errorf("cannot make output folder: %w", err)
	}
	doc, err := json.MarshalIndent(out.traj, "", " ")
	if err != nil {
		return fmt.Errorf("cannot encode trajectory: %w", err)
	}
	file := path.Join(name, "trajectory.json")
	if err := t.emit.root.WriteFile(file, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot write trajectory: %w", err)
	}
	t.rep.Emitted = append(t.rep.Emitted, file)
	if s.lora == nil {
		return t.emit.tensors(path.Join(name, "final.safetensors"), nn.Entries(s.queue, s.trainable()))
	}
	final := path.Join(name, "final")
	if err := t.emit.root.MkdirAll(final, 0o755); err != nil {
		return fmt.Errorf("cannot make output folder: %w", err)
	}
	root, err := t.emit.root.OpenRoot(final)
	if err != nil {
		return fmt.Errorf("cannot open output folder: %w", err)
	}
	defer root.Close()
	if err := s.lora.Save(s.queue, root, t.sum.BaseModel); err != nil {
		return err
	}
	t.rep.Emitted = append(t.rep.Emitted, path.Join(final, adapter.ConfigName), path.Join(final, adapter.WeightsName))
	return nil
}

// missing records a reference that the folder lacks: where results are only emitted it may, otherwise it is a failure.
func (t *train) missing(place, why string) {
	if t.emit != nil {
		t.rep.Absent = append(t.rep.Absent, place)
	} else {
		t.rep.fail(place, why)
	}
}

// compareTrajectory compares every step.
func (t *train) compareTrajectory(name string, ref, got trajectory) {
	file := name + "/trajectory.json"
	if !ref.haveLog {
		t.missing(file, "the reference trajectory is missing")
		return
	}
	for k, g := range got.Log {
		place := fmt.Sprintf("%s:step %d", file, k)
		if k >= len(ref.Log) {
			t.rep.fail(place, fmt.Sprintf("the reference ends after %d of %d steps", len(ref.Log), len(got.Log)))
			break
		}
		w := ref.Log[k]
		if w.Step != k {
			t.rep.fail(place, fmt.Sprintf("the reference has step %d here", w.Step))
			continue
		}
		t.rep.add(relative(place+" loss", g.Loss, w.Loss, scalarRel, 0))
		t.rep.add(relative(place+" grad_norm", g.GradNorm, w.GradNorm, scalarRel, 0))
		t.rep.add(relative(place+" lr", g.LR, w.LR, 1e-9, 1e-15))
		tokens := Row{Place: place + " num_label_tokens", OK: g.Tokens == w.Tokens, Note: fmt.Sprintf("%d, expected %d", g.Tokens, w.Tokens)}
		t.rep.add(tokens)
	}
	if n := len(ref.Log); n > len(got.Log) {
		t.rep.fail(file, fmt.Sprintf("the reference has %d steps, summary.json says %d", n, len(got.Log)))
	}
	if ref.FinalLoss == nil {
		t.missing(file+":final_loss_batch0", "is missing")
	} else {
		t.rep.add(relative(file+":final_loss_batch0", *got.FinalLoss, *ref.FinalLoss, scalarRel, 0))
	}
}

// compareFinal compares the trained tensors with final.safetensors, or final/ of an adapter run.
func (t *train) compareFinal(name string, m method, s *session) error {
	file := path.Join(name, "final.safetensors")
	if m.lora {
		file = path.Join(name, "final", adapter.WeightsName)
	}
	f, err := safetensors.Open(t.root, file)
	if errors.Is(err, os.ErrNotExist) {
		if m.noFinal || t.emit != nil {
			t.rep.Absent = append(t.rep.Absent, file)
		} else {
			t.rep.fail(file, "the reference weights are missing")
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	known := map[string]bool{}
	var all, ref []float32
	for _, p := range s.trainable() {
		known[p.Name] = true
		got, err := nn.Read(s.queue, p.Data)
		if err != nil {
			return err
		}
		got = nn.FileOrder(p, got)
		place := file + ":" + p.Name
		if _, ok := f.Info(p.Name); !ok {
			t.rep.fail(place, "reference tensor is missing")
			continue
		}
		want, _, err := f.Float32(p.Name)
		if err != nil {
			return err
		}
		if len(want) != len(got) {
			t.rep.fail(place, fmt.Sprintf("reference has %d elements, the model %d", len(want), len(got)))
			continue
		}
		t.rep.add(largest(place, got, want, finalMost))
		all, ref = append(all, got...), append(ref, want...)
	}
	for _, i := range f.Infos() {
		if !known[i.Name] {
			t.rep.fail(file+":"+i.Name, "this tensor is not trained in this run")
		}
	}
	t.rep.add(quantile(file, all, ref, 0.999, finalLimit, finalMost))
	return nil
}
