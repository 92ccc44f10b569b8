package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// goldenTensor is one tensor of an adapter run's golden.safetensors as computed here.
type goldenTensor struct {
	shape []int64
	data  []float32
	// logits are compared where the batch attends only.
	logits bool
}

// required are what every golden.safetensors of an adapter run holds.
var required = []string{"logits_init_batch0", "logits_final_batch0"}

// golden computes what an adapter run has beside its trajectory: logits before, after and merged, the gradients at step 0 and the merged
// weights. It merges the adapters.
func (t *train) golden(ctx context.Context, s *session, out *outcome, b batch) (map[string]goldenTensor, error) {
	vocab := int64(s.model.Info().Vocab)
	logits := func(v []float32) goldenTensor {
		return goldenTensor{shape: []int64{int64(b.rows), int64(b.seq), vocab}, data: v, logits: true}
	}
	g := map[string]goldenTensor{"logits_init_batch0": logits(out.initLogits), "logits_final_batch0": logits(out.logits)}
	for _, p := range s.lora.Params() {
		key := "grad_init." + p.Name
		if strings.HasSuffix(key, ".lora_magnitude_vector") {
			key += ".weight" // PEFT's name in memory; its files leave the end out
		}
		g[key] = goldenTensor{shape: p.Shape, data: out.grads[p.Name]}
	}
	adapted := s.lora.Adapted()
	if err := s.lora.Merge(ctx, s.queue); err != nil {
		return nil, err
	}
	merged, err := s.logits(ctx, b)
	if err != nil {
		return nil, err
	}
	g["merged_logits_batch0"] = logits(merged)
	for _, p := range adapted {
		v, err := nn.Read(s.queue, p.Data)
		if err != nil {
			return nil, err
		}
		g["merged."+p.Name] = goldenTensor{shape: p.FileShape(), data: nn.FileOrder(p, v)}
	}
	return g, nil
}

// compareGolden emits what golden computes and compares it with the reference's file.
func (t *train) compareGolden(ctx context.Context, name string, m method, s *session, out *outcome, b batch) error {
	if !m.lora {
		return nil
	}
	got, err := t.golden(ctx, s, out, b)
	if err != nil {
		return err
	}
	file := path.Join(name, goldenName)
	if t.emit != nil {
		var entries []safetensors.Entry
		for k, v := range got {
			entries = append(entries, safetensors.Entry{Name: k, Shape: v.shape, Float32: v.data})
		}
		if err := t.emit.tensors(file, entries); err != nil {
			return err
		}
	}
	f, err := safetensors.Open(t.root, file)
	if errors.Is(err, os.ErrNotExist) {
		t.rep.Absent = append(t.rep.Absent, file)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	attended := func(i int) bool { return b.mask[i/s.model.Info().Vocab] == 1 }
	for _, i := range f.Infos() {
		place := file + ":" + i.Name
		g, ok := got[i.Name]
		if !ok {
			t.rep.fail(place, "this run has no such tensor")
			continue
		}
		want, _, err := f.Float32(i.Name)
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", place, err)
		}
		var keep func(int) bool
		if g.logits {
			keep = attended
		}
		t.rep.add(l2(place, g.data, want, keep, tensorRel, tensorFloor))
	}
	for _, k := range required {
		if _, ok := f.Info(k); !ok {
			t.missing(file+":"+k, "the reference tensor is missing")
		}
	}
	return nil
}
