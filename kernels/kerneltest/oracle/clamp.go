package oracle

// Clamp bounds each element from below and above.
func Clamp(x []float64, lo, hi float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = min(max(v, lo), hi)
	}
	return y
}

// ClampBackward passes dy where x lies within the limits (torch.clamp's rule: the limits themselves belong to it).
func ClampBackward(x, dy []float64, lo, hi float64) []float64 {
	dx := make([]float64, len(x))
	for i, v := range x {
		if v >= lo && v <= hi {
			dx[i] = dy[i]
		}
	}
	return dx
}
