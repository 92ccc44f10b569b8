package oracle

import "math"

// CentralDifference returns the numeric gradient of f at x: (f(x+h) - f(x-h)) / 2h for each element. f must not keep x.
func CentralDifference(f func(x []float64) float64, x []float64, h float64) []float64 {
	g := make([]float64, len(x))
	x = append([]float64(nil), x...)
	for i := range x {
		at := x[i]
		x[i] = at + h
		up := f(x)
		x[i] = at - h
		down := f(x)
		x[i] = at
		g[i] = (up - down) / (2 * h)
	}
	return g
}

// RelativeL2 is ||got - want|| / ||want||, or ||got|| when want is zero; +Inf when the lengths differ or got holds a NaN.
func RelativeL2(got, want []float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var d, n float64
	for i := range want {
		d += (got[i] - want[i]) * (got[i] - want[i])
		n += want[i] * want[i]
	}
	if math.IsNaN(d) {
		return math.Inf(1)
	}
	if n == 0 {
		return math.Sqrt(d)
	}
	return math.Sqrt(d / n)
}
