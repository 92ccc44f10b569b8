package optim

import (
	"math"

	"github.com/tunefleet/tunefleet/kernels"
)

// host is staging memory for the optimizers whose arithmetic runs on the host: it is exact on every backend, and their cost is small
// beside the matrix products of a step. Go never fuses a product that is converted to its own type, so bits are equal on every machine.
type host struct {
	bufs [6][]float32
}

// idle reports that the device only counts: there is nothing to calculate with on the host.
func idle(q *kernels.Queue) bool { return q.Device().Counting() }

// load copies a tensor to staging buffer i. A failure sticks to the queue.
func (h *host) load(q *kernels.Queue, i int, t kernels.Tensor) []float32 {
	v := h.room(i, t.Numel())
	if err := kernels.Download(q, v, t); err != nil {
		q.Fail(err)
	}
	return v
}

// room is staging buffer i of n elements, without content.
func (h *host) room(i int, n int64) []float32 {
	if int64(cap(h.bufs[i])) < n {
		h.bufs[i] = make([]float32, n)
	}
	return h.bufs[i][:n]
}

func (h *host) store(q *kernels.Queue, t kernels.Tensor, v []float32) {
	if err := kernels.Upload(q, t, v); err != nil {
		q.Fail(err)
	}
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// norm is the L2 norm, added in float64.
func norm(v []float32) float32 {
	var s float64
	for _, x := range v {
		s += float64(float64(x) * float64(x))
	}
	return float32(math.Sqrt(s))
}

// adamRow is one Adam update of moments with the bias corrections of transformers' former AdamW: the result is m/(sqrt(v)+eps), and the
// factor sqrt(1-beta2^n)/(1-beta1^n) belongs to the step size.
func (c Config) adamRow(m, v, g, out []float32) {
	b1, c1, b2, c2, eps := float32(c.Beta1), float32(1-c.Beta1), float32(c.Beta2), float32(1-c.Beta2), float32(c.Eps)
	for i, x := range g {
		m[i] = float32(m[i]*b1) + float32(x*c1)
		v[i] = float32(v[i]*b2) + float32(float32(x*x)*c2)
		out[i] = m[i] / (sqrt32(v[i]) + eps)
	}
}

// biasCorrection is sqrt(1-beta2^n)/(1-beta1^n).
func (c Config) biasCorrection(n int64) float64 {
	return math.Sqrt(1-math.Pow(c.Beta2, float64(n))) / (1 - math.Pow(c.Beta1, float64(n)))
}
