package zero_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
)

// Every optimizer gives the same bits on any number of ranks, sharded or not, and a training that is stored after any step and goes on
// from there (on another number of ranks) ends as one that was never stopped.
func TestEveryOptimizerOnAnyWorldAndResumed(t *testing.T) {
	for _, name := range optim.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup{hidden: 32, layers: 2, leaves: 4, steps: 4, sharding: zero.None, optim: name, bucket: 20000}
			want := runWorld(t, 1, s)[0]
			if want.losses[0] == want.losses[3] {
				t.Fatalf("nothing was trained: %v", want.losses)
			}
			for _, world := range []int{2, 3, 4} {
				for _, sharding := range []string{zero.None, zero.Zero2, zero.Zero3, zero.Hybrid} {
					c := s
					c.sharding = sharding
					if got := runWorld(t, world, c)[0]; got.hash != want.hash {
						t.Errorf("world %d, %s: weights differ", world, sharding)
					}
				}
			}
			for threads := 2; threads <= 4; threads++ {
				c := s
				c.threads = threads
				if got := runWorld(t, 1, c)[0]; got.hash != want.hash {
					t.Errorf("%d threads: weights differ", threads)
				}
			}
			for stop := 1; stop < s.steps; stop++ {
				c := s
				c.steps = stop
				part := runWorld(t, 1, c)[0].state
				c = s
				c.first, c.restore = stop, part
				if got := runWorld(t, 1, c)[0]; got.hash != want.hash {
					t.Errorf("stopped after step %d: weights differ", stop)
				}
				for _, sharding := range []string{zero.Zero2, zero.Zero3, zero.Hybrid} {
					c.sharding = sharding
					if got := runWorld(t, 2+stop, c)[0]; got.hash != want.hash {
						t.Errorf("stopped after step %d, gone on with %d ranks, %s: weights differ", stop, 2+stop, sharding)
					}
				}
			}
		})
	}
}

// Shards hold their part of every optimizer's state: all ranks together hold no more than one rank alone, but for rounding.
func TestOptimizerStateIsSharded(t *testing.T) {
	for _, name := range optim.Names() {
		s := setup{hidden: 96, layers: 2, sharding: zero.Zero3, leaves: 4, steps: 1, optim: name}
		one := runWorld(t, 1, s)[0].resident.Optimizer
		var sum, most int64
		for _, o := range runWorld(t, 4, s) {
			sum += o.resident.Optimizer
			most = max(most, o.resident.Optimizer)
		}
		if sum > one+one/50 || float64(most) > 0.5*float64(one) {
			t.Errorf("%s: 4 ranks hold %d bytes together and %d at most, one rank alone holds %d", name, sum, most, one)
		}
	}
}
