package generate

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// Score is the log-likelihood of a continuation.
type Score struct {
	// Sum over the continuation's tokens of log p(token | what is before it).
	Sum float64
	// Tokens of the continuation.
	Tokens int
}

// Scorer compares candidate continuations of prompts. It keeps its cache between calls; Close frees it.
type Scorer struct {
	tape  *autograd.Tape
	model zoo.Model
	cache *zoo.Cache
}

// NewScorer makes a scorer on a tape, which must not be used elsewhere at the same time.
func NewScorer(t *autograd.Tape, m zoo.Model) *Scorer { return &Scorer{tape: t, model: m} }

// Close frees the cache.
func (s *Scorer) Close() {
	if s.cache != nil {
		// After a failure operations may still be on their way; the error has been reported already.
		_ = s.tape.Memory().Queue().Sync()
		s.cache.Close()
		s.cache = nil
	}
}

// Score computes the log-likelihood of each candidate after the prompt. The prompt (at least one id) is computed once; candidates are a
// batch that continues it.
func (s *Scorer) Score(ctx context.Context, prompt []int32, candidates [][]int32) ([]Score, error) {
	if len(prompt) == 0 {
		return nil, schemas.Errorf(schemas.CodeData, "prompt", "is empty")
	}
	rows, longest := len(candidates), 0
	if rows == 0 {
		return nil, nil
	}
	for i, c := range candidates {
		if len(c) == 0 {
			return nil, schemas.Errorf(schemas.CodeData, fmt.Sprintf("candidate %d", i), "is empty")
		}
		longest = max(longest, len(c))
	}
	known, last := prompt[:len(prompt)-1], prompt[len(prompt)-1]
	if err := s.reserve(rows, len(known)+longest+1); err != nil {
		return nil, err
	}
	t, mem := s.tape, s.tape.Memory()
	s.cache.Len = 0
	if len(known) > 0 {
		t.Reset(ctx, false)
		first := s.cache.First(1)
		s.model.Decode(t, &nn.Batch{Rows: 1, Seq: len(known), IDs: known}, first)
		if err := t.Err(); err != nil {
			return nil, fmt.Errorf("cannot score: %w", err)
		}
		s.cache.Len = first.Len
		s.cache.Repeat(mem.Queue(), s.cache.Len)
	}
	seq := longest + 1
	b := &nn.Batch{Rows: rows, Seq: seq, IDs: make([]int32, rows*seq), Labels: make([]int32, rows*seq)}
	for r, c := range candidates {
		b.IDs[r*seq] = last
		for i := range seq {
			b.Labels[r*seq+i] = nn.IgnoreLabel
			if i > 0 && i <= len(c) {
				b.IDs[r*seq+i], b.Labels[r*seq+i] = c[i-1], c[i-1]
			}
		}
	}
	t.Reset(ctx, false)
	lp, err := t.Read(s.model.Continue(t, b, s.cache))
	if err != nil {
		return nil, fmt.Errorf("cannot score: %w", err)
	}
	out := make([]Score, rows)
	for r, c := range candidates {
		out[r].Tokens = len(c)
		for i := range c {
			out[r].Sum += float64(lp[r*seq+i])
		}
	}
	return out, nil
}

// reserve makes the cache hold rows of at least n positions.
func (s *Scorer) reserve(rows, n int) error {
	if s.cache != nil && s.cache.Rows == rows && s.cache.Cap >= n {
		return nil
	}
	if s.cache != nil {
		n = max(n, s.cache.Cap)
		s.Close()
	}
	mem := s.tape.Memory()
	c, err := zoo.NewCache(mem.Device(), s.model.Info(), s.tape.Compute(), rows, (n+63)/64*64)
	if err != nil {
		return err
	}
	s.cache = c
	return nil
}
