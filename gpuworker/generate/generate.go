// Package generate continues prompts with a model and its key-value cache, and scores given continuations by their log-likelihood.
package generate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Options of a generation.
type Options struct {
	// MaxNewTokens bounds the continuation of each row.
	MaxNewTokens int
	// Stop ids end a row; the stop id is part of its result.
	Stop []int32
	// Temperature 0 is greedy: the most likely token, the lowest id among equals.
	Temperature float64
	// TopK and TopP, when positive, keep the k likeliest tokens, then the smallest set with probability p.
	TopK int
	TopP float64
	// Seed of the sampling.
	Seed uint64
}

// Validate reports all problems at once.
func (o Options) Validate() error {
	var errs []error
	bad := func(key string, v any, want string) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "generate."+key, "%v is not %s", v, want))
	}
	if o.MaxNewTokens < 1 || o.MaxNewTokens > 1<<20 {
		bad("max_new_tokens", o.MaxNewTokens, "between 1 and 1048576")
	}
	if !(o.Temperature >= 0) || math.IsInf(o.Temperature, 0) {
		bad("temperature", o.Temperature, "0 or more")
	}
	if o.TopK < 0 {
		bad("top_k", o.TopK, "0 or more")
	}
	if !(o.TopP >= 0 && o.TopP <= 1) {
		bad("top_p", o.TopP, "in [0, 1]")
	}
	return errors.Join(errs...)
}

// Generate continues each prompt (at least one id each) and returns the new ids of each row. Rows of different lengths are padded on
// the left with hidden positions, which no token sees. each, when not nil, is called after every step with
// the ids just chosen (-1 for finished rows).
func Generate(ctx context.Context, t *autograd.Tape, m zoo.Model, prompts [][]int32, o Options, each func(ids []int32)) ([][]int32, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("cannot generate: %w", err)
	}
	rows, longest := len(prompts), 0
	if rows == 0 {
		return nil, nil
	}
	for i, p := range prompts {
		if len(p) == 0 {
			return nil, schemas.Errorf(schemas.CodeData, fmt.Sprintf("prompt %d", i), "is empty")
		}
		longest = max(longest, len(p))
	}
	mem := t.Memory()
	cache, err := zoo.NewCache(mem.Device(), m.Info(), rows, longest+o.MaxNewTokens)
	if err != nil {
		return nil, err
	}
	defer func() {
		// After a failure operations may still be on their way; the error has been reported already.
		_ = mem.Queue().Sync()
		cache.Close()
	}()
	pad := make([]int32, rows)
	ids, pos := make([]int32, 0, rows*longest), make([]int32, 0, rows*longest)
	for r, p := range prompts {
		pad[r] = int32(longest - len(p))
		for s := range longest {
			at := s - int(pad[r])
			pos = append(pos, int32(max(0, at)))
			if at < 0 {
				ids = append(ids, 0)
			} else {
				ids = append(ids, p[at])
			}
		}
	}
	if slices.Max(pad) > 0 {
		cache.KVFirst = pad
	}
	s := sampler{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x74756e65666c6565)), stop: map[int32]bool{}}
	for _, id := range o.Stop {
		s.stop[id] = true
	}
	out, done := make([][]int32, rows), make([]bool, rows)
	b := &nn.Batch{Rows: rows, Seq: longest, IDs: ids, Positions: pos}
	for step := range o.MaxNewTokens {
		t.Reset(ctx, false)
		next, err := s.pick(t, m.Decode(t, b, cache), rows)
		if err != nil {
			return nil, fmt.Errorf("cannot generate: %w", err)
		}
		live := false
		for r, id := range next {
			if done[r] {
				next[r] = -1
				continue
			}
			out[r] = append(out[r], id)
			done[r] = s.stop[id]
			live = live || !done[r]
		}
		if each != nil {
			each(next)
		}
		if !live {
			break
		}
		b = &nn.Batch{Rows: rows, Seq: 1, IDs: make([]int32, rows), Positions: make([]int32, rows)}
		for r, id := range next {
			b.IDs[r] = max(id, 0)
			b.Positions[r] = int32(len(prompts[r]) + step)
		}
	}
	return out, nil
}

type sampler struct {
	o    Options
	rng  *rand.Rand
	stop map[int32]bool
}

// pick chooses the next id of each row from logits [rows, vocab].
func (s *sampler) pick(t *autograd.Tape, logits autograd.Value, rows int) ([]int32, error) {
	if err := t.Err(); err != nil {
		return nil, err
	}
	next := make([]int32, rows)
	if s.o.Temperature == 0 {
		x := t.Ints(next, int64(rows), 1)
		t.Queue().RowTopK(kernels.RowTopK{X: t.Data(logits), IDs: x, K: 1})
		t.Check("argmax", t.Data(logits))
		if err := t.Err(); err != nil {
			return nil, err
		}
		return next, kernels.Download(t.Queue(), next, x)
	}
	all, err := t.Read(logits)
	if err != nil {
		return nil, err
	}
	v := len(all) / rows
	for r := range rows {
		next[r] = s.sample(all[r*v : (r+1)*v])
	}
	return next, nil
}

// sample draws one id: temperature, then top-k, then top-p, as transformers orders them.
func (s *sampler) sample(logits []float32) int32 {
	type cand struct {
		id int32
		z  float64
	}
	cs := make([]cand, len(logits))
	for i, z := range logits {
		cs[i] = cand{int32(i), float64(z) / s.o.Temperature}
	}
	slices.SortStableFunc(cs, func(a, b cand) int { return cmp.Compare(b.z, a.z) })
	if s.o.TopK > 0 {
		cs = cs[:min(s.o.TopK, len(cs))]
	}
	var sum float64
	top := cs[0].z
	for i := range cs {
		cs[i].z = math.Exp(cs[i].z - top)
		sum += cs[i].z
	}
	if s.o.TopP > 0 && s.o.TopP < 1 {
		var acc float64
		for i := range cs {
			if acc += cs[i].z / sum; acc >= s.o.TopP {
				cs = cs[:i+1]
				break
			}
		}
		sum = 0
		for _, c := range cs {
			sum += c.z
		}
	}
	u := s.rng.Float64() * sum
	for _, c := range cs {
		if u -= c.z; u < 0 {
			return c.id
		}
	}
	return cs[len(cs)-1].id
}
