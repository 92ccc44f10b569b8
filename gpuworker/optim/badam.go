package optim

import (
	"fmt"
	"math/rand/v2"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// badam is https://arxiv.org/abs/2404.02827 as badam's BlockOptimizer over AdamW computes it: only one transformer block is trained at a
// time, its moments begin anew with each turn. Embedding, final norm and head are never trained. The gradient's norm is that of the block whose
// turn it is; gradients of all blocks are computed, and every block has room for moments: the reference saves both.
type badam struct {
	adamw
	blocks  []string
	blockOf map[*autograd.Param]int
}

func newBAdam(c Config, units []*autograd.Unit) (*badam, error) {
	o := &badam{adamw: adamw{c}, blockOf: map[*autograd.Param]int{}}
	for _, u := range units {
		at := -1
		if u.Block >= 0 && u.Trainable() {
			at = len(o.blocks)
			o.blocks = append(o.blocks, u.Name)
		}
		for _, p := range u.Params {
			o.blockOf[p] = at
		}
	}
	if len(o.blocks) == 0 {
		return nil, schemas.Errorf(schemas.CodeInvalid, "optim.name", "badam needs a block with something to train")
	}
	if s := c.Blocks.Start; s != nil && (*s < 0 || *s >= len(o.blocks)) {
		return nil, schemas.Errorf(schemas.CodeInvalid, "optim.start_block", "%d is no block (0 to %d)", *s, len(o.blocks)-1)
	}
	return o, nil
}

// turn is the block of a step (from 1), whether the step begins its turn, and how many steps of it have been made with this one.
//
// The reference makes Every-1 steps in its first turn: it counts the step to come when it asks whether to switch.
func (o *badam) turn(step int64) (block int, within int64) {
	every := o.Blocks.Every
	k := step / every // turns before this one
	within = step - k*every + 1
	if k == 0 {
		within = step
	}
	n := int64(len(o.blocks))
	first := int64(0)
	if o.Blocks.Mode == "descending" {
		first = n - 1
	}
	if o.Blocks.Start != nil {
		first = int64(*o.Blocks.Start)
	}
	switch o.Blocks.Mode {
	case "descending":
		return int(((first-k)%n + n) % n), within
	case "random":
		rng := rand.New(rand.NewPCG(o.Seed, uint64(k/n)))
		return rng.Perm(int(n))[k%n], within
	case "fixed":
		return int(first), within
	}
	return int((first + k) % n), within
}

// Trains implements Turns.
func (o *badam) Trains(p *autograd.Param, n int64) bool {
	block, _ := o.turn(n)
	at, ok := o.blockOf[p]
	return ok && at == block
}

func (o *badam) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	block, within := o.turn(s.N)
	s.N = within
	for _, t := range stretches {
		at, ok := o.blockOf[t.Param]
		if !ok {
			return fmt.Errorf("cannot update %s: badam does not know it", t.Param.Name)
		}
		if at != block {
			continue
		}
		if within == 1 {
			for _, m := range t.State {
				q.Fill(kernels.Fill{Y: m})
			}
		}
		o.one(q, s, t)
	}
	return done(q)
}
