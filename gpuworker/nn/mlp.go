package nn

import (
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// SwiGLU is the gated feed-forward layer down(act(gate(x)) * up(x)) of https://arxiv.org/abs/2002.05202 under the names most use.
type SwiGLU struct {
	Gate Linear `hf:"gate_proj"`
	Up   Linear `hf:"up_proj"`
	Down Linear `hf:"down_proj"`
	// Act is the gate's activation, default SiLU.
	Act kernels.Activation
}

// NewSwiGLU describes a gated layer of that many inner features.
func NewSwiGLU(hidden, inner int, bias bool, std float64) SwiGLU {
	return SwiGLU{Gate: NewLinear(hidden, inner, bias, std), Up: NewLinear(hidden, inner, bias, std), Down: NewLinear(inner, hidden, bias, std)}
}

// Add computes residual + SwiGLU(x) and releases x. An absent residual counts as zero.
func (m *SwiGLU) Add(t *Tape, x, residual Value) Value {
	return Gated(t, x, residual, &m.Gate, &m.Up, &m.Down, m.Act)
}

// Gated computes residual + down(act(gate(x)) * up(x)) and releases x. act 0 is SiLU. A nil up means that gate is a fused projection
// onto gate and up.
func Gated(t *Tape, x, residual Value, gate, up, down *Linear, act kernels.Activation) Value {
	if act == 0 {
		act = kernels.SiLU
	}
	g := gate.Forward(t, x)
	var u Value
	if up != nil {
		u = up.Forward(t, x)
	}
	t.Release(x)
	a := ops.GLU(t, g, u, act)
	t.Release(g, u)
	y := down.Add(t, a, residual)
	t.Release(a)
	return y
}

// FeedForward computes residual + down(act(up(x))) and releases x.
func FeedForward(t *Tape, x, residual Value, up, down *Linear, act kernels.Activation) Value {
	u := up.Forward(t, x)
	t.Release(x)
	a := ops.Act(t, u, act)
	t.Release(u)
	y := down.Add(t, a, residual)
	t.Release(a)
	return y
}
