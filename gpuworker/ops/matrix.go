package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// Matrix is the weight [out, in] of a linear layer: a float32 value, or one in few bits.
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

// Dense is a float32 weight.
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
	if m.packed != nil {
		t.Queue().PackedGemm(kernels.PackedGemm{W: m.packed.bits(t), A: x, C: y, Bias: bias, Alpha: 1, Accumulate: kernels.Flag(acc)})
		return
	}
	t.Queue().Gemm(kernels.Gemm{A: x, B: t.Data(m.dense).T(), C: y, Alpha: 1, Accumulate: kernels.Flag(acc), Bias: bias})
}

// backward computes dx = (acc ? dx : 0) + dy W.
func (m Matrix) backward(t *autograd.Tape, dy, dx kernels.Tensor, acc bool) {
	if m.packed != nil {
		t.Queue().PackedGemm(kernels.PackedGemm{W: m.packed.bits(t), A: dy, C: dx, Alpha: 1, Accumulate: kernels.Flag(acc), Transposed: 1})
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
	t.Queue().Copy(kernels.Copy{X: t.Data(m.dense), Y: dst})
}
