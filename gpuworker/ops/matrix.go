package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// Matrix is the weight [out, in] of a linear layer: a value, or one in few bits.
type Matrix struct {
	dense  autograd.Value
	packed *Packed
}

// Packed are the parts of a frozen matrix in few bits, each a value of 32-bit words (see kernels.Packed about their content).
type Packed struct {
	Codes, Scales autograd.Value
	// ScaleCodes is absent without double quantization.
	ScaleCodes autograd.Value
	Rows, Cols int64
	Kind       kernels.PackedKind
}

// Dense is a weight that is held as it is used, or cast.
func Dense(w autograd.Value) Matrix { return Matrix{dense: w} }

// PackedMatrix is a weight in few bits.
func PackedMatrix(p Packed) Matrix { return Matrix{packed: &p} }

// shape is a tensor with the weight's dimensions; only those may be used.
func (m Matrix) shape(t *autograd.Tape) kernels.Tensor {
	if m.packed != nil {
		return kernels.NewTensor(0, kernels.F32, m.packed.Rows, m.packed.Cols)
	}
	return t.Data(m.dense)
}

// bits views words of a value as the packed matrix that they are.
func (p *Packed) bits(t *autograd.Tape) kernels.Packed {
	n := p.Rows * p.Cols
	bytes := func(v autograd.Value, n int64) kernels.Tensor {
		return kernels.NewTensor(t.Data(v).Data, kernels.U8, n)
	}
	w := kernels.Packed{Scales: t.Data(p.Scales), Rows: p.Rows, Cols: p.Cols, Kind: p.Kind}
	if p.Kind == kernels.PackedInt8 {
		w.Codes = bytes(p.Codes, n)
		return w
	}
	w.Codes = bytes(p.Codes, (n+1)/2)
	if p.ScaleCodes.Valid() {
		w.ScaleCodes = bytes(p.ScaleCodes, (n+63)/64)
	}
	return w
}

// forward computes y = (acc ? y : 0) + x W^T + bias; bias may be absent.
func (m Matrix) forward(t *autograd.Tape, x, y, bias kernels.Tensor, acc bool) {
	switch {
	case m.packed == nil:
	case x.DType == kernels.F32:
		t.Queue().PackedGemm(kernels.PackedGemm{W: m.packed.bits(t), A: x, C: y, Bias: bias, Alpha: 1, Accumulate: kernels.Flag(acc)})
		return
	default:
		w := m.packed.cast(t, x.DType)
		t.Queue().Gemm(kernels.Gemm{A: x, B: w.t.T(), C: y, Alpha: 1, Accumulate: kernels.Flag(acc), Bias: bias})
		t.Free(&w.h)
		return
	}
	t.Queue().Gemm(kernels.Gemm{A: x, B: t.Data(m.dense).T(), C: y, Alpha: 1, Accumulate: kernels.Flag(acc), Bias: bias})
}

// backward computes dx = (acc ? dx : 0) + dy W.
func (m Matrix) backward(t *autograd.Tape, dy, dx kernels.Tensor, acc bool) {
	switch {
	case m.packed == nil:
	case dy.DType == kernels.F32:
		t.Queue().PackedGemm(kernels.PackedGemm{W: m.packed.bits(t), A: dy, C: dx, Alpha: 1, Accumulate: kernels.Flag(acc), Transposed: 1})
		return
	default:
		w := m.packed.cast(t, dy.DType)
		t.Queue().Gemm(kernels.Gemm{A: dy, B: w.t, C: dx, Alpha: 1, Accumulate: kernels.Flag(acc)})
		t.Free(&w.h)
		return
	}
	t.Queue().Gemm(kernels.Gemm{A: dy, B: t.Data(m.dense), C: dx, Alpha: 1, Accumulate: kernels.Flag(acc)})
}

// expand writes the weight as float32 to dst [out, in].
func (m Matrix) expand(t *autograd.Tape, dst kernels.Tensor) {
	if m.packed != nil {
		t.Queue().Unpack(kernels.Unpack{W: m.packed.bits(t), Y: dst})
		return
	}
	t.Queue().Copy(kernels.Copy{X: t.Held(m.dense), Y: dst})
}

// castRows is the number of elements that are expanded at a time on the way to another type.
const castRows = 1 << 20

// cast expands a packed matrix in another type than f32. The caller frees it.
func (p *Packed) cast(t *autograd.Tape, dt kernels.DType) held {
	x, h := t.OutAs(dt, p.Rows, p.Cols)
	w := held{x, h}
	step := min(p.Rows, max(1, castRows/p.Cols))
	part := hold(t, step, p.Cols)
	if !t.OK() {
		return w
	}
	q := t.Queue()
	for at := int64(0); at < p.Rows; at += step {
		n := min(step, p.Rows-at)
		q.Unpack(kernels.Unpack{W: p.bits(t), Y: part.t.Slice(0, 0, n), Row0: at})
		q.Copy(kernels.Copy{X: part.t.Slice(0, 0, n), Y: x.Slice(0, at, at+n)})
	}
	t.Free(&part.h)
	return w
}

// gradF32 is GradFor for kernels that write f32 only: a gradient of another type (of a value that an adapter made of matrices) passes
// through scratch memory, and settle copies it after the kernel.
func gradF32(t *autograd.Tape, v autograd.Value) (g kernels.Tensor, acc, ok bool, settle func()) {
	to, acc, ok := t.GradFor(v)
	if !ok || to.DType == kernels.F32 {
		return to, acc, ok, func() {}
	}
	x := hold(t, to.Shape()...)
	if !t.OK() {
		return to, acc, false, func() {}
	}
	if acc {
		t.Queue().Copy(kernels.Copy{X: to, Y: x.t})
	}
	return x.t, acc, true, func() {
		t.Queue().Copy(kernels.Copy{X: x.t, Y: to})
		t.Free(&x.h)
	}
}
