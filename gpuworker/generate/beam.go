package generate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// MostBeams bounds the width of a beam search.
const MostBeams = 256

// BeamOptions are those of a beam search with the meaning that transformers 4.57 gives them.
type BeamOptions struct {
	// MaxNewTokens bounds the continuation; Stop ids end one and are part of it.
	MaxNewTokens int
	Stop         []int32
	// Beams is the number of continuations that are followed.
	Beams int
	// LengthPenalty is the power of the length that a finished continuation's log-probability is divided by: above 0 it favours long ones.
	LengthPenalty float64
	// EarlyStopping ends the search as soon as Beams continuations have ended; otherwise when the best open one cannot catch up any more.
	EarlyStopping bool
	// RepetitionPenalty is that of Sampling, on log-probabilities.
	RepetitionPenalty float64
}

// Validate reports all problems at once.
func (o BeamOptions) Validate() error {
	errs := Sampling{RepetitionPenalty: o.RepetitionPenalty}.validate()
	if o.MaxNewTokens < 1 || o.MaxNewTokens > 1<<20 {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "generate.max_new_tokens", "%d is not between 1 and 1048576", o.MaxNewTokens))
	}
	if o.Beams < 1 || o.Beams > MostBeams {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "generate.num_beams", "%d is not between 1 and %d", o.Beams, MostBeams))
	}
	if math.IsNaN(o.LengthPenalty) || math.IsInf(o.LengthPenalty, 0) {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "generate.length_penalty", "%g is no number", o.LengthPenalty))
	}
	return errors.Join(errs...)
}

// beam is a continuation with the sum of its log-probabilities, or once it is done with its score.
type beam struct {
	ids   []int32
	score float32
	// from is the beam of the step before that it continues; done says that it has ended.
	from int
	done bool
}

// never is the score of what must not be chosen.
const never = -1e9

// Beams continues a prompt (at least one id) by the continuation that beam search likes best, and returns it with its score. As in transformers
// the best Beams of all continuations by one token go on, twice as many (or one more for each stop id) are looked at, and those among the first
// Beams that end are kept by their score.
func Beams(ctx context.Context, t *autograd.Tape, m zoo.Model, prompt []int32, o BeamOptions) (ids []int32, score float64, err error) {
	if err := o.Validate(); err != nil {
		return nil, 0, fmt.Errorf("cannot generate: %w", err)
	}
	if len(prompt) == 0 {
		return nil, 0, schemas.Errorf(schemas.CodeData, "prompt", "is empty")
	}
	s := &beamSearch{o: o, tape: t, model: m, prompt: prompt}
	defer s.close()
	if err := s.open(); err != nil {
		return nil, 0, err
	}
	for step := 1; step <= o.MaxNewTokens; step++ {
		logits, err := s.forward(ctx, step)
		if err != nil {
			return nil, 0, fmt.Errorf("cannot generate: %w", err)
		}
		if !s.advance(logits, step) {
			break
		}
	}
	best := s.ended[0]
	return best.ids, float64(best.score), nil
}

// beamSearch is the state between two steps.
type beamSearch struct {
	o      BeamOptions
	tape   *autograd.Tape
	model  zoo.Model
	prompt []int32
	// caches hold the keys and values of the running beams and the place where they are put in order.
	caches [2]*zoo.Cache
	// running are the open beams and ended the best that have ended, both from the best on.
	running, ended []beam
	// improves says that an open beam may still beat an ended one.
	improves bool
}

func (s *beamSearch) open() error {
	mem := s.tape.Memory()
	for i := range s.caches {
		c, err := zoo.NewCache(mem.Device(), s.model.Info(), s.tape.Compute(), s.o.Beams, len(s.prompt)+s.o.MaxNewTokens)
		if err != nil {
			return err
		}
		s.caches[i] = c
	}
	s.running, s.improves = []beam{{}}, true
	for range s.o.Beams {
		s.ended = append(s.ended, beam{score: never})
	}
	return nil
}

func (s *beamSearch) close() {
	// After a failure operations may still be on their way; the error has been reported already.
	_ = s.tape.Memory().Queue().Sync()
	for _, c := range s.caches {
		if c != nil {
			c.Close()
		}
	}
}

// forward computes the logits [running, vocab] after the running beams; the prompt is computed once.
func (s *beamSearch) forward(ctx context.Context, step int) ([]float32, error) {
	t, q := s.tape, s.tape.Memory().Queue()
	t.Reset(ctx, false)
	if step == 1 {
		first := s.caches[0].First(1)
		z := s.model.Decode(t, &nn.Batch{Rows: 1, Seq: len(s.prompt), IDs: s.prompt}, first)
		if err := t.Err(); err != nil {
			return nil, err
		}
		s.caches[0].Len = first.Len
		return t.Read(z)
	}
	from := make([]int, s.o.Beams)
	b := &nn.Batch{Rows: s.o.Beams, Seq: 1}
	for i := range from {
		r := s.running[i]
		from[i] = r.from
		b.IDs = append(b.IDs, r.ids[len(r.ids)-1])
	}
	s.caches[1].Take(q, s.caches[0], from)
	s.caches[0], s.caches[1] = s.caches[1], s.caches[0]
	z := s.model.Decode(t, b, s.caches[0])
	if err := t.Err(); err != nil {
		return nil, err
	}
	return t.Read(z)
}

// advance chooses among the continuations by one token and reports whether the search goes on.
func (s *beamSearch) advance(logits []float32, step int) bool {
	o := s.o
	found := s.candidates(logits, max(2, 1+len(o.Stop))*o.Beams)
	all := true
	open := make([]beam, 0, len(found))
	merged := slices.Clone(s.ended)
	full := o.EarlyStopping && !slices.ContainsFunc(s.ended, func(b beam) bool { return !b.done })
	scale := float32(math.Pow(float64(step), o.LengthPenalty))
	for i, c := range found {
		hit := step == o.MaxNewTokens || slices.Contains(o.Stop, c.ids[len(c.ids)-1])
		all = all && hit
		done := c
		done.score /= scale
		done.done = hit && i < o.Beams
		for _, lost := range []bool{full, !s.improves, !done.done} {
			if lost {
				done.score += never
			}
		}
		merged = append(merged, done)
		if hit {
			c.score += never
		}
		open = append(open, c)
	}
	s.running, s.ended = best(open, o.Beams), best(merged, o.Beams)
	worst, unfinished := float32(math.Inf(1)), false
	for _, b := range s.ended {
		worst, unfinished = min(worst, b.score), unfinished || !b.done
	}
	likeliest := s.running[0].score / scale
	s.improves = s.improves && (unfinished && likeliest > never || likeliest > worst)
	return s.improves && (!o.EarlyStopping || unfinished) && !all
}

// best keeps the n best beams, in order; equal ones stay in theirs.
func best(b []beam, n int) []beam {
	slices.SortStableFunc(b, func(x, y beam) int {
		switch {
		case x.score > y.score:
			return -1
		case x.score < y.score:
			return 1
		}
		return 0
	})
	return b[:min(n, len(b))]
}

// candidates are the n likeliest continuations of the running beams by one token, the likeliest first. Without that many tokens there are
// fewer: the first step of a tiny vocabulary is filled up with copies that nothing can choose.
func (s *beamSearch) candidates(logits []float32, n int) []beam {
	type place struct {
		score float32
		beam  int
		id    int32
	}
	var top []place // from the best on
	rows := len(s.running)
	if len(s.running[0].ids) == 0 {
		rows = 1
	}
	v := len(logits) / rows
	penalty := Sampling{RepetitionPenalty: s.o.RepetitionPenalty}
	z := make([]float64, v)
	for r := range rows {
		logSoftmax(z, logits[r*v:(r+1)*v])
		if s.o.RepetitionPenalty > 0 {
			penalty.Process(z, slices.Concat(s.prompt, s.running[r].ids))
		}
		for id, x := range z {
			p := place{float32(x) + s.running[r].score, r, int32(id)}
			if len(top) == n && p.score <= top[n-1].score {
				continue
			}
			at := len(top)
			for at > 0 && top[at-1].score < p.score {
				at--
			}
			top = slices.Insert(top, at, p)
			top = top[:min(n, len(top))]
		}
	}
	out := make([]beam, 0, n)
	for _, p := range top {
		ids := append(slices.Clip(slices.Clone(s.running[p.beam].ids)), p.id)
		out = append(out, beam{ids: ids, score: p.score, from: p.beam})
	}
	for len(out) < s.o.Beams {
		copied := out[len(out)-1]
		copied.score += never
		out = append(out, copied)
	}
	return out
}

// logSoftmax fills z with the log-probabilities of logits.
func logSoftmax(z []float64, logits []float32) {
	top := slices.Max(logits)
	var sum float64
	for _, x := range logits {
		sum += math.Exp(float64(x - top))
	}
	lse := float64(top) + math.Log(sum)
	for i, x := range logits {
		z[i] = float64(x) - lse
	}
}
