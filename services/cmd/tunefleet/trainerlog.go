package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

const trainerLogName = "trainer_log.jsonl"

// trainerLog writes what users' tools read of a training: trainer_log.jsonl line by line (LLaMA-Factory's fields), and at the end
// trainer_state.json and all_results.json (Hugging Face Trainer's fields).
type trainerLog struct {
	file   *os.File
	output string
	stage  *schemas.Stage
	start  time.Time

	steps map[int64]map[string]float64
	total int64
	eval  map[string]float64
}

func newTrainerLog(logs, output string, stage *schemas.Stage) (*trainerLog, error) {
	f, err := os.Create(filepath.Join(logs, trainerLogName))
	if err != nil {
		return nil, diskError(logs, err)
	}
	return &trainerLog{file: f, output: output, stage: stage, start: time.Now(), steps: map[int64]map[string]float64{}, eval: map[string]float64{}}, nil
}

// event takes an event of the run; those of other stages are ignored. A step that is done again after a loss appears again, as it happened.
func (l *trainerLog) event(e schemas.Event) error {
	if l.stage == nil || e.Stage != l.stage.Name {
		return nil
	}
	if v, ok := e.Values["eval_loss"]; ok {
		l.eval["eval_loss"] = v
	}
	if e.Type != schemas.EventStep {
		return nil
	}
	l.steps[e.Step] = e.Values
	for s := range l.steps {
		if s > e.Step {
			delete(l.steps, s)
		}
	}
	if t := int64(e.Values["total"]); t > 0 {
		l.total = t
	}
	elapsed := time.Since(l.start)
	row := map[string]any{"current_steps": e.Step, "total_steps": l.total, "loss": round(e.Values["loss"], 6), "lr": e.Values["learning_rate"],
		"grad_norm": round(e.Values["grad_norm"], 6), "epoch": round(l.epoch(e.Step), 4), "elapsed_time": hms(elapsed), "throughput": round(e.Values["tokens_per_second"], 2)}
	if l.total > 0 {
		row["percentage"] = round(100*float64(e.Step)/float64(l.total), 2)
		row["remaining_time"] = hms(time.Duration(float64(elapsed) / float64(max(1, e.Step)) * float64(l.total-e.Step)))
	}
	data, err := json.Marshal(row)
	if err != nil {
		return fmt.Errorf("cannot encode the step of the log: %w", err)
	}
	if _, err := l.file.Write(append(data, '\n')); err != nil {
		return diskError(l.file.Name(), err)
	}
	return nil
}

// epoch of a step, exact at the end of the stage.
func (l *trainerLog) epoch(step int64) float64 {
	if l.total == 0 || l.stage.Train.Epochs == 0 {
		return 0
	}
	return l.stage.Train.Epochs * float64(step) / float64(l.total)
}

// close ends the log and, when the run was followed to its end, writes trainer_state.json and all_results.json beside the result.
func (l *trainerLog) close(whole bool) error {
	err := l.file.Close()
	if len(l.steps) == 0 || !whole {
		return err
	}
	order := make([]int64, 0, len(l.steps))
	for s := range l.steps {
		order = append(order, s)
	}
	slices.Sort(order)
	last, sum := order[len(order)-1], 0.0
	var history []map[string]any
	for _, s := range order {
		v := l.steps[s]
		sum += v["loss"]
		history = append(history, map[string]any{"step": s, "epoch": l.epoch(s), "loss": v["loss"], "grad_norm": v["grad_norm"], "learning_rate": v["learning_rate"]})
	}
	seconds := time.Since(l.start).Seconds()
	results := map[string]any{"epoch": l.epoch(last), "train_loss": sum / float64(len(order)), "train_runtime": round(seconds, 2), "train_steps_per_second": round(float64(last)/seconds, 3)}
	for k, v := range l.eval {
		results[k] = v
	}
	state := map[string]any{"global_step": last, "max_steps": l.total, "epoch": l.epoch(last), "num_train_epochs": l.stage.Train.Epochs,
		"train_batch_size": l.stage.Train.MicroBatch, "logging_steps": 1, "log_history": history, "is_world_process_zero": true, "is_local_process_zero": true}
	return errors.Join(err, writeJSON(filepath.Join(l.output, "trainer_state.json"), state), writeJSON(filepath.Join(l.output, "all_results.json"), results))
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
