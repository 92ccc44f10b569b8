package train

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// segment is one generation of an elastic run: its size, and how it ends.
type segment struct {
	world int
	// kill is the step after which a rank vanishes without a commit, regroup the step at which the gang agrees to commit and form anew.
	// Both 0: the generation goes on to the end of the stage.
	kill, regroup int64
}

// schedule draws generations until one may run to the end.
func schedule(r *rand.Rand, steps int64, most int) []segment {
	var out []segment
	for range 1 + r.IntN(5) {
		s := segment{world: 1 + r.IntN(most)}
		at := 1 + r.Int64N(steps-1)
		if s.world > 1 && r.IntN(2) == 0 {
			s.kill = at
		} else {
			s.regroup = at
		}
		out = append(out, s)
	}
	return append(out, segment{world: 1 + r.IntN(most)})
}

// play runs a stage through a schedule and returns its final manifest. Every generation reads what it needs of the last commit by ranges,
// whatever world wrote it.
func (f *fleet) play(stage string, segments []segment) *schemas.Manifest {
	f.t.Helper()
	for i, s := range segments {
		if h := f.head(); h.Manifest != nil && h.Manifest.Final {
			break
		}
		p := plan{world: s.world}
		switch {
		case s.kill > 0:
			p.killAt, p.kill = s.kill, i%s.world
		case s.regroup > 0:
			p.control, p.controlAt = schemas.ControlRegroup, s.regroup
		}
		for rank, err := range f.generation(stage, p) {
			expected := err == nil || s.kill > 0 && errors.Is(err, collective.ErrPeerLost) || s.regroup > 0 && schemas.IsCode(err, schemas.CodeInterrupted)
			if !expected {
				f.t.Fatalf("generation %d (%+v), rank %d: %v", i+1, s, rank, err)
			}
		}
	}
	m := f.manifest()
	if !m.Final || m.StateHash == "" {
		f.t.Fatalf("schedule %+v ended at step %d, final %v", segments, m.Step, m.Final)
	}
	return m
}

// sameCurve compares the losses of every step of the lineage, each step once.
func (f *fleet) sameCurve(want []float64) {
	f.t.Helper()
	got := f.losses()
	if len(got) != len(want) {
		f.t.Fatalf("%d steps are in the lineage, want %d", len(got), len(want))
	}
	for i := range got {
		if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
			f.t.Errorf("step %d has loss %v, undisturbed %v", i+1, got[i], want[i])
		}
	}
}

// elasticStage is a stage of 8 steps of 4 leaves, so that up to 4 ranks share one global batch unevenly.
func elasticStage(method string) schemas.Stage {
	s := toyStage("train", method)
	s.Train.Epochs, s.Train.Steps, s.Train.Leaves, s.Train.CommitEvery = 0, 8, 4, 3
	s.Train.World = schemas.World{Min: 1, Max: 4}
	return s
}

// worlds lists the sizes of the generations that committed, oldest first.
func (f *fleet) worlds() []int {
	f.t.Helper()
	var out []int
	last := uint64(0)
	for ref := f.head().Manifest; ref != nil; {
		m, err := checkpoint.ReadManifest(f.t.Context(), f.objects, *ref)
		if err != nil {
			f.t.Fatal(err)
		}
		if m.Generation != last {
			out, last = append([]int{m.World}, out...), m.Generation
		}
		ref = m.Parent
	}
	return out
}

// TestGangShrinksAndGrowsAtBoundaries: 4, 2, 3 and 1 ranks in turn train the same global batches to the same bits, sharded or not.
func TestGangShrinksAndGrowsAtBoundaries(t *testing.T) {
	for _, method := range []string{"full", "lora"} {
		undisturbed := newFleet(t, elasticStage(method))
		want, curve := undisturbed.complete("train", 1), undisturbed.losses()
		for _, sharding := range []string{"zero3", "none", "zero2", "hybrid"} {
			stage := elasticStage(method)
			stage.Train.Sharding, stage.Train.CommitEvery = sharding, 100
			f := newFleet(t, stage)
			m := f.play("train", []segment{{world: 4, regroup: 1}, {world: 2, regroup: 3}, {world: 3, regroup: 5}, {world: 1}})
			if m.StateHash != want.StateHash {
				t.Errorf("%s, %s: weights differ from those of the undisturbed run", method, sharding)
			}
			if got := f.worlds(); fmt.Sprint(got) != "[4 2 3 1]" {
				t.Errorf("%s, %s: the commits were made by %v ranks", method, sharding, got)
			}
			f.sameCurve(curve)
		}
	}
}

// TestEveryScheduleHasTheSameBits: random schedules of kills, regroups and sizes end with the same hash and the same loss of every step.
func TestEveryScheduleHasTheSameBits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, method := range []string{"full", "lora"} {
		undisturbed := newFleet(t, elasticStage(method))
		want, curve := undisturbed.complete("train", 1), undisturbed.losses()
		for n := range 8 {
			t.Run(fmt.Sprintf("%s/%d", method, n), func(t *testing.T) {
				t.Parallel()
				r := rand.New(rand.NewPCG(seed, uint64(n)))
				stage := elasticStage(method)
				stage.Train.Sharding = []string{"zero3", "none", "zero2", "hybrid"}[r.IntN(4)]
				segments := schedule(r, stage.Train.Steps, stage.Train.Leaves)
				f := newFleet(t, stage)
				if m := f.play("train", segments); m.StateHash != want.StateHash {
					t.Errorf("schedule %+v, %s: weights differ from those of the undisturbed run", segments, stage.Train.Sharding)
				}
				f.sameCurve(curve)
			})
		}
	}
}

// TestEveryOptimizerOnAnySchedule: so it is with optimizers that own whole tensors or quantized blocks.
func TestEveryOptimizerOnAnySchedule(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i, name := range optim.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage := elasticStage("full")
			stage.Train.Optim.Name = name
			stage.Train.Optim.Options = &schemas.OptimOptions{Rank: 4, Interval: 3}
			undisturbed := newFleet(t, stage)
			want, curve := undisturbed.complete("train", 1), undisturbed.losses()
			segments := schedule(rand.New(rand.NewPCG(seed, uint64(i))), stage.Train.Steps, stage.Train.Leaves)
			f := newFleet(t, stage)
			if m := f.play("train", segments); m.StateHash != want.StateHash {
				t.Errorf("schedule %+v: weights differ from those of the undisturbed run", segments)
			}
			f.sameCurve(curve)
		})
	}
}

// TestFastReductionIsClose: without canonical order the loss curve of any schedule stays within 1e-3 of the undisturbed one.
func TestFastReductionIsClose(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for i, method := range []string{"full", "lora"} {
		stage := elasticStage(method)
		stage.Train.Reduction = "fast"
		undisturbed := newFleet(t, stage)
		undisturbed.complete("train", 1)
		want := undisturbed.losses()
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for range 3 {
			segments := schedule(r, stage.Train.Steps, stage.Train.Leaves)
			f := newFleet(t, stage)
			f.play("train", segments)
			for s, l := range f.losses() {
				if d := math.Abs(l-want[s]) / want[s]; !(d <= 1e-3) {
					t.Errorf("%s, schedule %+v: step %d has loss %v, undisturbed %v", method, segments, s+1, l, want[s])
				}
			}
		}
	}
}
