// Package generate continues prompts with a model and its key-value cache, and scores given continuations by their log-likelihood.
package generate

import (
	"context"
	"errors"
	"fmt"
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
	Sampling
	// Seed of the sampling. A row's random numbers depend on the seed, its id in Rows (nil: its index) and the position only.
	Seed uint64
	Rows []int64
	// Observe, when not nil, sees the logits of each step before anything is done to them, [rows, vocab] flat.
	Observe func(logits []float32)
	// Going, when not nil, is told after each step whether a row goes on and says whether another step is made: with parameters that are gathered
	// from other ranks, all ranks have to make the same passes. Steps after the last row has ended change no result.
	Going func(ctx context.Context, live bool) (bool, error)
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
	return errors.Join(append(errs, o.validate()...)...)
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
	cache, err := zoo.NewCache(mem.Device(), m.Info(), t.Compute(), rows, longest+o.MaxNewTokens)
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
	s := sampler{o: o, stop: map[int32]bool{}, ids: make([][]int32, rows)}
	for r := range prompts {
		s.ids[r] = slices.Clone(prompts[r])
	}
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
			if s.o.RepetitionPenalty > 0 {
				s.ids[r] = append(s.ids[r], id)
			}
			done[r] = s.stop[id]
			live = live || !done[r]
		}
		if each != nil {
			each(next)
		}
		over := !live
		if o.Going != nil {
			if live, err = o.Going(ctx, live); err != nil {
				return nil, fmt.Errorf("cannot generate: %w", err)
			}
		}
		if !live {
			break
		}
		b = &nn.Batch{Rows: rows, Seq: 1, IDs: make([]int32, rows), Positions: make([]int32, rows)}
		for r, id := range next {
			b.IDs[r] = max(id, 0)
			b.Positions[r] = int32(len(prompts[r]) + step)
			if over {
				b.Positions[r] = int32(len(prompts[r]) - 1) // there may be no position after the last
			}
		}
	}
	return out, nil
}

type sampler struct {
	o    Options
	stop map[int32]bool
	// ids are the rows so far, step the number of tokens chosen for each.
	ids  [][]int32
	step int
}

// pick chooses the next id of each row from logits [rows, vocab].
func (s *sampler) pick(t *autograd.Tape, logits autograd.Value, rows int) ([]int32, error) {
	if err := t.Err(); err != nil {
		return nil, err
	}
	next := make([]int32, rows)
	if s.o.Observe != nil {
		all, err := t.Read(logits)
		if err != nil {
			return nil, err
		}
		s.o.Observe(all)
	}
	if s.o.Temperature == 0 && s.o.RepetitionPenalty == 0 {
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
	z := make([]float64, v)
	for r := range rows {
		for i, x := range all[r*v : (r+1)*v] {
			z[i] = float64(x)
		}
		next[r] = s.sample(z, r)
	}
	s.step++
	return next, nil
}

// sample draws one id for a row.
func (s *sampler) sample(z []float64, row int) int32 {
	id := int64(row)
	if s.o.Rows != nil {
		id = s.o.Rows[row]
	}
	return s.o.Choose(z, s.ids[row], Uniform(s.o.Seed, uint64(id), s.step))
}
