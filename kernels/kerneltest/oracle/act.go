package oracle

import "math"

// The activations, by their names in package kernels.
const (
	SiLU     = "silu"
	GELUTanh = "gelu_tanh"
	GELUErf  = "gelu_erf"
	ReLU     = "relu"
	ReLU2    = "relu2"
	Tanh     = "tanh"
)

// Act is an activation at x (GELU: Hendrycks and Gimpel 2016; ReLU squared: So et al. 2021).
func Act(name string, x float64) float64 {
	switch name {
	case SiLU:
		return x * sigmoid(x)
	case GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case GELUErf:
		return 0.5 * x * (1 + math.Erf(x/math.Sqrt2))
	case ReLU:
		return max(x, 0)
	case ReLU2:
		return max(x, 0) * max(x, 0)
	case Tanh:
		return math.Tanh(x)
	}
	return math.NaN()
}

// ActSlope is the derivative of an activation at x; 0 at the kinks.
func ActSlope(name string, x float64) float64 {
	switch name {
	case SiLU:
		s := sigmoid(x)
		return s * (1 + x*(1-s))
	case GELUTanh:
		c := math.Sqrt(2 / math.Pi)
		t := math.Tanh(c * (x + 0.044715*x*x*x))
		return 0.5*(1+t) + 0.5*x*(1-t*t)*c*(1+3*0.044715*x*x)
	case GELUErf:
		return 0.5*(1+math.Erf(x/math.Sqrt2)) + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
	case ReLU:
		if x > 0 {
			return 1
		}
		return 0
	case ReLU2:
		return 2 * max(x, 0)
	case Tanh:
		t := math.Tanh(x)
		return 1 - t*t
	}
	return math.NaN()
}

// GLU computes act(gate) * up elementwise.
func GLU(name string, gate, up []float64) []float64 {
	y := make([]float64, len(gate))
	for i := range y {
		y[i] = Act(name, gate[i]) * up[i]
	}
	return y
}

// GLUBackward returns dgate and dup.
func GLUBackward(name string, gate, up, dy []float64) (dgate, dup []float64) {
	dgate, dup = make([]float64, len(gate)), make([]float64, len(gate))
	for i := range gate {
		dgate[i] = ActSlope(name, gate[i]) * up[i] * dy[i]
		dup[i] = Act(name, gate[i]) * dy[i]
	}
	return dgate, dup
}
