package optim

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
)

// apolloDraws gives APOLLO's random matrices as apollo-torch 1.0.3 draws them: torch.randn over the root of the rank, from a generator that is
// seeded with the parameter's number in the optimizer's groups, and at each further projection with the number that next_seed makes of the
// seed before. It stays with the host: the generator is sequential, and a matrix of 128 x 4,096 takes 23 ms of one core (BenchmarkDraws), once
// every 200 steps.
type apolloDraws struct {
	first map[*autograd.Param]uint64
	rank  float32
}

// newApolloDraws numbers the projected parameters after all others, as LLaMA-Factory orders the groups; with layerwise each has an optimizer
// of its own, and the number 1.
func newApolloDraws(o *lowRank, units []*autograd.Unit, layerwise bool) *apolloDraws {
	d := &apolloDraws{first: map[*autograd.Param]uint64{}, rank: float32(math.Sqrt(float64(o.LowRank.Rank)))}
	var projected []*autograd.Param
	n := uint64(0)
	for _, u := range units {
		for _, p := range u.Params {
			switch {
			case p.Frozen:
			case o.projected(p):
				projected = append(projected, p)
			default:
				n++
			}
		}
	}
	for _, p := range projected {
		if n++; layerwise {
			n = 1
		}
		d.first[p] = n
	}
	return d
}

// draw is the matrix of a projection, of n elements.
func (d *apolloDraws) draw(p *autograd.Param, refresh, n int64) []float32 {
	seed := d.first[p]
	for range refresh {
		g := pyrand.NewTorch(seed)
		const numbers, longest = 15, math.MaxInt64 // torch.randint(0, iinfo(int64).max, (15,))[-1]
		for range numbers {
			seed = g.Uint64() % longest
		}
	}
	x := make([]float32, n)
	pyrand.NewTorch(seed).Normal(x, 0, 1)
	for i := range x {
		x[i] /= d.rank
	}
	return x
}
