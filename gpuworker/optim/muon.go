package optim

import (
	"math"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// muon is https://kellerjordan.github.io/posts/muon/ with the learning rates of https://arxiv.org/abs/2502.16982: the momentum of every
// matrix is replaced by an orthogonal one. Embedding, head, norms, biases and adapters are AdamW's, and unlike the reference, which iterates
// in bfloat16, products are float32; with Moonlight all of it is as in https://github.com/MoonshotAI/Moonlight's example, which LLaMA-Factory
// has: sums instead of means of gradients, bfloat16, adapters' matrices like others, epsilon beside the uncorrected second moment.
type muon struct {
	adamw
	scratch
}

func (o *muon) Whole(p *autograd.Param) bool { return o.orthogonal(p) }

// Close implements Optimizer.
func (o *muon) Close() { o.scratch.Close() }

func (o *muon) orthogonal(p *autograd.Param) bool {
	matrix := p.Role == autograd.RoleMatrix || p.Role == autograd.RoleBias || o.Muon.Moonlight && (p.Role == autograd.RoleLoRAA || p.Role == autograd.RoleLoRAB)
	return len(p.Shape) == 2 && matrix && !headName(p.Name) && !strings.Contains(p.Name, "embed")
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
			most = max(most, 4*(t.Len+2*n*n)+5*256)
			if o.Muon.Moonlight {
				most = max(most, 10*t.Len+6*n*n+9*256)
			}
		}
	}
	if err := o.reserve(q, most); err != nil {
		return err
	}
	for _, t := range stretches {
		if o.orthogonal(t.Param) {
			o.matrix(q, s, t)
		} else {
			o.rest(q, s, t)
		}
	}
	return done(q)
}

// rest is AdamW.
func (o *muon) rest(q *kernels.Queue, s Step, t Stretch) {
	a := o.adamw
	if o.Muon.Moonlight {
		a.Eps /= math.Sqrt(1 - math.Pow(a.Beta2, float64(s.N)))
	}
	a.one(q, s, t)
}

func (o *muon) matrix(q *kernels.Queue, s Step, t Stretch) {
	o.arena.Reset()
	m, mu := t.State[0], float32(o.Momentum)
	share := float32(1-o.Momentum) * s.Clip
	if o.Muon.Moonlight {
		share = s.Clip
	}
	q.Add(kernels.Add{A: m, B: t.G, Y: m, Alpha: mu, Beta: share})
	x := t.G
	if o.Nesterov {
		q.Add(kernels.Add{A: t.G, B: m, Y: x, Alpha: share, Beta: mu})
	} else {
		q.Copy(kernels.Copy{X: m, Y: x})
	}
	rows, cols := t.Param.Shape[0], t.Param.Shape[1]
	u := x.Reshape(rows, cols)
	if rows > cols {
		u = u.T()
	}
	if o.Muon.Moonlight {
		u = o.newtonSchulz16(q, u)
	} else {
		u = o.newtonSchulz(q, u)
	}
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

// quintic is the iteration's polynomial and what keeps its start from being divided by 0.
const quinticA, quinticB, quinticC, quinticEps = 3.4445, -4.7750, 2.0315, 1e-7

// take takes scratch memory.
func (o *muon) take(q *kernels.Queue, dt kernels.DType, dims ...int64) kernels.Tensor {
	y, err := o.arena.New(dt, dims...)
	if err != nil {
		q.Fail(err)
	}
	return y
}

// inverse is one over the norm of a contiguous matrix, on the device: rounded to dt, and no less than what keeps it finite.
func (o *muon) inverse(q *kernels.Queue, y kernels.Tensor, dt kernels.DType) kernels.Addr {
	sum, inv := o.take(q, kernels.F64, 1), o.take(q, kernels.F32, 1)
	q.SqSums(kernels.SqSums{X: y.Reshape(1, 1, -1), Rows: sum})
	q.NormRatio(kernels.NormRatio{Den: sum, Y: inv, Floor: quinticEps, DType: dt})
	return inv.Data
}

// newtonSchulz16 is newtonSchulz in bfloat16: each product and sum is rounded, as torch's operators do. The result is in
// scratch.
func (o *muon) newtonSchulz16(q *kernels.Queue, x kernels.Tensor) kernels.Tensor {
	n, m := x.Dim[0], x.Dim[1]
	y, other, prod := o.take(q, kernels.BF16, n, m), o.take(q, kernels.BF16, n, m), o.take(q, kernels.BF16, n, m)
	gram, scaled, poly := o.take(q, kernels.BF16, n, n), o.take(q, kernels.BF16, n, n), o.take(q, kernels.BF16, n, n)
	q.Copy(kernels.Copy{X: x, Y: y})
	flat := o.take(q, kernels.F32, n, m)
	q.Copy(kernels.Copy{X: y, Y: flat})
	q.Add(kernels.Add{A: y, Y: y, Alpha: 1, AlphaDev: o.inverse(q, flat, kernels.BF16)})
	for range o.Muon.Iterations {
		q.Gemm(kernels.Gemm{A: y, B: y.T(), C: gram, Alpha: 1})
		q.Add(kernels.Add{A: gram, Y: scaled, Alpha: quinticC})
		q.Gemm(kernels.Gemm{A: scaled, B: gram, C: poly, Alpha: 1})
		q.Add(kernels.Add{A: gram, Y: scaled, Alpha: quinticB})
		q.Add(kernels.Add{A: scaled, B: poly, Y: poly, Alpha: 1, Beta: 1})
		q.Gemm(kernels.Gemm{A: poly, B: y, C: prod, Alpha: 1})
		q.Add(kernels.Add{A: y, Y: other, Alpha: quinticA})
		q.Add(kernels.Add{A: other, B: prod, Y: other, Alpha: 1, Beta: 1})
		y, other = other, y
	}
	q.Copy(kernels.Copy{X: y, Y: flat})
	return flat
}

// newtonSchulz brings all singular values of x (rows <= columns) near 1 by the quintic iteration of the reference. The result is in
// scratch.
func (o *muon) newtonSchulz(q *kernels.Queue, x kernels.Tensor) kernels.Tensor {
	const a, b, c = quinticA, quinticB, quinticC
	n, m := x.Dim[0], x.Dim[1]
	y, gram, poly := o.take(q, kernels.F32, n, m), o.take(q, kernels.F32, n, n), o.take(q, kernels.F32, n, n)
	q.Copy(kernels.Copy{X: x, Y: y})
	q.Add(kernels.Add{A: y, Y: y, Alpha: 1, AlphaDev: o.inverse(q, y, kernels.F32)})
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
