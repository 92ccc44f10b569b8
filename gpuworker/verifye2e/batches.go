package verifye2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
)

// microBatch is one line of batches.jsonl.
type microBatch struct {
	Micro int        `json:"micro"`
	Step  int64      `json:"step"`
	Rows  []batchRow `json:"rows"`
	KL    []batchRow `json:"kl_rows"`
	N     *int64     `json:"num_items_in_batch"`
}

type batchRow struct {
	IDs    []int32  `json:"ids"`
	Spans  [][2]int `json:"label_spans"`
	Labels []int32  `json:"labels"`
	Segs   []int32  `json:"pos_segments"`
	Tail   int      `json:"pos_zero_tail"`
}

// labels are -100 outside the spans.
func (r *batchRow) labels() []int32 {
	if r.Spans == nil && len(r.Labels) > 0 {
		return r.Labels
	}
	out := make([]int32, len(r.IDs))
	for i := range out {
		out[i] = data.IgnoreLabel
	}
	for _, s := range r.Spans {
		for i := max(0, s[0]); i < min(s[1], len(out)); i++ {
			out[i] = r.IDs[i]
		}
	}
	return out
}

// compareBatches compares ids, labels and packed documents of every micro-batch in training order with batches.jsonl, where there is one.
func (v *verification) compareBatches(ctx context.Context, run *localrun.Run) (err error) {
	st, err := run.Spec().StageOf(trained(run.Spec()))
	if err != nil {
		return err
	}
	d, err := data.OpenDataset(ctx, run.Objects(), run.Spec(), st.Train.Data, v.scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	t := st.Train
	group := d.Group()
	plan, err := train.NewPlanner(run.Spec().Seed, d.Len()/group, t.MicroBatch, t.Leaves, t.Epochs, t.Steps, t.Order)
	if err != nil {
		return err
	}
	if err := plan.SetPasses(d.Passes()); err != nil {
		return err
	}
	files := []string{"batches.jsonl"}
	if n := devices(v.dir); n > 1 {
		files = nil
		for r := range n {
			files = append(files, fmt.Sprintf("batches_rank%d.jsonl", r))
		}
	}
	for rank, name := range files {
		wrong, count, at, prev := "", 0, 0, int64(0)
		_, err := readLines(filepath.Join(v.dir, name), func(n int, raw []byte) error {
			var m microBatch
			if err := json.Unmarshal(raw, &m); err != nil {
				return schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", name, n), "cannot parse JSON: %v", err)
			}
			if m.Step != prev {
				at, prev = 0, m.Step
			}
			leaf := at*len(files) + rank
			at++
			count++
			if wrong != "" {
				return nil
			}
			if m.Step < 1 || m.Step > plan.Total() || leaf >= plan.Leaves(m.Step-1) {
				wrong = fmt.Sprintf("line %d: step %d has no micro-batch %d here", n, m.Step, leaf)
				return nil
			}
			why, err := sameBatch(ctx, d, plan.Leaf(m.Step-1, leaf), group, t.Objective, &m)
			if err == nil && why != "" {
				wrong = fmt.Sprintf("line %d (step %d, micro-batch %d): %s", n, m.Step, leaf, why)
			}
			return err
		})
		if err != nil {
			return err
		}
		if wrong != "" {
			v.rep.Fail(name, wrong)
		} else if count > 0 {
			v.rep.Relative(name, float64(count), float64(count), 0)
		}
	}
	return nil
}

// sameBatch compares the sequences of a leaf; pairs are all chosen, then all rejected.
func sameBatch(ctx context.Context, d *data.Dataset, samples []int32, group int, objective string, m *microBatch) (string, error) {
	var order []int
	for g := range group {
		for _, s := range samples {
			order = append(order, int(s)*group+g)
		}
	}
	rows := m.Rows
	if objective == "kto" {
		rows = append(slices.Clone(m.Rows), m.KL...)
	}
	if len(rows) != len(order) {
		return fmt.Sprintf("%d rows, the reference has %d", len(order), len(rows)), nil
	}
	for i, at := range order {
		s, err := d.Sequence(ctx, at)
		if err != nil {
			return "", err
		}
		want := &rows[i]
		n := len(want.IDs)
		if len(want.Segs) > 0 {
			n = 0
			for _, l := range want.Segs {
				n += int(l)
			}
		}
		ids, labels := want.IDs[:min(n, len(want.IDs))], want.labels()
		switch {
		case !slices.Equal(s.IDs, ids):
			return fmt.Sprintf("row %d: ids differ at %d (%d and %d ids)", i, firstDifference(s.IDs, ids), len(s.IDs), len(ids)), nil
		case !slices.Equal(s.Labels, labels[:min(n, len(labels))]):
			return fmt.Sprintf("row %d: labels differ at %d", i, firstDifference(s.Labels, labels)), nil
		case len(want.Segs) > 0 && !slices.Equal(documentLengths(&s), want.Segs):
			return fmt.Sprintf("row %d: packed documents have lengths %v, the reference %v", i, documentLengths(&s), want.Segs), nil
		}
	}
	return "", nil
}

func documentLengths(s *data.Sequence) []int32 {
	if len(s.Docs) == 0 {
		return []int32{int32(len(s.IDs))}
	}
	var out []int32
	for i := 1; i < len(s.Docs); i++ {
		out = append(out, s.Docs[i]-s.Docs[i-1])
	}
	return out
}

func firstDifference(a, b []int32) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
