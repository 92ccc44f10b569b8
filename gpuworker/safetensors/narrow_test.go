package safetensors

import (
	"math"
	"math/rand/v2"
	"testing"
)

// nearestOf is the 16-bit code whose value is the nearest, by looking at all of them: ties go to the even code.
func nearestOf(v float32, value func(uint16) float64, infinity uint16) uint16 {
	best, dist := uint16(0), math.Inf(1)
	for c := range infinity { // finite, not negative
		d := math.Abs(value(c) - math.Abs(float64(v)))
		if d < dist || d == dist && c%2 == 0 {
			best, dist = c, d
		}
	}
	// The next code after the largest would be the first infinite one.
	last := infinity - 1
	if top, step := value(last), value(last)-value(last-1); math.Abs(float64(v)) >= top+step/2 {
		best = infinity
	}
	if math.Signbit(float64(v)) {
		best |= 0x8000
	}
	return best
}

func TestNarrowingRoundsToTheNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var values []float32
	for _, v := range []float32{0, 1, 65504, 65519.996, 65520, 65536, 1e-8, 5.9604645e-8, 2.9802322e-8, 2.98023259e-8, 6.1035156e-5, 6.1005e-5, 3.3895314e38, 3.4028235e38, float32(math.Inf(1))} {
		values = append(values, v, -v)
	}
	for range 60 {
		values = append(values, float32(r.NormFloat64()*math.Exp2(float64(r.IntN(44)-28))))
	}
	half := func(c uint16) float64 { return float64(halfToFloat(c)) }
	brain := func(c uint16) float64 { return float64(math.Float32frombits(uint32(c) << 16)) }
	for _, v := range values {
		if got, want := floatToHalf(v), nearestOf(v, half, 0x7c00); got != want {
			t.Errorf("%g in binary16 is %#04x, the nearest is %#04x", v, got, want)
		}
		if got, want := floatToBrain(v), nearestOf(v, brain, 0x7f80); got != want {
			t.Errorf("%g in bfloat16 is %#04x, the nearest is %#04x", v, got, want)
		}
	}
	nan := float32(math.NaN())
	if h, b := halfToFloat(floatToHalf(nan)), brain(floatToBrain(nan)); !math.IsNaN(float64(h)) || !math.IsNaN(b) {
		t.Errorf("no number became %g and %g", h, b)
	}
	// Every code survives there and back.
	for c := range uint16(0x7c00) {
		if got := floatToHalf(halfToFloat(c)); got != c {
			t.Fatalf("binary16 %#04x became %#04x", c, got)
		}
	}
	for c := range uint16(0x7f80) {
		if got := floatToBrain(math.Float32frombits(uint32(c) << 16)); got != c {
			t.Fatalf("bfloat16 %#04x became %#04x", c, got)
		}
	}
}
