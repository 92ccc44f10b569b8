package adapter

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// TestFMARoundsOnce compares with exact arithmetic, also where the sum lies near the middle of two float32.
func TestFMARoundsOnce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	exact := func(x, y, z float32) float32 {
		p := new(big.Float).SetPrec(200).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
		f, _ := p.Add(p, big.NewFloat(float64(z))).Float32()
		return f
	}
	twice := 0
	for range 200_000 {
		x, y := float32(r.NormFloat64()), float32(r.NormFloat64())
		// z is 2^24 to 2^29 times larger than the product: where rounding twice can go wrong.
		z := float32(math.Ldexp(r.Float64()+1, 20+r.IntN(12)))
		if r.IntN(2) == 0 {
			z = float32(r.NormFloat64())
		}
		got, want := fma32(x, y, z), exact(x, y, z)
		if got != want {
			t.Fatalf("fma(%v, %v, %v) = %v, want %v", x, y, z, got, want)
		}
		if float32(float64(x)*float64(y)+float64(z)) != want {
			twice++
		}
	}
	// A case where rounding twice is wrong: 2^24+1 + 2^-30 rounds up, its float64 lies in the middle and rounds to even.
	x, y, z := float32(math.Ldexp(1, -15)), float32(math.Ldexp(1, -15)), float32(1<<24)
	if got, want := fma32(x, y, z+2), exact(x, y, z+2); got != want {
		t.Fatalf("%v, want %v", got, want)
	}
	t.Logf("%d sums would be wrong when rounded twice", twice)
}
