package train

import (
	"github.com/tunefleet/tunefleet/gpuworker/data/pyrand"
	"github.com/tunefleet/tunefleet/schemas"
	"slices"
	"testing"
)

// The known answers of the Random123 distribution (kat_vectors) for philox4x32, 10 rounds.
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		key  [2]uint32
		ctr  [4]uint32
		want [4]uint32
	}{
		{[2]uint32{}, [4]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[2]uint32{0xffffffff, 0xffffffff}, [4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[2]uint32{0xa4093822, 0x299f31d0}, [4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, [4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		if got := philox(c.key, c.ctr); got != c.want {
			t.Errorf("philox(%x, %x) = %x, want %x", c.key, c.ctr, got, c.want)
		}
	}
}

func TestPermutationIsAPureFunctionOfSeedAndEpoch(t *testing.T) {
	a := permutation(7, 3, 1000)
	if !slices.Equal(a, permutation(7, 3, 1000)) {
		t.Fatal("the same seed and epoch give another order")
	}
	if slices.Equal(a, permutation(7, 4, 1000)) || slices.Equal(a, permutation(8, 3, 1000)) {
		t.Fatal("another epoch or seed gives the same order")
	}
	sorted := slices.Clone(a)
	slices.Sort(sorted)
	for i, v := range sorted {
		if int(v) != i {
			t.Fatalf("not a permutation: %d at %d", v, i)
		}
	}
}

func TestPlannerCountsStepsAsTransformersDoes(t *testing.T) {
	for _, c := range []struct {
		samples, micro, leaves int
		epochs                 float64
		steps, want, perEpoch  int64
	}{
		{100, 4, 5, 1, 0, 5, 5},
		{101, 4, 5, 1, 0, 6, 6},
		{101, 4, 5, 2.5, 0, 15, 6},
		{101, 4, 5, 0.1, 0, 1, 6},
		{3, 4, 5, 2, 0, 2, 1},
		{101, 4, 5, 9, 7, 7, 6},
	} {
		p, err := NewPlanner(1, c.samples, c.micro, c.leaves, c.epochs, c.steps, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p.Total() != c.want || p.PerEpoch() != c.perEpoch {
			t.Errorf("%+v: %d steps, %d an epoch", c, p.Total(), p.PerEpoch())
		}
	}
	if _, err := NewPlanner(1, 0, 1, 1, 1, 0, nil); err == nil {
		t.Error("no samples were accepted")
	}
}

func TestEveryEpochVisitsEverySampleOnce(t *testing.T) {
	p, err := NewPlanner(11, 23, 2, 3, 2, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for epoch := range int64(2) {
		var seen []int32
		for s := range p.PerEpoch() {
			step := epoch*p.PerEpoch() + s
			n := 0
			for l := range p.Leaves(step) {
				leaf := p.Leaf(step, l)
				n += len(leaf)
				seen = append(seen, leaf...)
			}
			if n != len(p.Step(step)) {
				t.Fatalf("step %d: leaves have %d samples of %d", step, n, len(p.Step(step)))
			}
		}
		slices.Sort(seen)
		for i, v := range seen {
			if int(v) != i {
				t.Fatalf("epoch %d: sample %d at %d", epoch, v, i)
			}
		}
		if len(seen) != 23 {
			t.Fatalf("epoch %d visits %d samples", epoch, len(seen))
		}
	}
}

// TestTorchOrder deals 189 rows in batches of 2 as the recorded runs of two set-ups do: one device, and two whose last turn is filled.
func TestTorchOrder(t *testing.T) {
	order, err := pyrand.Randperm(189, 42)
	if err != nil {
		t.Fatal(err)
	}
	one, err := NewPlanner(1, 189, 2, 4, 1.5, 0, &schemas.SampleOrder{Kind: "torch", Seed: 42, Deal: 1})
	if err != nil || one.PerEpoch() != 24 || one.Total() != 36 {
		t.Fatalf("%d steps of %d, %v", one.Total(), one.PerEpoch(), err)
	}
	if got := one.Leaves(23); got != 3 || !slices.Equal(one.Leaf(23, 2), order[188:]) {
		t.Fatalf("the last step has %d leaves, the last is %v", got, one.Leaf(23, 2))
	}
	if e := one.Epoch(1); e != 4.0/95 || one.Epoch(24) != 1 || one.Epoch(25) != 1+4.0/95 {
		t.Fatalf("epochs %g %g %g", e, one.Epoch(24), one.Epoch(25))
	}
	next, err := pyrand.Randperm(189, 43)
	if err != nil || !slices.Equal(one.Leaf(24, 0), next[:2]) {
		t.Fatalf("the second epoch begins with %v, %v", one.Leaf(24, 0), err)
	}
	two, err := NewPlanner(1, 189, 2, 4, 1, 0, &schemas.SampleOrder{Kind: "torch", Seed: 42, Deal: 2})
	if err != nil || two.PerEpoch() != 24 {
		t.Fatalf("%d steps, %v", two.PerEpoch(), err)
	}
	last := two.Step(23)
	if want := append(slices.Clone(order[184:]), order[:3]...); !slices.Equal(last, want) {
		t.Fatalf("the last turn is %v, want %v", last, want)
	}
	drop, err := NewPlanner(1, 189, 2, 4, 1, 0, &schemas.SampleOrder{Kind: "sequential", DropLast: true})
	if err != nil || drop.Leaves(23) != 2 || !slices.Equal(drop.Leaf(23, 1), []int32{186, 187}) {
		t.Fatalf("%d leaves at the end, %v", drop.Leaves(23), err)
	}
	tiny, err := NewPlanner(1, 2, 2, 3, 1, 0, &schemas.SampleOrder{Kind: "sequential", Deal: 3})
	if err != nil || !slices.Equal(tiny.Step(0), []int32{0, 1, 0, 1, 0, 1}) {
		t.Fatalf("two samples on three devices: %v, %v", tiny.Step(0), err)
	}
}

// TestOpenDocuments: documents that see each other are one for attention, with positions that begin again.
func TestOpenDocuments(t *testing.T) {
	a := Sequence{IDs: []int32{1, 2, 3, 4, 5}, Labels: []int32{1, 2, 3, 4, 5}, Docs: []int32{0, 2, 5}, Open: true}
	b, err := makeBatch([]Sequence{a, a})
	if err != nil || b.Rows != 2 || b.Docs != nil || !slices.Equal(b.Positions, []int32{0, 1, 0, 1, 2, 0, 1, 0, 1, 2}) {
		t.Fatalf("%+v %v", b, err)
	}
	short := Sequence{IDs: []int32{6}, Labels: []int32{6}, Docs: []int32{0, 1}, Open: true}
	b, err = makeBatch([]Sequence{a, short})
	if err != nil || !slices.Equal(b.Docs, []int32{0, 5, 6}) || !slices.Equal(b.Positions, []int32{0, 1, 0, 1, 2, 0}) {
		t.Fatalf("%+v %v", b, err)
	}
}

// TestStreamsThatEndWithinAStep: 7 micro-batches in steps of 3 make two steps a pass; the one left over is the first leaf of the next pass's
// first step, and counts by itself.
func TestStreamsThatEndWithinAStep(t *testing.T) {
	stream := &schemas.SampleOrder{Kind: "sequential", Stream: true}
	p, err := NewPlanner(1, 14+9, 2, 3, 0, 6, stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetPasses([]int{14, 9}); err != nil {
		t.Fatal(err)
	}
	want := [][][]int32{
		{{0, 1}, {2, 3}, {4, 5}}, {{6, 7}, {8, 9}, {10, 11}},
		{{12, 13}, {14, 15}, {16, 17}, {18, 19}}, // the second pass: 5 micro-batches, one step
		{{20, 21}, {22}, {0, 1}, {2, 3}, {4, 5}}, // the passes begin again
		{{6, 7}, {8, 9}, {10, 11}},
		{{12, 13}, {14, 15}, {16, 17}, {18, 19}},
	}
	carried := []int{0, 0, 1, 2, 0, 1}
	epochs := []float64{1. / 6, 2. / 6, 1 + 1./6, 2 + 1./6, 2 + 2./6, 3 + 1./6}
	for step, leaves := range want {
		s := int64(step)
		if p.Leaves(s) != len(leaves) || p.Carried(s) != carried[step] || p.Epoch(s+1) != epochs[step] {
			t.Errorf("step %d: %d leaves, %d carried, epoch %v", step, p.Leaves(s), p.Carried(s), p.Epoch(s+1))
			continue
		}
		for leaf, samples := range leaves {
			window := len(leaves) - carried[step]
			if leaf < carried[step] {
				window = carried[step]
			}
			if got := p.Leaf(s, leaf); !slices.Equal(got, samples) || p.Window(s, leaf) != window {
				t.Errorf("step %d, leaf %d: samples %v of a window of %d", step, leaf, got, p.Window(s, leaf))
			}
		}
	}
	if _, err := NewPlanner(1, 5, 2, 4, 0, 6, stream); !schemas.IsCode(err, schemas.CodeData) {
		t.Errorf("a stream that never fills a step: %v", err)
	}
	if err := p.SetPasses([]int{14, 8}); err == nil {
		t.Error("passes of other samples are accepted")
	}
	one, err := NewPlanner(1, 14, 2, 3, 0, 5, stream)
	if err != nil {
		t.Fatal(err)
	}
	if got := one.Leaf(2, 0); one.Leaves(2) != 4 || !slices.Equal(got, []int32{12, 13}) {
		t.Errorf("without passes: %v of %d leaves", got, one.Leaves(2))
	}
}
