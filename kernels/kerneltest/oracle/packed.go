package oracle

// nf4 are the quantiles of https://arxiv.org/abs/2305.14314, appendix E.
var nf4 = [16]float64{-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
	-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434,
	0.5626170039176941, 0.7229568362236023, 1}

// NF4 expands n elements: two codes a byte, the first in the high half, a scale for each 64. With scaleCodes the scales are
// scales[code] * scales[256 + block/256] + the last of scales.
func NF4(codes, scaleCodes []uint8, scales []float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		c := codes[i/2] >> 4
		if i%2 == 1 {
			c = codes[i/2] & 15
		}
		block := i / 64
		s := 0.0
		if scaleCodes != nil {
			s = scales[scaleCodes[block]]*scales[256+block/256] + scales[len(scales)-1]
		} else {
			s = scales[block]
		}
		out[i] = nf4[c] * s
	}
	return out
}

// Int8 expands rows of cols signed codes with a scale each.
func Int8(codes []uint8, scales []float64, cols int) []float64 {
	out := make([]float64, len(codes))
	for i, c := range codes {
		out[i] = float64(int8(c)) * scales[i/cols] / 127
	}
	return out
}
