package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

const trainerLogName = "trainer_log.jsonl"

// trainerLog writes what users' tools read of a training: trainer_log.jsonl line by line (LLaMA-Factory's fields), and at the end
// trainer_state.json, train_results.json, eval_results.json and all_results.json (Hugging Face Trainer's fields).
type trainerLog struct {
	file    *os.File
	output  string
	stage   *schemas.Stage
	factory *config.FactoryOutput
	start   time.Time

	steps map[int64]map[string]float64
	evals map[int64]map[string]float64
	// seconds is when a step was done.
	seconds map[int64]float64
	total   int64
}

// newTrainerLog starts the log of a stage (nil: nothing is logged). factory is nil for configurations of other forms.
func newTrainerLog(logs, output string, stage *schemas.Stage, factory *config.FactoryOutput) (*trainerLog, error) {
	f, err := os.Create(filepath.Join(logs, trainerLogName))
	if err != nil {
		return nil, diskError(logs, err)
	}
	return &trainerLog{file: f, output: output, stage: stage, factory: factory, start: time.Now(), steps: map[int64]map[string]float64{}, evals: map[int64]map[string]float64{},
		seconds: map[int64]float64{}}, nil
}

// event takes an event of the run; those of other stages are ignored. A step that is done again after a loss appears again, as it happened.
func (l *trainerLog) event(e schemas.Event) error {
	if l.stage == nil || e.Stage != l.stage.Name {
		return nil
	}
	if e.Type == schemas.EventStep {
		return l.step(e)
	}
	values := map[string]float64{}
	for k, v := range e.Values {
		if strings.HasPrefix(k, "eval_") && (l.factory == nil || !strings.HasSuffix(k, "_tokens")) {
			values[k] = v
		}
	}
	if len(values) == 0 {
		return nil
	}
	l.evals[e.Step] = values
	if t := int64(e.Values["total"]); t > 0 {
		l.total = t
	}
	if l.factory != nil && e.Step > 0 && e.Step == l.total && !l.evalDue(e.Step) {
		return nil // upstream's log has ended before the last evaluation
	}
	row := l.row(e.Step)
	for k, v := range values {
		loss := strings.HasSuffix(k, "_loss") && k != "eval_sft_loss" && k != "eval_odds_ratio_loss"
		if loss || l.factory == nil && (strings.HasSuffix(k, "_accuracy") || strings.Contains(k, "rewards/")) {
			row[k] = v
		}
	}
	return l.write(row)
}

func (l *trainerLog) step(e schemas.Event) error {
	l.steps[e.Step], l.seconds[e.Step] = e.Values, time.Since(l.start).Seconds()
	for _, m := range []map[int64]map[string]float64{l.steps, l.evals} {
		maps.DeleteFunc(m, func(s int64, _ map[string]float64) bool { return s > e.Step })
	}
	if t := int64(e.Values["total"]); t > 0 {
		l.total = t
	}
	row := l.row(e.Step)
	row["loss"], row["lr"] = round(e.Values["loss"], 4), e.Values["learning_rate"]
	if l.factory == nil {
		row["throughput"] = round(e.Values["tokens_per_second"], 2)
		row["loss"], row["grad_norm"] = round(e.Values["loss"], 6), round(e.Values["grad_norm"], 6)
	}
	if v, ok := e.Values["rewards/accuracies"]; ok {
		row["accuracy"] = v
	}
	if l.factory != nil && l.factory.CountTokens {
		n := l.tokens(e.Step)
		row["total_tokens"], row["throughput"] = n, round(float64(n)/max(1e-9, l.seconds[e.Step]), 2)
	}
	return l.write(row)
}

// row holds what every line has.
func (l *trainerLog) row(step int64) map[string]any {
	elapsed := time.Since(l.start)
	row := map[string]any{"current_steps": step, "total_steps": l.total, "epoch": l.epoch(step), "elapsed_time": hms(elapsed)}
	if l.total > 0 {
		row["percentage"] = round(100*float64(step)/float64(l.total), 2)
		row["remaining_time"] = hms(time.Duration(float64(elapsed) / float64(max(1, step)) * float64(l.total-step)))
	}
	return row
}

func (l *trainerLog) write(row map[string]any) error {
	data, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("cannot encode a line of the log: %w", err)
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return diskError(l.file.Name(), err)
	}
	return nil
}

// epoch of a step as the trainer reported it.
func (l *trainerLog) epoch(step int64) float64 {
	if v, ok := l.steps[step]["epoch"]; ok {
		return v
	}
	return 0
}

// tokens are those of all steps up to one, padding included where samples are dealt as upstream deals them.
func (l *trainerLog) tokens(step int64) int64 {
	n := 0.0
	for s, v := range l.steps {
		if s <= step {
			if p := v["padded_tokens"]; p > 0 {
				n += p
			} else {
				n += v["tokens"]
			}
		}
	}
	return int64(n)
}

// close ends the log and, when the run was followed to its end, writes the results beside what was made.
func (l *trainerLog) close(whole bool) error {
	if l.stage != nil && l.stage.Train.EvalOnly && whole {
		return errors.Join(l.file.Close(), l.evaluated())
	}
	if len(l.steps) == 0 || !whole {
		return l.file.Close()
	}
	order := slices.Sorted(maps.Keys(l.steps))
	last := order[len(order)-1]
	if l.factory != nil { // upstream's last line has no loss
		if err := l.write(l.row(last)); err != nil {
			return errors.Join(err, l.file.Close())
		}
	}
	err := l.file.Close()
	seconds := time.Since(l.start).Seconds()
	sum := 0.0
	for _, s := range order {
		sum += l.steps[s]["loss"]
	}
	train := map[string]any{"epoch": l.epoch(last), "train_loss": sum / float64(len(order)), "train_runtime": round(seconds, 4), "train_steps_per_second": round(float64(last)/seconds, 3),
		"train_samples_per_second": round(float64(last)*float64(l.stage.Train.MicroBatch*l.stage.Train.Leaves)/seconds, 3)}
	eval := map[string]any{}
	for k, v := range l.evals[last] {
		eval[k] = v
	}
	if f := l.factory; f != nil {
		train["total_flos"] = l.flos(last)
		if f.CountTokens {
			train["num_input_tokens_seen"] = l.tokens(last)
		}
	}
	l.perplexity(eval)
	all := maps.Clone(train)
	maps.Copy(all, eval)
	files := map[string]any{"trainer_state.json": l.state(order, train), "train_results.json": train, "all_results.json": all}
	if len(eval) > 0 {
		eval["epoch"] = l.epoch(last)
		if l.factory != nil && l.factory.CountTokens {
			eval["num_input_tokens_seen"] = l.tokens(last)
		}
		files["eval_results.json"] = eval
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err = errors.Join(err, writeJSON(filepath.Join(l.output, name), files[name]))
	}
	return err
}

// evaluated writes the results of a stage that only evaluates.
func (l *trainerLog) evaluated() error {
	eval := map[string]any{}
	for k, v := range l.evals[0] {
		eval[k] = v
	}
	l.perplexity(eval)
	return errors.Join(writeJSON(filepath.Join(l.output, "eval_results.json"), eval), writeJSON(filepath.Join(l.output, "all_results.json"), eval))
}

// perplexity adds that of pretraining.
func (l *trainerLog) perplexity(eval map[string]any) {
	if v, ok := eval["eval_loss"].(float64); ok && l.factory != nil && l.factory.Perplexity {
		eval["eval_perplexity"] = math.Exp(v)
	}
}

// flos are the floating-point operations of all steps up to one, as transformers counts them.
func (l *trainerLog) flos(step int64) float64 {
	n := 0.0
	for s, v := range l.steps {
		if s <= step {
			n += v["flos"]
		}
	}
	return n
}

// state is trainer_state.json. Its history has a row every logging_steps, whose loss is the mean since the last, and one for each evaluation.
func (l *trainerLog) state(order []int64, train map[string]any) map[string]any {
	every, epochs, batch := int64(1), l.stage.Train.Epochs, l.stage.Train.MicroBatch
	if f := l.factory; f != nil {
		every, epochs, batch = max(1, steps(f.LoggingSteps, l.total)), math.Ceil(f.Epochs), f.BatchSize
	}
	last := order[len(order)-1]
	state := map[string]any{"global_step": last, "max_steps": l.total, "epoch": l.epoch(last), "num_train_epochs": epochs, "train_batch_size": batch, "logging_steps": every,
		"log_history": l.history(order, every, train), "is_world_process_zero": true, "is_local_process_zero": true, "is_hyper_param_search": false, "best_metric": nil,
		"best_model_checkpoint": nil, "best_global_step": nil, "trial_name": nil, "trial_params": nil, "eval_steps": l.evalEvery(), "save_steps": l.stage.Train.CommitEvery,
		"num_input_tokens_seen": l.tokens(last)}
	if f := l.stage.Train.Features; f != nil && f.LoadBest {
		for _, s := range slices.Sorted(maps.Keys(l.evals)) {
			if best, ok := state["best_metric"].(float64); !ok || l.evals[s]["eval_loss"] < best {
				state["best_metric"], state["best_global_step"] = l.evals[s]["eval_loss"], s
			}
		}
	}
	if f := l.factory; f != nil {
		state["total_flos"] = l.flos(last)
		if !f.CountTokens {
			state["num_input_tokens_seen"] = 0
		}
		state["stateful_callbacks"] = map[string]any{"TrainerControl": map[string]any{"attributes": map[string]any{}, "args": map[string]any{"should_epoch_stop": false,
			"should_evaluate": false, "should_log": false, "should_save": f.Saves, "should_training_stop": f.Saves}}}
	}
	return state
}

// history has a row every so many steps, whose losses and metrics are the means since the last, and one for each evaluation.
func (l *trainerLog) history(order []int64, every int64, train map[string]any) (history []map[string]any) {
	last := order[len(order)-1]
	if l.evals[0] != nil && l.factory != nil {
		history = append(history, l.evalRow(0))
	}
	sums, n, kl := map[string]float64{}, 0.0, 0.0
	for _, s := range order {
		v := l.steps[s]
		n, kl = n+1, kl+v["kl"]*v["leaves"]
		for k, m := range v {
			if k == "loss" || k == "kl" || k == "sft_loss" || k == "odds_ratio_loss" || strings.Contains(k, "/") {
				sums[k] += m
			}
		}
		if s%every == 0 {
			row := map[string]any{"step": s, "epoch": l.epoch(s), "grad_norm": v["grad_norm"], "learning_rate": v["learning_rate"]}
			for k, m := range sums {
				row[k] = m / n
			}
			if l.factory != nil {
				l.asFactory(row, s, kl)
			}
			history, n, kl = append(history, row), 0, 0
			clear(sums)
		}
		if e := l.evals[s]; e != nil && l.factory != nil && (s != last || l.evalDue(s)) {
			history = append(history, l.evalRow(s))
		}
	}
	if l.factory != nil {
		end := map[string]any{"step": last}
		maps.Copy(end, train)
		history = append(history, end)
	}
	return history
}

// asFactory makes a row of the history what LLaMA-Factory's is.
func (l *trainerLog) asFactory(row map[string]any, step int64, kl float64) {
	if v, ok := row["loss"].(float64); ok {
		row["loss"] = round(v, 4)
	}
	if _, ok := row["kl"]; ok {
		row["kl"] = kl // upstream adds up what its micro-batches estimate
	}
	if l.factory.CountTokens {
		n, seconds := l.tokens(step), l.seconds[step]
		row["num_input_tokens_seen"], row["train_runtime"], row["train_tokens_per_second"] = n, round(seconds, 4), round(float64(n)/max(1e-9, seconds), 3)
	}
}

// evalDue reports whether an evaluation belongs to a step, rather than to the end of the training.
func (l *trainerLog) evalDue(step int64) bool {
	t := l.stage.Train
	return t.EvalEachEpoch || t.Features != nil && (t.Features.EvalEvery > 0 || t.Features.EvalShare > 0) && step%l.evalEvery() == 0
}

func (l *trainerLog) evalEvery() int64 {
	f := l.stage.Train.Features
	switch {
	case f != nil && f.EvalShare > 0:
		return steps(f.EvalShare, l.total)
	case f != nil && f.EvalEvery > 0:
		return f.EvalEvery
	case l.factory != nil:
		return 500 // what Hugging Face's TrainerState says without one
	}
	return 0
}

// steps is a number of steps; below 1 it is a share of all.
func steps(n float64, total int64) int64 {
	if n < 1 {
		return int64(math.Ceil(n * float64(total)))
	}
	return int64(n)
}

func (l *trainerLog) evalRow(step int64) map[string]any {
	row := map[string]any{"step": step, "epoch": l.epoch(step)}
	for k, v := range l.evals[step] {
		row[k] = v
	}
	if l.factory.CountTokens {
		row["num_input_tokens_seen"] = l.tokens(step)
	}
	return row
}

// writeJSON writes a file whole or not at all.
func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot encode %s: %w", path, err)
	}
	if err := os.WriteFile(path+".part", append(data, '\n'), 0o644); err != nil {
		return errors.Join(diskError(path, err), removeIfThere(path+".part"))
	}
	if err := os.Rename(path+".part", path); err != nil {
		return diskError(path, err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

func round(v float64, digits int) float64 {
	p := math.Pow(10, float64(digits))
	return math.Round(v*p) / p
}

func hms(d time.Duration) string {
	s := int(d.Seconds())
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}
