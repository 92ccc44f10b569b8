package verify

import (
	"context"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

// filtered stands for -inf in the fixtures.
const filtered = -1e30

// processors are the sampling settings of generate.safetensors by their names there.
func processors() []struct {
	name string
	s    generate.Sampling
} {
	return []struct {
		name string
		s    generate.Sampling
	}{
		{"temp0p7", generate.Sampling{Temperature: 0.7}},
		{"topk20", generate.Sampling{TopK: 20}},
		{"topp0p9", generate.Sampling{TopP: 0.9}},
		{"minp0p05", generate.Sampling{MinP: 0.05}},
		{"reppen1p2", generate.Sampling{RepetitionPenalty: 1.2}},
		{"combo", generate.Sampling{RepetitionPenalty: 1.2, Temperature: 0.7, TopK: 20, TopP: 0.9}},
	}
}

// generation checks the greedy continuation with the policy's weights, the logits of its steps, and what the sampling processors make of
// the logits after a context.
func (t *train) generation(ctx context.Context) error {
	f, err := t.openExtra(generateName)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	s, err := t.openPolicy(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	x := t.extraFile(generateName, f)
	vocab := s.model.Info().Vocab
	if _, ok := f.Info("prompt_ids"); ok {
		var steps []float32
		got, err := greedySteps(ctx, s, f, "prompt_ids", func(z []float32) { steps = append(steps, z...) })
		if err != nil {
			return err
		}
		err = errors.Join(x.copyInts(f, "prompt_ids"), x.ints("greedy_ids", []int64{1, int64(len(got))}, got),
			x.floats("step_logits", []int64{int64(len(got)), int64(vocab)}, steps))
		if err != nil {
			return err
		}
	}
	ids, shape, err := readIDs(f, "sampling_context_ids", 2)
	if err != nil && !schemas.IsCode(err, schemas.CodeModel) {
		return err
	}
	if err == nil {
		b := batch{rows: int(shape[0]), seq: int(shape[1]), ids: ids, labels: ids, mask: ones(len(ids))}
		z, err := s.logits(ctx, b)
		if err != nil {
			return err
		}
		if err := errors.Join(x.copyInts(f, "sampling_context_ids"), x.sampling(b, z, vocab)); err != nil {
			return err
		}
	}
	return x.close()
}

// sampling processes the logits of each row's last position.
func (x *extraFile) sampling(b batch, z []float32, vocab int) error {
	shape := []int64{int64(b.rows), int64(vocab)}
	var raw []float32
	for r := range b.rows {
		at := ((r+1)*b.seq - 1) * vocab
		raw = append(raw, z[at:at+vocab]...)
	}
	errs := []error{x.floats("sampling_raw", shape, raw)}
	for _, p := range processors() {
		var logits, probs []float32
		for r := range b.rows {
			row := make([]float64, vocab)
			for i := range row {
				row[i] = float64(raw[r*vocab+i])
			}
			p.s.Process(row, b.leaf().IDs[r*b.seq:(r+1)*b.seq])
			for i, q := range generate.Softmax(row) {
				probs = append(probs, float32(q))
				logits = append(logits, float32(max(row[i], filtered)))
			}
		}
		errs = append(errs, x.processed("sampling_"+p.name, shape, logits), x.floats("sampling_"+p.name+"_probs", shape, probs))
	}
	return errors.Join(errs...)
}

// processed compares logits of which some are filtered: the same ones, and the others as tensors are compared.
func (x *extraFile) processed(name string, shape []int64, got []float32) error {
	x.out = append(x.out, safetensors.Entry{Name: name, Shape: shape, Float32: got})
	if !x.has(name) {
		return nil
	}
	want, _, err := x.ref.Float32(name)
	if err != nil {
		return err
	}
	row := Row{Place: x.name + ":" + name + " filter", OK: len(got) == len(want), Note: "filtered entries that differ"}
	kept := func(v float32) bool { return v > filtered/2 }
	for i := range min(len(got), len(want)) {
		if kept(got[i]) != kept(want[i]) {
			row.Error++
			row.OK = false
		}
	}
	x.t.rep.add(row)
	x.t.rep.add(l2(x.name+":"+name, got, want, func(i int) bool { return kept(want[i]) && kept(got[i]) }, tensorRel, tensorFloor))
	return nil
}

func ones(n int) []int64 {
	v := make([]int64, n)
	for i := range v {
		v[i] = 1
	}
	return v
}
