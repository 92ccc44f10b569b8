package metrics

import (
	"math"
	"math/big"
)

// precision of the arithmetic below, in bits: enough that the last rounding to float64 is the right one.
const precision = 160

// exactLog is the natural logarithm of a positive finite number, correctly rounded: the C library that Python calls rounds nearly always
// correctly too, and Go's math.Log does not, which would show in the last digit of a score. Newton's iteration on exp.
func exactLog(x float64) float64 {
	if x <= 0 || math.IsInf(x, 0) || math.IsNaN(x) || x == 1 {
		return math.Log(x)
	}
	y := newBig(math.Log(x))
	want := newBig(x)
	for range 2 {
		e := bigExp(y)
		// y += 2 (x - e) / (x + e), of third order
		num := new(big.Float).SetPrec(precision).Sub(want, e)
		num.Mul(num, newBig(2))
		num.Quo(num, new(big.Float).SetPrec(precision).Add(want, e))
		y.Add(y, num)
	}
	f, _ := y.Float64()
	return f
}

// exactExp is e to the power of x, correctly rounded.
func exactExp(x float64) float64 {
	if x == 0 || math.IsNaN(x) || x > 709 || x < -700 {
		return math.Exp(x)
	}
	f, _ := bigExp(newBig(x)).Float64()
	return f
}

func newBig(x float64) *big.Float { return new(big.Float).SetPrec(precision).SetFloat64(x) }

// bigExp sums Taylor's series of x / 2^k and squares k times.
func bigExp(x *big.Float) *big.Float {
	const halvings = 16
	r := new(big.Float).SetPrec(precision).SetMantExp(x, -halvings)
	sum, term := newBig(1), newBig(1)
	for n := 1; n < 40; n++ {
		term.Mul(term, r)
		term.Quo(term, newBig(float64(n)))
		if term.Sign() == 0 || term.MantExp(nil) < sum.MantExp(nil)-precision {
			break
		}
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum
}
