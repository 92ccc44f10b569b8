package verifydata

import (
	"context"
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
)

// goldenSuite computes llamafactory_golden.json: lengths, generators, packing, a schedule and scores.
func goldenSuite() Suite {
	return Suite{Name: "golden vectors", Match: func(p string) bool { return p == "llamafactory_golden.json" },
		Run: func(_ context.Context, env *Env, f *File) ([]Case, error) {
			doc := f.Row(0)
			if doc == nil {
				return nil, errUnknown("document", f.Path)
			}
			out := doc.Clone()
			for _, k := range doc.Keys() {
				v, err := golden(env, k, doc.Value(k))
				if err != nil {
					return nil, fmt.Errorf("%s: %w", k, err)
				}
				out.Set(k, v)
			}
			return []Case{{Doc: &Field{Value: out, Tolerance: 1e-6}}}, nil
		}}
}

// each computes a list of objects anew.
func each(v any, f func(o *pyjson.Object) error) (any, error) {
	list, _ := v.([]any)
	out := []any{}
	for _, x := range list {
		o, ok := x.(*pyjson.Object)
		if !ok {
			return nil, errUnknown("item", pyjson.Dumps(x))
		}
		o = o.Clone()
		if err := f(o); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

func whole(o *pyjson.Object, key string) int {
	n, _ := o.Value(key).(int64)
	return int(n)
}

func golden(env *Env, key string, v any) (any, error) {
	switch key {
	case "infer_seqlen":
		return each(v, func(o *pyjson.Object) error {
			s, t := process.InferLengths(whole(o, "source"), whole(o, "target"), whole(o, "cutoff"))
			o.Set("out", []any{s, t})
			return nil
		})
	case "greedy_knapsack":
		return each(v, func(o *pyjson.Object) error {
			var n []int
			for _, x := range idsOf(o.Value("lengths")) {
				n = append(n, int(x))
			}
			o.Set("out", sacks(n, whole(o, "cap")))
			return nil
		})
	case "torch_randperm":
		return orders(v, func(n int, seed uint64) ([]any, error) {
			p, err := pyrand.Randperm(n, seed)
			return anys(p), err
		})
	case "numpy_default_rng_permutation":
		return orders(v, func(n int, seed uint64) ([]any, error) { return anys(pyrand.NewGenerator(seed).Permutation(n)), nil })
	case "val_split_example":
		o, ok := v.(*pyjson.Object)
		if !ok {
			return nil, errUnknown("example", key)
		}
		o = o.Clone()
		share, _ := number(o.Value("val_size"))
		test := int(math.Ceil(share * float64(whole(o, "n"))))
		o.Set("n_test", test)
		o.Set("n_train", whole(o, "n")-test)
		return o, nil
	case "predict_metrics":
		return each(v, func(o *pyjson.Object) error { return similarity(env, o) })
	}
	if total, warmup := 0, 0; scanned(key, "cosine_lr_factor_T%d_w%d", &total, &warmup) {
		list, _ := v.([]any)
		out := make([]any, len(list))
		s := optim.Schedule{Name: "cosine", Warmup: int64(warmup), Total: int64(total), LR: 1}
		for i := range out {
			out[i] = s.Factor(int64(total * i / max(1, len(list)-1)))
		}
		return out, nil
	}
	return v, nil // the note
}

func scanned(s, format string, into ...any) bool {
	n, err := fmt.Sscanf(s, format, into...)
	return err == nil && n == len(into)
}

// orders computes permutations named "n<count>_seed<seed>", with "_first<k>" or "_last<k>" for a part of it.
func orders(v any, f func(n int, seed uint64) ([]any, error)) (any, error) {
	o, ok := v.(*pyjson.Object)
	if !ok {
		return nil, errUnknown("table", pyjson.Dumps(v))
	}
	out := &pyjson.Object{}
	for _, k := range o.Keys() {
		var n, part int
		var seed uint64
		if !scanned(k, "n%d_seed%d", &n, &seed) {
			return nil, errUnknown("permutation", k)
		}
		p, err := f(n, seed)
		if err != nil {
			return nil, err
		}
		switch {
		case scanned(k, "n%d_seed%d_first%d", &n, &seed, &part):
			p = p[:min(part, len(p))]
		case scanned(k, "n%d_seed%d_last%d", &n, &seed, &part):
			p = p[max(0, len(p)-part):]
		}
		out.Set(k, p)
	}
	return out, nil
}

// similarity computes words and scores of a prediction and its label.
func similarity(env *Env, o *pyjson.Object) error {
	seg, err := segmenter(env)
	if err != nil {
		return err
	}
	pred, _ := o.Value("pred").(string)
	label, _ := o.Value("label").(string)
	o.Set("hyp_tokens", anys(seg.Cut(pred)))
	o.Set("ref_tokens", anys(seg.Cut(label)))
	s, _, _ := metrics.ComputeSimilarity(seg, pred, label)
	o.Set("scores", pyjson.NewObject("rouge-1", s.Rouge1, "rouge-2", s.Rouge2, "rouge-l", s.RougeL, "bleu-4", s.BLEU4))
	return nil
}
