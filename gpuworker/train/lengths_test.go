package train

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// The expected orders are those of transformers.trainer_pt_utils.get_length_grouped_indices with the same permutation.
func TestGroupByLengthEqualsTransformers(t *testing.T) {
	t.Parallel()
	length := func(i int) int { return i*7919%23 + 1 }
	var order []int32
	for i := range 37 {
		order = append(order, int32((i*11+5)%37))
	}
	for batch, want := range map[int][]int32{
		4:  {36, 12, 5, 8, 34, 1, 27, 23, 26, 19, 22, 15, 11, 4, 30, 0, 16, 3, 29, 25, 18, 14, 7, 33, 13, 6, 32, 2, 28, 21, 17, 10, 9, 35, 31, 24, 20},
		12: {36, 19, 12, 15, 5, 8, 34, 1, 27, 4, 30, 23, 16, 26, 3, 29, 22, 25, 18, 11, 14, 7, 33, 0, 13, 6, 32, 9, 35, 2, 28, 21, 24, 17, 20, 10, 31},
	} {
		if got := groupByLength(order, batch, length); !slices.Equal(got, want) {
			t.Errorf("batch %d: %v, want %v", batch, got, want)
		}
	}
}

// Leaves are filled up to the limit, every sample of an epoch comes once, and steps are found again in any order.
func TestFillTokens(t *testing.T) {
	t.Parallel()
	length := func(i int) int { return i*31%17 + 1 }
	const limit, samples, leaves = 20, 50, 3
	plan := func(epochs float64) *Planner {
		p, err := NewPlanner(9, samples, 2, leaves, epochs, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.FillTokens(limit, length, epochs, 0); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := plan(3)
	seen := map[int32]int{}
	var steps [][]int32
	for step := range p.Total() {
		steps = append(steps, slices.Clone(p.Step(step)))
		if n := p.Leaves(step); n < 1 || n > leaves {
			t.Fatalf("step %d has %d leaves", step, n)
		}
		for leaf := range p.Leaves(step) {
			sum := 0
			for _, i := range p.Leaf(step, leaf) {
				sum += length(int(i))
				seen[i]++
			}
			if sum > limit {
				t.Errorf("step %d leaf %d has %d tokens", step, leaf, sum)
			}
		}
	}
	for i := range int32(samples) {
		if seen[i] != 3 {
			t.Errorf("sample %d came %d times in 3 epochs", i, seen[i])
		}
	}
	q := plan(3)
	for step := p.Total() - 1; step >= 0; step-- {
		if !slices.Equal(q.Step(step), steps[step]) {
			t.Errorf("step %d is another one when asked for first", step)
		}
	}
	if half := plan(1.5).Total(); half <= plan(1).Total() || half >= plan(2).Total() {
		t.Errorf("1.5 epochs have %d steps", half)
	}
	if err := p.FillTokens(0, length, 1, 0); err == nil {
		t.Error("leaves of no tokens were accepted")
	}
}

// lengthData tells lengths.
type lengthData struct{ *toyData }

func (d lengthData) Length(i int) int { return len(d.rows[i].IDs) }

// The loss of a step is that of its tokens, however they are cut into leaves; and with either feature, ranks and interruptions change nothing.
func TestLengthsInTraining(t *testing.T) {
	stage := func(f schemas.TrainFeatures, micro, leaves int) schemas.Stage {
		s := toyStage("train", "full")
		s.Train.Features, s.Train.MicroBatch, s.Train.Leaves = &f, micro, leaves
		s.Train.Epochs, s.Train.Steps = 1, 0
		return s
	}
	run := func(s schemas.Stage) *fleet {
		f := newFleet(t, s)
		f.rows = lengthData{newToyData(23, 5)}
		return f
	}
	one, cut := run(stage(schemas.TrainFeatures{}, 23, 1)), run(stage(schemas.TrainFeatures{MaxTokens: 30}, 23, 23))
	one.complete("train", 1)
	cut.complete("train", 1)
	a, b := one.losses(), cut.losses()
	if len(a) != 1 || len(b) != 1 || math.Abs(a[0]-b[0]) > 1e-6*a[0] {
		t.Errorf("the same tokens in one leaf have the loss %v, in leaves of 30 tokens %v", a, b)
	}
	for name, f := range map[string]schemas.TrainFeatures{"max_tokens": {MaxTokens: 40}, "group_by_length": {GroupByLength: true}, "both": {MaxTokens: 40, GroupByLength: true}, "neftune": {NEFTune: 5}} {
		s := stage(f, 2, 3)
		s.Train.Epochs = 2
		want := run(s).complete("train", 1).StateHash
		if got := run(s).complete("train", 3).StateHash; got != want {
			t.Errorf("%s: 3 ranks gave other weights", name)
		}
		g := run(s)
		if errs := g.generation("train", plan{world: 2, killAt: 3, kill: 1}); errors.Join(errs...) == nil {
			t.Fatal("nothing was lost")
		}
		if got := g.complete("train", 2).StateHash; got != want {
			t.Errorf("%s: killed after step 3, weights differ", name)
		}
		if name == "neftune" {
			p := stage(schemas.TrainFeatures{}, 2, 3)
			p.Train.Epochs = 2
			if run(p).complete("train", 1).StateHash == want {
				t.Error("noise on embeddings changed nothing")
			}
		}
	}
}

// The noise is uniform within alpha/sqrt(length*width) of each sequence and depends on token and step only.
func TestNEFTuneNoise(t *testing.T) {
	t.Parallel()
	b := &nn.Batch{Rows: 1, Seq: 50, IDs: make([]int32, 50), Docs: []int32{0, 40, 50}}
	ids := make([]int64, 50)
	for i := range ids {
		ids[i] = int64(i)
	}
	const width, alpha = 30, 5.0
	v := neftune(b, alpha, 3, 7, ids)(width)
	for _, s := range []struct{ from, to int }{{0, 40}, {40, 50}} {
		most := alpha / math.Sqrt(float64((s.to-s.from)*width))
		var sum, sq float64
		for _, x := range v[s.from*width : s.to*width] {
			if math.Abs(float64(x)) > most {
				t.Fatalf("%g is beyond %g", x, most)
			}
			sum, sq = sum+float64(x), sq+float64(x)*float64(x)
		}
		n := float64((s.to - s.from) * width)
		if m, want := sum/n, most*most/3; math.Abs(m) > 0.2*most || math.Abs(sq/n-want) > 0.2*want {
			t.Errorf("mean %g and mean square %g within %g", m, sq/n, most)
		}
	}
	if again := neftune(b, alpha, 3, 7, ids)(width); !slices.Equal(again, v) {
		t.Error("the same step gave other noise")
	}
	if other := neftune(b, alpha, 3, 8, ids)(width); slices.Equal(other, v) {
		t.Error("another step gave the same noise")
	}
}
