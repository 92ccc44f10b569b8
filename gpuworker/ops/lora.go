package ops

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// LoRA holds the low-rank operands of LoRALinear: A [r, in], B [out, r], and the factor on the update.
type LoRA struct {
	A, B  autograd.Value
	Scale float32
	// X, when valid, is what the update multiplies in place of the layer's input: the input after dropout.
	X autograd.Value
}

// update is the part of an operation that is scale * (x A^T) B^T.
type update struct {
	LoRA
	hid autograd.Value
}

// hidden computes x A^T and holds it.
func (u *update) hidden(t *autograd.Tape) {
	xd, ad := t.Data(u.X), t.Data(u.A)
	hd, h := t.OutLike(xd, xd.Dim[0], ad.Dim[0])
	if !t.OK() {
		return
	}
	t.Queue().Gemm(kernels.Gemm{A: xd, B: ad.T(), C: hd, Alpha: 1})
	t.Check("low-rank update", xd, ad)
	u.hid = t.Hold(hd, h)
}

// add computes y += scale * hid B^T.
func (u *update) add(t *autograd.Tape, y kernels.Tensor) {
	t.Queue().Gemm(kernels.Gemm{A: t.Data(u.hid), B: t.Data(u.B).T(), C: y, Alpha: u.Scale, Accumulate: 1})
	t.Check("low-rank update", t.Data(u.hid), t.Data(u.B))
}

// backward adds the gradients of A, B and x for the gradient dy of the update.
func (u *update) backward(t *autograd.Tape, dy kernels.Tensor) error {
	q := t.Queue()
	if g, acc, ok := t.GradFor(u.B); ok {
		q.Gemm(kernels.Gemm{A: dy.T(), B: t.Data(u.hid), C: g, Alpha: u.Scale, Accumulate: kernels.Flag(acc)})
	}
	if !t.Needs(u.A, u.X) {
		return t.Err()
	}
	bd := t.Data(u.B)
	dh, h := t.OutLike(dy, dy.Dim[0], bd.Dim[1])
	if !t.OK() {
		return t.Err()
	}
	q.Gemm(kernels.Gemm{A: dy, B: bd, C: dh, Alpha: u.Scale})
	if g, acc, ok := t.GradFor(u.A); ok {
		q.Gemm(kernels.Gemm{A: dh.T(), B: t.Data(u.X), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	if g, acc, ok := t.GradFor(u.X); ok {
		q.Gemm(kernels.Gemm{A: dh, B: t.Data(u.A), C: g, Alpha: 1, Accumulate: kernels.Flag(acc)})
	}
	t.Free(&h)
	return t.Err()
}

// loraLinear is y = residual + x W^T + b + scale * (x A^T) B^T.
type loraLinear struct {
	linear
	lora update
}

// LoRALinear computes a linear layer with a low-rank update (https://arxiv.org/abs/2106.09685). The base weight may be frozen or packed:
// then x is kept for the gradient of A only.
func LoRALinear(t *autograd.Tape, x autograd.Value, w Matrix, b, residual autograd.Value, lora LoRA) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &loraLinear{linear: linear{x: x, w: w, b: b, residual: residual}, lora: update{LoRA: lora}}
	if !op.lora.X.Valid() {
		op.lora.X = x
	}
	yd, h := op.forward(t)
	op.lora.hidden(t)
	if !t.OK() {
		return autograd.Value{}
	}
	op.lora.add(t, yd)
	var saved [3]autograd.Value
	if t.Needs(w.dense) {
		saved[0] = x
	}
	if t.Needs(lora.A) {
		saved[1] = op.lora.X
	}
	if t.Needs(lora.B) {
		saved[2] = op.lora.hid
	}
	op.y = t.Record(op, yd, h, t.Needs(x, w.dense, b, residual, op.lora.X, lora.A, lora.B), saved[:]...)
	t.Release(op.lora.hid)
	return op.y
}

// Name implements autograd.Op.
func (op *loraLinear) Name() string { return "lora linear" }

// Backward implements autograd.Op.
func (op *loraLinear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if err := op.lora.backward(t, dy); err != nil {
		return err
	}
	return op.linear.Backward(t)
}

// doraLinear is y = residual + b + (m / n) * z with z = x W^T + scale * (x A^T) B^T and n the norms of the rows of W + scale * B A, which
// count as constants.
type doraLinear struct {
	linear
	lora update
	m    autograd.Value
	// z, and 1/n up to the factor inv (f32 [out]).
	z, rnorm autograd.Value
	inv      float32
}

// DoRALinear computes a linear layer with a low-rank update whose rows are scaled to the magnitudes m [out]
// (https://arxiv.org/abs/2402.09353, the norm detached as in its section 4.3). The base is frozen.
func DoRALinear(t *autograd.Tape, x autograd.Value, w Matrix, b, residual autograd.Value, lora LoRA, m autograd.Value) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &doraLinear{linear: linear{x: x, w: w, b: b, residual: residual}, lora: update{LoRA: lora}, m: m}
	if !op.lora.X.Valid() {
		op.lora.X = x
	}
	xd, dims := t.Data(x), w.shape(t)
	zd, zh := t.OutLike(xd, xd.Dim[0], dims.Dim[0])
	op.lora.hidden(t)
	if !t.OK() {
		return autograd.Value{}
	}
	w.forward(t, xd, zd, kernels.Tensor{}, false)
	op.lora.add(t, zd)
	op.norms(t)
	yd, h := t.OutLike(xd, xd.Dim[0], dims.Dim[0])
	if !t.OK() {
		return autograd.Value{}
	}
	op.scale(t, zd, yd)
	q := t.Queue()
	if b.Valid() {
		bias, bh := t.OutLike(yd, yd.Dim[1])
		if !t.OK() {
			return autograd.Value{}
		}
		q.Copy(kernels.Copy{X: t.Data(b), Y: bias})
		q.Add(kernels.Add{A: yd, B: broadcast(bias, xd.Dim[0]), Y: yd, Alpha: 1, Beta: 1})
		t.Free(&bh)
	}
	if residual.Valid() {
		q.Add(kernels.Add{A: yd, B: t.Data(residual), Y: yd, Alpha: 1, Beta: 1})
	}
	t.Check("dora linear", xd, dims, zd)
	op.z = t.Hold(zd, zh)
	op.y = t.Record(op, yd, h, t.Needs(x, b, residual, op.lora.X, lora.A, lora.B, m), op.lora.X, op.lora.hid, op.z, op.rnorm)
	t.Release(op.lora.hid, op.z, op.rnorm)
	return op.y
}

// broadcast views one row as n equal ones.
func broadcast(row kernels.Tensor, n int64) kernels.Tensor {
	r := row.Reshape(1, row.Numel())
	r.Dim[0], r.Stride[0] = n, 0
	return r
}

// norms computes the reciprocal row norms of W + scale * B A; the norm kernel's are those of the mean square, inv makes up for it.
func (op *doraLinear) norms(t *autograd.Tape) {
	dims := op.w.shape(t)
	out, in := dims.Dim[0], dims.Dim[1]
	wd, h := t.Out(out, in)
	nd, nh := t.Out(out, in)
	rd, rh := t.Out(out)
	if !t.OK() {
		return
	}
	op.w.expand(t, wd)
	q := t.Queue()
	q.Gemm(kernels.Gemm{A: t.Master(op.lora.B), B: t.Master(op.lora.A), C: wd, Alpha: op.lora.Scale, Accumulate: 1})
	q.RMSNormFwd(kernels.RMSNormFwd{X: wd, Y: nd, RStd: rd})
	t.Check("dora norms", wd)
	t.Free(&h)
	t.Free(&nh)
	op.rnorm, op.inv = t.Hold(rd, rh), float32(1/math.Sqrt(float64(in)))
}

// scale computes y = v * m / n by rows of v.
func (op *doraLinear) scale(t *autograd.Tape, v, y kernels.Tensor) {
	g, h := t.Out(v.Dim[1])
	if !t.OK() {
		return
	}
	q := t.Queue()
	q.Mul(kernels.Mul{A: t.Data(op.m), B: t.Data(op.rnorm), Y: g})
	q.Add(kernels.Add{A: g, Y: g, Alpha: op.inv})
	q.Mul(kernels.Mul{A: v, B: g, Y: y})
	t.Check("dora scale", v)
	t.Free(&h)
}

// Name implements autograd.Op.
func (op *doraLinear) Name() string { return "dora linear" }

// Backward implements autograd.Op.
func (op *doraLinear) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q := t.Queue()
	if g, acc, ok := t.GradFor(op.m); ok {
		prod, h := t.OutLike(dy, dy.Dim[0], dy.Dim[1])
		sum, hs := t.Out(dy.Dim[1])
		if !t.OK() {
			return t.Err()
		}
		q.Mul(kernels.Mul{A: dy, B: t.Data(op.z), Y: prod})
		q.ColSum(kernels.ColSum{X: prod, Y: sum})
		q.Mul(kernels.Mul{A: sum, B: t.Data(op.rnorm), Y: sum})
		q.Add(kernels.Add{A: sum, Y: g, Alpha: op.inv, Accumulate: kernels.Flag(acc)})
		t.Free(&h)
		t.Free(&hs)
	}
	if g, acc, ok := t.GradFor(op.b); ok {
		q.ColSum(kernels.ColSum{X: dy, Y: g, Accumulate: kernels.Flag(acc)})
	}
	dz, h := t.OutLike(dy, dy.Dim[0], dy.Dim[1])
	if !t.OK() {
		return t.Err()
	}
	op.scale(t, dy, dz)
	if err := op.lora.backward(t, dz); err != nil {
		return err
	}
	if g, acc, ok := t.GradFor(op.x); ok {
		op.w.backward(t, dz, g, acc)
	}
	t.Free(&h)
	passResidual(t, op.y, op.residual)
	return q.Err()
}
