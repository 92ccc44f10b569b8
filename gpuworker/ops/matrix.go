package ops

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// Matrix is the weight [out, in] of a linear layer.
type Matrix struct {
	dense autograd.Value
}

// Dense is a float32 weight.
func Dense(w autograd.Value) Matrix { return Matrix{dense: w} }

// shape is a tensor with the weight's dimensions; only those may be used.
func (m Matrix) shape(t *autograd.Tape) kernels.Tensor { return t.Data(m.dense) }

// forward computes y = (acc ? y : 0) + x W^T + bias; bias may be absent.
func (m Matrix) forward(t *autograd.Tape, x, y, bias kernels.Tensor, acc bool) {
	t.Queue().Gemm(kernels.Gemm{A: x, B: t.Data(m.dense).T(), C: y, Alpha: 1, Accumulate: kernels.Flag(acc), Bias: bias})
}

// backward computes dx = (acc ? dx : 0) + dy W.
func (m Matrix) backward(t *autograd.Tape, dy, dx kernels.Tensor, acc bool) {
	t.Queue().Gemm(kernels.Gemm{A: dy, B: t.Data(m.dense), C: dx, Alpha: 1, Accumulate: kernels.Flag(acc)})
}

// expand writes the weight as float32 to dst [out, in].
func (m Matrix) expand(t *autograd.Tape, dst kernels.Tensor) {
	t.Queue().Copy(kernels.Copy{X: t.Data(m.dense), Y: dst})
}
