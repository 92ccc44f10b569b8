package adapter

import "math"

// fma32 is x*y + z rounded once to float32, the operation that matrix products of PyTorch on CPUs with FMA chain over k. The sum is taken
// in float64, where the product is exact; when that sum lies exactly between two float32 but is itself rounded, it is moved by its last bit
// towards the error, so that rounding twice gives what rounding once does (the method of musl's fmaf).
func fma32(x, y, z float32) float32 {
	xy := float64(float64(x) * float64(y))
	c := float64(z)
	r := float64(xy + c)
	u := math.Float64bits(r)
	if u&0x1fffffff != 0x10000000 || u>>52&0x7ff == 0x7ff || (float64(r-xy) == c && float64(r-c) == xy) {
		return float32(r)
	}
	neg := u>>63 != 0
	var e float64
	if neg == (c > xy) {
		e = float64(xy-r) + c
	} else {
		e = float64(c-r) + xy
	}
	if neg == (e < 0) {
		u++
	} else {
		u--
	}
	return float32(math.Float64frombits(u))
}

// productRow is one row of b A as PyTorch computes it in float32: for each column a chain of FMA over k. b is [rank], A [rank, in].
func productRow(dst, b, a []float32, in, col int64) {
	clear(dst)
	for k, bk := range b {
		for j, v := range a[int64(k)*in+col : int64(k)*in+col+int64(len(dst))] {
			dst[j] = fma32(bk, v, dst[j])
		}
	}
}
