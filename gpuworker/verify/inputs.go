package verify

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

const maxJSON = 16 << 20

// batch is input ids, attention mask and labels of shape [rows, seq]; positions, of the same shape, may be nil.
type batch struct {
	rows, seq                    int
	ids, mask, labels, positions []int64
}

// readIDs reads an integer tensor and checks its rank.
func readIDs(f *safetensors.File, name string, rank int) ([]int64, []int64, error) {
	v, shape, err := f.Int64(name)
	if err != nil {
		return nil, nil, err
	}
	if len(shape) != rank {
		return nil, nil, schemas.Errorf(schemas.CodeData, name, "shape %v, expected %d dimensions", shape, rank)
	}
	return v, shape, nil
}

// readBatches reads input_ids, attention_mask and labels of shape [rows, seq], or [steps, rows, seq], as a list of batches. position_ids of
// that shape may be there too.
func readBatches(f *safetensors.File, rank int, vocab int) ([]batch, error) {
	ids, shape, err := readIDs(f, "input_ids", rank)
	if err != nil {
		return nil, err
	}
	mask, ms, err := readIDs(f, "attention_mask", rank)
	if err != nil {
		return nil, err
	}
	labels, ls, err := readIDs(f, "labels", rank)
	if err != nil {
		return nil, err
	}
	if !equal(shape, ms) || !equal(shape, ls) {
		return nil, schemas.Errorf(schemas.CodeData, "input_ids", "shapes of input_ids %v, attention_mask %v and labels %v differ", shape, ms, ls)
	}
	var positions []int64
	if _, ok := f.Info("position_ids"); ok {
		var ps []int64
		if positions, ps, err = readIDs(f, "position_ids", rank); err != nil {
			return nil, err
		}
		if !equal(shape, ps) || slices.Min(positions) < 0 || slices.Max(positions) > math.MaxInt32 {
			return nil, schemas.Errorf(schemas.CodeData, "position_ids", "must be of shape %v and not negative", shape)
		}
	}
	for i, id := range ids {
		if id < 0 || id >= int64(vocab) {
			return nil, schemas.Errorf(schemas.CodeData, "input_ids", "id %d at %d is outside the vocabulary of %d", id, i, vocab)
		}
		if l := labels[i]; l != -100 && (l < 0 || l >= int64(vocab)) {
			return nil, schemas.Errorf(schemas.CodeData, "labels", "label %d at %d is outside the vocabulary of %d", l, i, vocab)
		}
	}
	steps := 1
	if rank == 3 {
		steps = int(shape[0])
	}
	rows, seq := int(shape[rank-2]), int(shape[rank-1])
	if steps < 1 || rows < 1 || seq < 1 {
		return nil, schemas.Errorf(schemas.CodeData, "input_ids", "shape %v is empty", shape)
	}
	n := rows * seq
	out := make([]batch, steps)
	for k := range out {
		out[k] = batch{rows: rows, seq: seq, ids: ids[k*n : (k+1)*n], mask: mask[k*n : (k+1)*n], labels: labels[k*n : (k+1)*n]}
		if positions != nil {
			out[k].positions = positions[k*n : (k+1)*n]
		}
	}
	return out, nil
}

func equal(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// shiftedTokens counts the labels != -100 that a causal model is trained on (position 0 has no prediction).
func (b batch) shiftedTokens() int {
	n := 0
	for i, l := range b.labels {
		if i%b.seq != 0 && l != -100 {
			n++
		}
	}
	return n
}

// tokens counts all labels != -100, as transformers' Trainer does.
func (b batch) tokens() int {
	n := 0
	for _, l := range b.labels {
		if l != -100 {
			n++
		}
	}
	return n
}

// summary is train/<arch>/summary.json.
type summary struct {
	HParams struct {
		LR     float64    `json:"lr"`
		WD     float64    `json:"wd"`
		Betas  [2]float64 `json:"betas"`
		Eps    float64    `json:"eps"`
		Clip   float64    `json:"clip"`
		Steps  int        `json:"steps"`
		Warmup int64      `json:"warmup"`
		LoRALR float64    `json:"lora_lr"`
		R      int        `json:"r"`
		Alpha  float64    `json:"alpha"`
	} `json:"hparams"`
	BaseModel string `json:"base_model"`
}

// stepLog is one entry of a trajectory.
type stepLog struct {
	Step     int     `json:"step"`
	Loss     float64 `json:"loss"`
	GradNorm float64 `json:"grad_norm"`
	LR       float64 `json:"lr"`
	Tokens   int     `json:"num_label_tokens"`
}

// trajectory is <run>/trajectory.json.
type trajectory struct {
	Log        []stepLog `json:"log"`
	FinalLoss  *float64  `json:"final_loss_batch0,omitempty"`
	Trainable  int64     `json:"trainable,omitempty"`
	Tensors    int       `json:"n_trainable_tensors,omitempty"`
	LoRAPlus   *float64  `json:"loraplus_ratio,omitempty"`
	haveLog    bool
	fileExists bool
}

// readJSON reads a bounded JSON file below root.
func readJSON(root *os.Root, name string, dst any) error {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxJSON+1))
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	if len(b) > maxJSON {
		return schemas.Errorf(schemas.CodeData, name, "larger than %d bytes", maxJSON)
	}
	if err := json.Unmarshal(b, dst); err != nil {
		return schemas.Errorf(schemas.CodeData, name, "cannot parse JSON: %v", err)
	}
	return nil
}

// readTrajectory reads a run's reference; a missing file, or one without a log or without the steps' losses, is an absent reference, not an
// error.
func readTrajectory(root *os.Root, run string) (trajectory, error) {
	var raw struct {
		trajectory
		Log []struct {
			stepLog
			Loss *float64 `json:"loss"`
		} `json:"log"`
	}
	err := readJSON(root, run+"/trajectory.json", &raw)
	if errors.Is(err, os.ErrNotExist) {
		return trajectory{}, nil
	}
	if err != nil {
		return trajectory{}, err
	}
	t := raw.trajectory
	t.fileExists = true
	for _, e := range raw.Log {
		if e.Loss == nil { // a step whose results were taken out
			t.Log = nil
			return t, nil
		}
		l := e.stepLog
		l.Loss = *e.Loss
		t.Log = append(t.Log, l)
	}
	t.haveLog = len(t.Log) > 0
	return t, nil
}
