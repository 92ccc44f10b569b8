package verify

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/objective"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
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

// extraFile compares and emits one file of the folder, tensor by tensor.
type extraFile struct {
	t    *train
	name string
	ref  *safetensors.File // nil when the folder has none
	out  []safetensors.Entry
}

func (t *train) extraFile(name string, ref *safetensors.File) *extraFile {
	return &extraFile{t: t, name: name, ref: ref}
}

// has reports whether there is a reference with the tensor; one that lacks it is noted.
func (x *extraFile) has(name string) bool {
	if x.ref == nil {
		return false
	}
	_, ok := x.ref.Info(name)
	if !ok {
		x.t.rep.Absent = append(x.t.rep.Absent, x.name+":"+name)
	}
	return ok
}

// floats compares a tensor if the reference has it.
func (x *extraFile) floats(name string, shape []int64, got []float32) error {
	x.out = append(x.out, safetensors.Entry{Name: name, Shape: shape, Float32: got})
	if !x.has(name) {
		return nil
	}
	want, _, err := x.ref.Float32(name)
	if err != nil {
		return err
	}
	x.t.rep.add(l2(x.name+":"+name, got, want, nil, tensorRel, tensorFloor))
	return nil
}

// ints compares an integer tensor if the reference has it.
func (x *extraFile) ints(name string, shape, got []int64) error {
	x.out = append(x.out, safetensors.Entry{Name: name, Shape: shape, Int64: got})
	if !x.has(name) {
		return nil
	}
	want, _, err := x.ref.Int64(name)
	if err != nil {
		return err
	}
	x.t.rep.add(sameIDs(x.name+":"+name, got, want))
	return nil
}

// copyInts hands an input on to what is emitted.
func (x *extraFile) copyInts(f *safetensors.File, names ...string) error {
	for _, n := range names {
		v, shape, err := f.Int64(n)
		if err != nil {
			return err
		}
		x.out = append(x.out, safetensors.Entry{Name: n, Shape: shape, Int64: v})
	}
	return nil
}

// grads compares the gradients of parameters.
func (x *extraFile) grads(s *session, params []*nn.Param) error {
	for _, p := range params {
		got, err := nn.Read(s.queue, p.Grad)
		if err != nil {
			return err
		}
		if err := x.floats("grad."+p.Name, p.FileShape(), nn.FileOrder(p, got)); err != nil {
			return err
		}
	}
	return nil
}

// close emits the file.
func (x *extraFile) close() error {
	if x.t.emit == nil {
		return nil
	}
	return x.t.emit.tensors(x.name, x.out)
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
	x := t.extraFile(accumName, f)
	return errors.Join(
		x.copyInts(f, "input_ids", "attention_mask", "labels"),
		x.ints("num_items_in_batch", nil, []int64{tokens}),
		x.floats("loss_full", nil, []float32{float32(loss)}),
		x.floats("micro_losses", []int64{int64(len(micro))}, micro),
		x.floats("grad_norm", nil, []float32{float32(norm)}),
		x.grads(s, s.trainable()),
		x.close())
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
