package optim

import (
	"math"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// muon is https://kellerjordan.github.io/posts/muon/ with the learning rates of https://arxiv.org/abs/2502.16982: the momentum of every
// matrix is replaced by an orthogonal one. Embedding, head, norms, biases and adapters are AdamW's. Unlike the reference, which iterates
// in bfloat16, products are float32.
type muon struct {
	adamw
	scratch
}

func (o *muon) Whole(p *autograd.Param) bool { return o.orthogonal(p) }

// Close implements Optimizer.
func (o *muon) Close() { o.scratch.Close() }

func (o *muon) orthogonal(p *autograd.Param) bool {
	return len(p.Shape) == 2 && p.Role == autograd.RoleMatrix && !headName(p.Name) && !strings.Contains(p.Name, "embed")
}

func (o *muon) State(p *autograd.Param) []StateTensor {
	if !o.orthogonal(p) {
		return moments()
	}
	return []StateTensor{{Name: "muon_m", DType: kernels.F32, Block: 1}}
}

func (o *muon) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	var most int64
	for _, t := range stretches {
		if o.orthogonal(t.Param) {
			n := min(t.Param.Shape[0], t.Param.Shape[1])
			most = max(most, 4*(t.Len+2*n*n)+8*((t.Len+4095)/4096)+4*256)
		}
	}
	if err := o.reserve(q, most); err != nil {
		return err
	}
	for _, t := range stretches {
		if o.orthogonal(t.Param) {
			o.matrix(q, s, t)
		} else {
			o.one(q, s, t)
		}
	}
	return done(q)
}

func (o *muon) matrix(q *kernels.Queue, s Step, t Stretch) {
	o.arena.Reset()
	m, mu := t.State[0], float32(o.Momentum)
	q.Add(kernels.Add{A: m, B: t.G, Y: m, Alpha: mu, Beta: float32(1-o.Momentum) * s.Clip})
	x := t.G
	if o.Nesterov {
		q.Add(kernels.Add{A: t.G, B: m, Y: x, Alpha: float32(1-o.Momentum) * s.Clip, Beta: mu})
	} else {
		q.Copy(kernels.Copy{X: m, Y: x})
	}
	rows, cols := t.Param.Shape[0], t.Param.Shape[1]
	u := x.Reshape(rows, cols)
	if rows > cols {
		u = u.T()
	}
	u = o.newtonSchulz(q, u)
	if rows > cols {
		u = u.T()
	}
	lr := s.LR * t.LRScale
	ratio := math.Sqrt(max(1, float64(rows)/float64(cols)))
	if o.Muon.AdjustLR == "match_rms_adamw" {
		ratio = 0.2 * math.Sqrt(float64(max(rows, cols)))
	}
	p := t.P.Reshape(rows, cols)
	if rows > cols {
		// The kernel wants rows of stride 1: transpose by a copy. The gradient's memory is free by now.
		g := t.G.Reshape(rows, cols)
		q.Copy(kernels.Copy{X: u, Y: g})
		u = g
	}
	q.Add(kernels.Add{A: p, B: u, Y: p, Alpha: float32(1 - lr*t.Decay), Beta: float32(-lr * ratio)})
}

// newtonSchulz brings all singular values of x (rows <= columns) near 1 by the quintic iteration of the reference. The result is in
// scratch.
func (o *muon) newtonSchulz(q *kernels.Queue, x kernels.Tensor) kernels.Tensor {
	const a, b, c, eps = 3.4445, -4.7750, 2.0315, 1e-7
	n, m := x.Dim[0], x.Dim[1]
	take := func(dt kernels.DType, dims ...int64) kernels.Tensor {
		y, err := o.arena.New(dt, dims...)
		if err != nil {
			q.Fail(err)
		}
		return y
	}
	y, gram, poly := take(kernels.F32, n, m), take(kernels.F32, n, n), take(kernels.F32, n, n)
	q.Copy(kernels.Copy{X: x, Y: y})
	sums := take(kernels.F64, (n*m+4095)/4096)
	q.SqNorm(kernels.SqNorm{X: y.Reshape(n * m), Partials: sums})
	part := make([]float64, sums.Numel())
	if err := kernels.Download(q, part, sums); err != nil {
		q.Fail(err)
	}
	var sq float64
	for _, v := range part {
		sq += v
	}
	q.Add(kernels.Add{A: y, Y: y, Alpha: float32(1 / max(math.Sqrt(sq), eps))})
	// y and other take turns; the gradient's memory (x) has been read and is free.
	other := kernels.NewTensor(x.Data, kernels.F32, n, m)
	for range o.Muon.Iterations {
		q.Gemm(kernels.Gemm{A: y, B: y.T(), C: gram, Alpha: 1})
		q.Copy(kernels.Copy{X: gram, Y: poly})
		q.Add(kernels.Add{A: poly, Y: poly, Alpha: b})
		q.Gemm(kernels.Gemm{A: gram, B: gram, C: poly, Alpha: c, Accumulate: 1})
		q.Add(kernels.Add{A: y, Y: other, Alpha: a})
		q.Gemm(kernels.Gemm{A: poly, B: y, C: other, Alpha: 1, Accumulate: 1})
		y, other = other, y
	}
	if y.Data == x.Data {
		q.Copy(kernels.Copy{X: y, Y: other})
		y = other
	}
	return y
}
