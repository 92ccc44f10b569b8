package nn

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func ptr(v float64) *float64 { return &v }

// The reference values come from the formulas of transformers' modeling_rope_utils.py, evaluated in Python.
func TestRopeFrequencies(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		rope   Rope
		seq    int
		want   []float64
		factor float64
	}{
		{"default", Rope{Dim: 4, Theta: 10000, MaxPos: 32}, 8, []float64{1, 0.01}, 1},
		{"linear", Rope{Dim: 4, Theta: 10000, MaxPos: 32, Scaling: &RopeScaling{OldType: "linear", Factor: ptr(4)}}, 8, []float64{0.25, 0.0025}, 1},
		{"llama3", Rope{Dim: 8, Theta: 500000, MaxPos: 128, Scaling: &RopeScaling{Type: "llama3", Factor: ptr(8), LowFreqFactor: ptr(1), HighFreqFactor: ptr(4),
			OriginalMax: ptr(64)}}, 24, []float64{1, 0.004700753866357992, 0.00017677669529663688, 6.647869871181236e-06}, 1},
		{"yarn", Rope{Dim: 8, Theta: 10000, MaxPos: 128, Scaling: &RopeScaling{Type: "yarn", Factor: ptr(4), OriginalMax: ptr(32), BetaFast: ptr(4), BetaSlow: ptr(0.25)}},
			24, []float64{1, 0.0625, 0.0025, 0.00025}, 1.138629436111989},
		{"yarn factor", Rope{Dim: 8, Theta: 10000, MaxPos: 128, Scaling: &RopeScaling{Type: "yarn", Factor: ptr(4), OriginalMax: ptr(32), BetaFast: ptr(4),
			BetaSlow: ptr(0.25), AttentionFactor: ptr(1.3)}}, 24, []float64{1, 0.0625, 0.0025, 0.00025}, 1.3},
		{"dynamic long", Rope{Dim: 8, Theta: 10000, MaxPos: 16, Scaling: &RopeScaling{Type: "dynamic", Factor: ptr(2)}}, 24,
			[]float64{1, 0.07937005259840997, 0.006299605249474366, 0.0005}, 1},
		{"dynamic short", Rope{Dim: 4, Theta: 10000, MaxPos: 16, Scaling: &RopeScaling{Type: "dynamic", Factor: ptr(2)}}, 9, []float64{1, 0.01}, 1},
	}
	for _, c := range cases {
		if err := c.rope.Validate(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got, factor := c.rope.Frequencies(c.seq)
		for i, w := range c.want {
			if math.Abs(float64(got[i])-w) > 1e-6*w {
				t.Errorf("%s: frequency %d is %g, want %g", c.name, i, got[i], w)
			}
		}
		if len(got) != len(c.want) || math.Abs(factor-c.factor) > 1e-12 {
			t.Errorf("%s: %d frequencies, factor %g, want %d and %g", c.name, len(got), factor, len(c.want), c.factor)
		}
	}
}

func TestRopeTablesBeginAnywhere(t *testing.T) {
	t.Parallel()
	r := Rope{Dim: 6, Theta: 10000, MaxPos: 64}
	cos, sin := r.Tables(0, 40, 40)
	c, s := r.Tables(17, 40, 40)
	if !slices.Equal(c, cos[17*3:]) || !slices.Equal(s, sin[17*3:]) {
		t.Fatal("tables of later positions differ")
	}
}

func TestBatchTargets(t *testing.T) {
	t.Parallel()
	b := &Batch{Rows: 2, Seq: 3, IDs: []int32{1, 2, 3, 4, 5, 6}, Labels: []int32{1, -100, 3, 4, 5, 6}}
	if got := b.Targets(); !slices.Equal(got, []int32{-100, 3, -100, 5, 6, -100}) {
		t.Errorf("targets %v", got)
	}
	if n := b.LabelTokens(); n != 5 {
		t.Errorf("%d label tokens, want 5 (position 0 counts)", n)
	}
	p := &Batch{Rows: 1, Seq: 5, IDs: make([]int32, 5), Labels: []int32{1, 2, 3, 4, 5}, Docs: []int32{0, 2, 5}}
	if got := p.Targets(); !slices.Equal(got, []int32{2, -100, 4, 5, -100}) {
		t.Errorf("targets cross a document: %v", got)
	}
}

func TestBatchValidate(t *testing.T) {
	t.Parallel()
	ok := func() *Batch { return &Batch{Rows: 1, Seq: 3, IDs: []int32{0, 1, 2}, Labels: []int32{0, -100, 2}} }
	if err := ok().Validate(3); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Batch){
		"vocabulary": func(b *Batch) { b.IDs[1] = 3 },
		"label":      func(b *Batch) { b.Labels[1] = -7 },
		"has":        func(b *Batch) { b.IDs = b.IDs[:2] },
		"mask":       func(b *Batch) { b.Mask = []uint8{1} },
		"negative":   func(b *Batch) { b.Positions = []int32{0, -1, 0} },
		"cover":      func(b *Batch) { b.Docs = []int32{0, 2} },
		"ascending":  func(b *Batch) { b.Docs = []int32{0, 2, 1, 3} },
	} {
		b := ok()
		change(b)
		if err := b.Validate(3); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// Yarn over one rotated element has no frequency, as in transformers, and rotates nothing; dynamic scaling of two divides by zero there.
func TestSmallRotaryDimensions(t *testing.T) {
	t.Parallel()
	factor := 4.0
	r := Rope{Dim: 1, Odd: true, Theta: 1e4, MaxPos: 16, Scaling: &RopeScaling{Type: "yarn", Factor: &factor}}
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	if inv, _ := r.Frequencies(16); len(inv) != 0 || r.RotDim() != 0 {
		t.Errorf("yarn over one element has %d frequencies and rotates %d elements", len(inv), r.RotDim())
	}
	r.Dim, r.Scaling.Type = 2, "dynamic"
	if err := r.Validate(); err == nil {
		t.Error("dynamic scaling of two elements was accepted")
	}
}
