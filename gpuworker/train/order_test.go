package train

import (
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
		p, err := NewPlanner(1, c.samples, c.micro, c.leaves, c.epochs, c.steps)
		if err != nil {
			t.Fatal(err)
		}
		if p.Total() != c.want || p.PerEpoch() != c.perEpoch {
			t.Errorf("%+v: %d steps, %d an epoch", c, p.Total(), p.PerEpoch())
		}
	}
	if _, err := NewPlanner(1, 0, 1, 1, 1, 0); err == nil {
		t.Error("no samples were accepted")
	}
}

func TestEveryEpochVisitsEverySampleOnce(t *testing.T) {
	p, err := NewPlanner(11, 23, 2, 3, 2, 0)
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
