package zero

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
)

// SkipsName is the tensor of a checkpoint that holds, for every trained expert in the order of units and parameters, the number of updates
// that left it out. It is there as soon as one did.
const SkipsName = "skipped_updates"

// experts is what an engine knows of the experts that the reference leaves out of a step in which no leaf of any rank sends them a token
// (see autograd.Expert). Every rank knows all of it: Finish shares what each has seen.
type experts struct {
	all []*autograd.Expert
	at  map[*autograd.Expert]int
	// seen are those that this rank's leaves of the step have reached, reached those of any rank's leaves.
	seen, reached []bool
	// skips are the updates that left one out.
	skips []int64
}

// findExperts lists the experts of trained parameters. BAdam, whose reference fails where an expert has no gradient, updates all.
func findExperts(units []*autograd.Unit, optimizer string) experts {
	x := experts{at: map[*autograd.Expert]int{}}
	if optimizer == optim.BAdam {
		return x
	}
	for _, u := range units {
		for _, p := range u.Params {
			if p.Frozen || p.Expert == nil {
				continue
			}
			if _, ok := x.at[p.Expert]; !ok {
				x.at[p.Expert] = len(x.all)
				x.all = append(x.all, p.Expert)
			}
		}
	}
	x.seen, x.reached, x.skips = make([]bool, len(x.all)), make([]bool, len(x.all)), make([]int64, len(x.all))
	for i := range x.reached {
		x.reached[i] = true // what no step has told otherwise, as where a device only counts
	}
	return x
}

// begin forgets what leaves reached before a step's first.
func (x *experts) begin(micro int) {
	if micro == 0 {
		clear(x.seen)
	}
	for _, e := range x.all {
		e.Forget()
	}
}

// end notes what a leaf has reached; a pass that is no leaf counts for nothing.
func (x *experts) end(leaf bool) {
	for i, e := range x.all {
		x.seen[i] = x.seen[i] || leaf && e.Reached()
	}
}

// bits is seen, a byte for eight experts, for the other ranks.
func (x *experts) bits() []byte {
	b := make([]byte, (len(x.all)+7)/8)
	for i, yes := range x.seen {
		if yes {
			b[i/8] |= 1 << (i % 8)
		}
	}
	return b
}

// share sets reached from the bits of all ranks.
func (x *experts) share(ranks [][]byte) {
	for i := range x.reached {
		x.reached[i] = false
		for _, b := range ranks {
			x.reached[i] = x.reached[i] || b[i/8]&(1<<(i%8)) != 0
		}
	}
}

// step is the update of a run of an expert's parameters, which counts only those that it took part in; ok is false when it is left out.
func (x *experts) step(e *autograd.Expert, s optim.Step) (_ optim.Step, ok bool) {
	i, known := x.at[e]
	if e == nil || !known {
		return s, true
	}
	s.N -= x.skips[i]
	return s, x.reached[i]
}

// updated ends an update.
func (x *experts) updated() {
	for i, yes := range x.reached {
		if !yes {
			x.skips[i]++
		}
	}
}

// Experts is the number of trained experts that a step may leave out. Their updates need Finish before.
func (e *Engine) Experts() int { return len(e.experts.all) }

// skipPieces is what this rank stores of the updates that left experts out: rank 0 stores them all.
func (e *Engine) skipPieces() []piece {
	some := false
	v := make([]float32, len(e.experts.skips))
	for i, n := range e.experts.skips {
		v[i], some = float32(n), some || n > 0
	}
	if !some || e.plan.rank != 0 {
		return nil
	}
	return []piece{{tensor: SkipsName, shape: []int64{int64(len(v))}, data: v}}
}

// RestoreSkips reads the number of updates that left experts out of a checkpoint of any world; has says whether it holds a tensor.
func (e *Engine) RestoreSkips(ctx context.Context, has func(tensor string) bool, read func(ctx context.Context, tensor string, from int64, dst []float32) error) error {
	x := &e.experts
	clear(x.skips)
	if len(x.all) == 0 || !has(SkipsName) {
		return nil
	}
	v := make([]float32, len(x.all))
	if err := read(ctx, SkipsName, 0, v); err != nil {
		return fmt.Errorf("cannot restore the updates that left experts out: %w", err)
	}
	for i, n := range v {
		x.skips[i] = int64(n)
	}
	return nil
}
