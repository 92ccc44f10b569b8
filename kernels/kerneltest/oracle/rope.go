package oracle

// Rope rotates the first rot dimensions of every head. x is [tokens, heads, dim]; cos and sin are [positions, rot/2]; pos gives the row of
// the tables for each token. Half pairs dimension i with i+rot/2 (GPT-NeoX, Llama in HF's layout), interleaved pairs 2i with 2i+1 (GPT-J).
func Rope(x, cos, sin []float64, pos []int32, heads, dim, rot int, interleaved bool) []float64 {
	return rotate(x, cos, sin, pos, heads, dim, rot, interleaved, 1)
}

// RopeBackward is the rotation by the negative angle: a rotation's transpose.
func RopeBackward(dy, cos, sin []float64, pos []int32, heads, dim, rot int, interleaved bool) []float64 {
	return rotate(dy, cos, sin, pos, heads, dim, rot, interleaved, -1)
}

func rotate(x, cos, sin []float64, pos []int32, heads, dim, rot int, interleaved bool, sign float64) []float64 {
	y := append([]float64(nil), x...)
	half := rot / 2
	for t := range pos {
		for h := range heads {
			o := (t*heads + h) * dim
			for i := range half {
				a, b := o+i, o+i+half
				if interleaved {
					a, b = o+2*i, o+2*i+1
				}
				c, s := cos[int(pos[t])*half+i], sign*sin[int(pos[t])*half+i]
				y[a], y[b] = x[a]*c-x[b]*s, x[b]*c+x[a]*s
			}
		}
	}
	return y
}
