package train

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

const (
	// watchWindow is the number of steps that a step is compared with, watchLeast how many there must be.
	watchWindow = 64
	watchLeast  = 20
	// watchFactor is how many median absolute deviations above the median a loss or a gradient norm is an anomaly.
	watchFactor = 10
)

// watch is what a stage remembers of its steps and evaluations. It is part of every checkpoint, so that a run that was interrupted decides
// as one that was not.
type watch struct {
	// Losses and Norms of the newest steps that were kept.
	Losses []float64 `json:"losses,omitempty"`
	Norms  []float64 `json:"norms,omitempty"`
	// Best is the lowest evaluation loss and BestStep its step; Bad counts evaluations since one was better by more than the threshold.
	Best     *float64 `json:"best,omitempty"`
	BestStep int64    `json:"best_step,omitempty"`
	Bad      int      `json:"bad,omitempty"`
	// Scaler is that of fp16, nil for others.
	Scaler *scaler `json:"scaler,omitempty"`
	// Stop is the step that early stopping ended the stage at, 0 when it did not.
	Stop int64 `json:"stop,omitempty"`
}

// watchKey is the checkpoint's state that holds it.
const watchKey = "watch"

func (w *watch) encode() (string, error) {
	b, err := json.Marshal(w)
	return string(b), err
}

// anomaly names what is wrong with a step, "" when nothing is.
func (w *watch) anomaly(loss, norm float64) string {
	switch {
	case !finite(loss):
		return "loss_not_finite"
	case !finite(norm):
		return "gradient_not_finite"
	case outlier(w.Norms, norm):
		return "gradient_outlier"
	case outlier(w.Losses, loss):
		return "loss_spike"
	}
	return ""
}

// outlier reports whether x is more than watchFactor median absolute deviations above the median of what came before.
func outlier(before []float64, x float64) bool {
	if len(before) < watchLeast {
		return false
	}
	m := median(before)
	d := make([]float64, len(before))
	for i, v := range before {
		d[i] = math.Abs(v - m)
	}
	mad := median(d)
	return mad > 0 && x > m+watchFactor*mad
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	n := len(s)
	if n%2 == 1 {
		return s[n/2]
	}
	return (s[n/2-1] + s[n/2]) / 2
}

// keep remembers a step that was taken.
func (w *watch) keep(loss, norm float64) {
	w.Losses, w.Norms = append(w.Losses, loss), append(w.Norms, norm)
	if n := len(w.Losses) - watchWindow; n > 0 {
		w.Losses, w.Norms = w.Losses[n:], w.Norms[n:]
	}
}

// evaluated notes an evaluation loss, or another value of which the lowest is the best, and reports whether it is the best so far.
func (w *watch) evaluated(step int64, loss float64, f *schemas.TrainFeatures) (best bool) {
	if w.Best == nil || *w.Best-loss > f.EarlyStoppingThreshold {
		w.Bad = 0
	} else {
		w.Bad++
	}
	if w.Best == nil || loss < *w.Best {
		w.Best, w.BestStep, best = &loss, step, true
	}
	if f.EarlyStopping > 0 && w.Bad >= f.EarlyStopping {
		w.Stop = step
	}
	return best
}

// total is the number of steps of the stage: the plan's, or where early stopping ended it; none where it only evaluates.
func (s *session) total() int64 {
	if s.stage.EvalOnly {
		return 0
	}
	if s.watch.Stop > 0 {
		return s.watch.Stop
	}
	return s.plan.Total()
}

// anomalyEvent tells of an anomaly on rank 0.
func (s *session) anomalyEvent(step int64, kind, what string, r stepResult) {
	if s.t.Gang.Rank != 0 {
		return
	}
	values := map[string]float64{"step": float64(step + 1)}
	for k, v := range map[string]float64{"loss": r.loss, "grad_norm": r.norm} {
		if finite(v) { // JSON has no other numbers
			values[k] = v
		}
	}
	e := schemas.Event{At: time.Now().UTC(), Type: schemas.EventAnomaly, Tenant: s.t.Message.Tenant, Run: s.t.Message.Run, Stage: s.t.Message.Stage,
		Worker: s.t.Worker, Generation: s.t.Gang.Generation, Step: step + 1, Message: kind + ": " + what, Values: values}
	s.log.add(e)
	s.t.Report(e)
}

// onRollback is the policy of going back to the newest commit.
const onRollback = "rollback"

// onAnomaly is the stage's policy.
func (s *session) onAnomaly() string {
	if f := s.stage.Features; f != nil && f.OnAnomaly != "" {
		return f.OnAnomaly
	}
	return "keep"
}

// judge looks at a computed step. An anomaly is computed once more from the same state: a fault of the machine does not come again, one of
// the data or the model does, and the policy decides. use is false when the step's gradient is not to be used.
func (s *session) judge(ctx context.Context, step int64, r stepResult) (_ stepResult, use bool, err error) {
	kind := s.watch.anomaly(r.loss, r.norm)
	if kind == "" {
		s.watch.keep(r.loss, r.norm)
		return r, true, nil
	}
	again, err := s.compute(ctx, step)
	if err != nil {
		return r, false, err
	}
	same := math.Float64bits(again.loss) == math.Float64bits(r.loss) && math.Float64bits(again.norm) == math.Float64bits(r.norm)
	first := r
	r.loss, r.norm, r.metrics = again.loss, again.norm, again.metrics
	if kind2 := s.watch.anomaly(r.loss, r.norm); kind2 == "" {
		s.anomalyEvent(step, kind, "gone when computed again", first)
		s.watch.keep(r.loss, r.norm)
		return r, true, nil
	}
	what := "computed again with the same result"
	if !same {
		what = "computed again with another result, which is one too"
	}
	s.anomalyEvent(step, kind, what+"; "+s.onAnomaly(), r)
	switch s.onAnomaly() {
	case "skip":
		return r, false, nil
	case onRollback:
		return r, false, s.rollback(ctx)
	}
	if err := s.notFinite(step, r, same); err != nil {
		return r, false, err
	}
	s.watch.keep(r.loss, r.norm)
	return r, true, nil
}

// judgeApplied looks at a step whose gradient has been applied already: an anomaly is told, and one that is not finite ends the generation,
// of which nothing since the last commit remains.
func (s *session) judgeApplied(step int64, r stepResult) error {
	if kind := s.watch.anomaly(r.loss, r.norm); kind != "" {
		s.anomalyEvent(step, kind, "applied block by block, so that it cannot be computed again; keep", r)
	}
	if err := s.notFinite(step, r, true); err != nil {
		return err
	}
	s.watch.keep(r.loss, r.norm)
	return nil
}

// rollback puts parameters and optimizer back to the newest commit; training goes on with the step after the anomaly, so what led to it is
// not seen again. Without a commit the step is only skipped. Where the newest commit is depends on when a run was interrupted, and so do the
// bits after a rollback.
func (s *session) rollback(ctx context.Context) (err error) {
	if err := s.commits.finish(ctx); err != nil {
		return err
	}
	if err := s.commits.settle(ctx); err != nil {
		return err
	}
	if err := s.t.Gang.Collective.Barrier(ctx); err != nil {
		return err
	}
	head, _, err := checkpoint.NewHeads(s.t.Objects, checkpoint.Config{}).Read(ctx, s.t.Message.Tenant, s.t.Message.Run)
	if err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	if head.Manifest == nil || head.Manifest.Stage != s.t.Message.Stage {
		return nil
	}
	r, err := checkpoint.Open(ctx, s.t.Objects, *head.Manifest, s.t.Dir)
	if err != nil {
		return fmt.Errorf("cannot roll back: %w", err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := s.engine.Restore(ctx, r.ReadAt); err != nil {
		return err
	}
	return s.engine.RestoreSkips(ctx, r.Has, r.ReadAt)
}

// afterEval notes an evaluation: the best weights are kept, and early stopping decides.
func (s *session) afterEval(values map[string]float64) error {
	f := s.stage.Features
	if f == nil || f.EarlyStopping == 0 && !f.LoadBest || len(s.evals) == 0 {
		return nil
	}
	value := values[s.evals[0].prefix+"_loss"]
	if f.BestMetric != "" {
		value = -values[s.evals[0].prefix+"_"+f.BestMetric]
	}
	if s.watch.evaluated(s.done, value, f) && f.LoadBest {
		return s.engine.KeepBest()
	}
	return nil
}

// useBest makes the best evaluated weights the stage's result.
func (s *session) useBest() error {
	if f := s.stage.Features; f == nil || !f.LoadBest || s.watch.BestStep == 0 || s.watch.BestStep == s.done {
		return nil
	}
	s.evalValues = nil // they were measured with other weights
	return s.engine.UseBest()
}
