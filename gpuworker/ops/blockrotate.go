package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// blockRotation is y = x R by blocks, R = c0 I + c1 Q + c2 Q^2 + ... of skew-symmetric blocks Q.
type blockRotation struct {
	x, w, y autograd.Value
	coef    []float32
	blocks  int64
	size    int64
}

// RotateBlocks multiplies blocks of columns of x [n, blocks*size] by orthogonal matrices (https://arxiv.org/abs/2306.07280, PEFT's OFT): w
// [blocks, size*(size-1)/2], or [1, ...] for one matrix that all blocks share, holds the upper triangles of skew-symmetric matrices Q, and
// coef the coefficients of the polynomial in Q that stands for their Cayley transform (I-Q)(I+Q)^-1.
func RotateBlocks(t *autograd.Tape, x, w autograd.Value, size int64, coef []float32) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	xd, wd := t.Data(x), t.Data(w)
	op := &blockRotation{x: x, w: w, coef: coef, size: size, blocks: xd.Dim[1] / size}
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	qs, rs := op.powers(t)
	if !t.OK() {
		return autograd.Value{}
	}
	m := op.like(t, rs[0].t, xd)
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().Gemm(kernels.Gemm{A: op.byBlock(xd), B: op.all(m.t), C: op.byBlock(yd), Alpha: 1})
	t.Check("rotate", xd, wd)
	free(t, append(rs, qs, m))
	op.y = t.Record(op, yd, h, t.Needs(x, w), x)
	return op.y
}

// held is scratch memory.
type held struct {
	t kernels.Tensor
	h autograd.Handle
}

func hold(t *autograd.Tape, dims ...int64) held {
	x, h := t.Out(dims...)
	return held{x, h}
}

func free(t *autograd.Tape, hs []held) {
	for i := range hs {
		t.Free(&hs[i].h)
	}
}

// byBlock views [n, blocks*size] as [blocks, n, size].
func (op *blockRotation) byBlock(x kernels.Tensor) kernels.Tensor {
	return x.Reshape(x.Dim[0], op.blocks, op.size).Transpose(0, 1)
}

// all repeats a shared matrix for all blocks.
func (op *blockRotation) all(r kernels.Tensor) kernels.Tensor {
	if r.Dim[0] == 1 && op.blocks > 1 {
		r.Dim[0], r.Stride[0] = op.blocks, 0
	}
	return r
}

// like is a copy of the matrices in the type of activations.
func (op *blockRotation) like(t *autograd.Tape, r, x kernels.Tensor) held {
	y, h := t.OutLike(x, r.Shape()...)
	if t.OK() {
		t.Queue().Copy(kernels.Copy{X: r, Y: y})
	}
	return held{y, h}
}

// ids says where every element of the skew matrices comes from: the vector, its negative, or zero.
func (op *blockRotation) ids(t *autograd.Tape, m, n int64) kernels.Tensor {
	b := op.size
	out := make([]int32, m*b*b)
	zero := int32(2 * m * n)
	for k := range m {
		at := int32(k * n)
		for i := range b {
			out[(k*b+i)*b+i] = zero
			for j := i + 1; j < b; j++ {
				out[(k*b+i)*b+j] = at
				out[(k*b+j)*b+i] = at + int32(m*n)
				at++
			}
		}
	}
	return t.Ints(out, m*b*b)
}

// powers computes Q and Horner's partial sums: r[i] = c_i I + Q r[i+1], so that r[0] is R.
func (op *blockRotation) powers(t *autograd.Tape) (q held, r []held) {
	wd := t.Master(op.w)
	m, n, b := wd.Dim[0], wd.Dim[1], op.size
	q = hold(t, m, b, b)
	ext := hold(t, 2*m*n+1, 1)
	eye := t.Floats(identity(b), 1, b, b)
	ids := op.ids(t, m, n)
	for range op.coef {
		r = append(r, hold(t, m, b, b))
	}
	if !t.OK() {
		return q, r
	}
	k := t.Queue()
	flat := wd.Reshape(m*n, 1)
	k.Copy(kernels.Copy{X: flat, Y: ext.t.Slice(0, 0, m*n)})
	k.Add(kernels.Add{A: flat, Y: ext.t.Slice(0, m*n, 2*m*n), Alpha: -1})
	k.Fill(kernels.Fill{Y: ext.t.Slice(0, 2*m*n, 2*m*n+1)})
	k.GatherRows(kernels.GatherRows{X: ext.t, IDs: ids, Y: q.t.Reshape(m*b*b, 1), Scale: 1})
	t.Free(&ext.h)
	eye.Dim[0], eye.Stride[0] = m, 0
	last := len(op.coef) - 1
	for i := last; i >= 0; i-- {
		k.Add(kernels.Add{A: eye, Y: r[i].t, Alpha: op.coef[i]})
		if i < last {
			k.Gemm(kernels.Gemm{A: q.t, B: r[i+1].t, C: r[i].t, Alpha: 1, Accumulate: 1})
		}
	}
	return q, r
}

func identity(b int64) []float32 {
	v := make([]float32, b*b)
	for i := range b {
		v[i*b+i] = 1
	}
	return v
}

// Name implements autograd.Op.
func (op *blockRotation) Name() string { return "rotate" }

// Backward implements autograd.Op.
func (op *blockRotation) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	q, r := op.powers(t)
	if !t.OK() {
		return t.Err()
	}
	k := t.Queue()
	defer func() { free(t, append(r, q)) }()
	if g, acc, ok := t.GradFor(op.x); ok {
		m := op.like(t, r[0].t, dy)
		if !t.OK() {
			return t.Err()
		}
		k.Gemm(kernels.Gemm{A: op.byBlock(dy), B: op.all(m.t).Transpose(1, 2), C: op.byBlock(g), Alpha: 1, Accumulate: kernels.Flag(acc)})
		t.Free(&m.h)
	}
	g, acc, ok := t.GradFor(op.w)
	if !ok {
		return k.Err()
	}
	wd := t.Master(op.w)
	m, n, b := wd.Dim[0], wd.Dim[1], op.size
	dr, dq, next := hold(t, m, b, b), hold(t, m, b, b), hold(t, m, b, b)
	ext := hold(t, 2*m*n+1, 1)
	ids := op.ids(t, m, n)
	if !t.OK() {
		return t.Err()
	}
	op.outer(t, dy, dr.t)
	// Horner backwards: dQ += dr_i r_(i+1)^T, dr_(i+1) = Q^T dr_i.
	for i := range len(op.coef) - 1 {
		k.Gemm(kernels.Gemm{A: dr.t, B: r[i+1].t.Transpose(1, 2), C: dq.t, Alpha: 1, Accumulate: kernels.Flag(i > 0)})
		k.Gemm(kernels.Gemm{A: q.t.Transpose(1, 2), B: dr.t, C: next.t, Alpha: 1})
		dr, next = next, dr
	}
	if len(op.coef) == 1 {
		k.Fill(kernels.Fill{Y: dq.t})
	}
	k.ScatterAddRows(kernels.ScatterAddRows{X: dq.t.Reshape(m*b*b, 1), IDs: ids, Y: ext.t, Scale: 1})
	k.Add(kernels.Add{A: ext.t.Slice(0, 0, m*n), B: ext.t.Slice(0, m*n, 2*m*n), Y: g.Reshape(m*n, 1), Alpha: 1, Beta: -1, Accumulate: kernels.Flag(acc)})
	free(t, []held{dr, dq, next, ext})
	return k.Err()
}

// outer computes the gradient of R: x^T dy by blocks, summed over blocks where they share one.
func (op *blockRotation) outer(t *autograd.Tape, dy, dr kernels.Tensor) {
	x := op.byBlock(t.Data(op.x)).Transpose(1, 2)
	d := op.byBlock(dy)
	k := t.Queue()
	if dr.Dim[0] == op.blocks {
		k.Gemm(kernels.Gemm{A: x, B: d, C: dr, Alpha: 1})
		return
	}
	for i := range op.blocks {
		k.Gemm(kernels.Gemm{A: x.Select(0, i), B: d.Select(0, i), C: dr.Select(0, 0), Alpha: 1, Accumulate: kernels.Flag(i > 0)})
	}
}

type activate struct {
	x, y autograd.Value
	act  kernels.Activation
}

// Activate applies an elementwise function to x [n, d].
func Activate(t *autograd.Tape, x autograd.Value, act kernels.Activation) autograd.Value {
	if !t.OK() {
		return autograd.Value{}
	}
	op := &activate{x: x, act: act}
	xd := t.Data(x)
	yd, h := t.OutLike(xd, xd.Dim[0], xd.Dim[1])
	if !t.OK() {
		return autograd.Value{}
	}
	t.Queue().ActFwd(kernels.ActFwd{X: xd, Y: yd, Act: act})
	t.Check("activate", xd)
	op.y = t.Record(op, yd, h, t.Needs(x), x)
	return op.y
}

// Name implements autograd.Op.
func (op *activate) Name() string { return "activate" }

// Backward implements autograd.Op.
func (op *activate) Backward(t *autograd.Tape) error {
	dy, _ := t.Grad(op.y)
	if g, acc, ok := t.GradFor(op.x); ok {
		t.Queue().ActBwd(kernels.ActBwd{X: t.Data(op.x), DY: dy, DX: g, Act: op.act, Accumulate: kernels.Flag(acc)})
	}
	return t.Queue().Err()
}
