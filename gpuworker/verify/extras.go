package verify

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

// What a training folder holds beside its runs.
const (
	accumName    = "grad_accum.safetensors"
	generateName = "generate.safetensors"
	policyName   = "full_adamw/final.safetensors"
)

// openExtra opens a file of the folder; nil when it is not there.
func (t *train) openExtra(name string) (*safetensors.File, error) {
	f, err := safetensors.Open(t.root, name)
	if errors.Is(err, os.ErrNotExist) {
		t.rep.Absent = append(t.rep.Absent, name)
		return nil, nil
	}
	return f, err
}

// accumulation checks that leaves of one row each, with the whole batch's token count as divisor, add up to the loss and the gradients
// of the whole batch.
func (t *train) accumulation(ctx context.Context) error {
	f, err := t.openExtra(accumName)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	s, err := openSession(ctx, t.base, t.o, nil)
	if err != nil {
		return err
	}
	defer s.close()
	bs, err := readBatches(f, 2, s.model.Info().Vocab)
	if err != nil {
		return err
	}
	whole := bs[0]
	tokens := int64(whole.tokens())
	var micro []float32
	var loss float64
	for r := range whole.rows {
		lo, hi := r*whole.seq, (r+1)*whole.seq
		row := batch{rows: 1, seq: whole.seq, ids: whole.ids[lo:hi], mask: whole.mask[lo:hi], labels: whole.labels[lo:hi]}
		for _, u := range s.model.Units() {
			u.AccumulateGrads = r > 0
		}
		res, err := objective.Backward(ctx, s.tape, s.model, row.leaf(), tokens)
		if err != nil {
			return err
		}
		micro = append(micro, float32(res.Sum/float64(tokens)))
		loss += res.Sum / float64(tokens)
	}
	norm, err := s.gradNorm()
	if err != nil {
		return err
	}
	for _, x := range []struct {
		name string
		got  []float32
	}{{"loss_full", []float32{float32(loss)}}, {"micro_losses", micro}, {"grad_norm", []float32{float32(norm)}}} {
		if err := t.extra(f, accumName, x.name, x.got, nil); err != nil {
			return err
		}
	}
	for _, p := range s.trainable() {
		got, err := nn.Read(s.queue, p.Grad)
		if err != nil {
			return err
		}
		if err := t.extra(f, accumName, "grad."+p.Name, got, nil); err != nil {
			return err
		}
	}
	return nil
}

// extra compares one tensor if the file has it.
func (t *train) extra(f *safetensors.File, file, name string, got []float32, keep func(int) bool) error {
	if _, ok := f.Info(name); !ok {
		t.rep.Absent = append(t.rep.Absent, file+":"+name)
		return nil
	}
	want, _, err := f.Float32(name)
	if err != nil {
		return err
	}
	t.rep.add(l2(file+":"+name, got, want, keep, tensorRel, tensorFloor))
	return nil
}

// generation checks the greedy continuation with the weights after full_adamw, where the folder holds them.
func (t *train) generation(ctx context.Context) error {
	f, err := t.openExtra(generateName)
	if f == nil || err != nil {
		return err
	}
	defer f.Close()
	policy, err := t.openExtra(policyName)
	if policy == nil || err != nil {
		return err
	}
	defer policy.Close()
	s, err := openSession(ctx, t.base, t.o, nil)
	if err != nil {
		return err
	}
	defer s.close()
	set, err := safetensors.OpenSet(t.root, policyName)
	if err != nil {
		return err
	}
	defer set.Close()
	params := nn.Params(s.model.Root())
	if err := nn.Check(params, set, nil); err != nil {
		// The comparison of the run itself names the tensor.
		return nil
	}
	if err := nn.Load(ctx, s.queue, params, set); err != nil {
		return err
	}
	got, err := greedy(ctx, s, f, "prompt_ids")
	if err != nil {
		return err
	}
	if _, ok := f.Info("greedy_ids"); !ok || got == nil {
		t.rep.Absent = append(t.rep.Absent, generateName+":greedy_ids")
		return nil
	}
	want, _, err := f.Int64("greedy_ids")
	if err != nil {
		return err
	}
	t.rep.add(sameIDs(generateName+":greedy_ids", got, want))
	ids, shape, err := readIDs(f, "sampling_context_ids", 2)
	if schemas.IsCode(err, schemas.CodeModel) {
		return nil
	}
	if err != nil {
		return err
	}
	b := batch{rows: int(shape[0]), seq: int(shape[1]), ids: ids, labels: ids, mask: ones(len(ids))}
	z, err := s.logits(ctx, b)
	if err != nil {
		return err
	}
	return t.extra(f, generateName, "sampling_raw", z[len(z)-s.model.Info().Vocab:], nil)
}

func ones(n int) []int64 {
	v := make([]int64, n)
	for i := range v {
		v[i] = 1
	}
	return v
}

// sameIDs demands equal ids.
func sameIDs(place string, got, want []int64) Row {
	row := Row{Place: place, OK: len(want) == len(got), Note: "greedy ids"}
	if !row.OK {
		row.Note = fmt.Sprintf("%d ids, expected %d", len(got), len(want))
	}
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			if row.Error == 0 {
				row.Note = fmt.Sprintf("id %d is %d, expected %d", i, got[i], want[i])
			}
			row.Error++
			row.OK = false
		}
	}
	return row
}
