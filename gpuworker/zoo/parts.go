package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// addNormed computes residual + norm(y) and releases y: a norm after the layer.
func addNormed(t *nn.Tape, residual, y nn.Value, n *nn.Norm) nn.Value {
	z := n.Forward(t, y)
	t.Release(y)
	out := ops.Add(t, residual, z, 1)
	t.Release(z)
	return out
}

// addScaled computes residual + scale * y and releases y.
func addScaled(t *nn.Tape, residual, y nn.Value, scale float32) nn.Value {
	out := ops.Add(t, residual, y, scale)
	t.Release(y)
	return out
}

// parallel computes x + attn(h) + mlp(h) and releases h, which both read.
func parallel(t *nn.Tape, x, h nn.Value, attn, mlp func(h, residual nn.Value) nn.Value) nn.Value {
	t.Keep(h) // each of the two releases it
	a := attn(h, x)
	y := mlp(h, a)
	t.Release(a)
	return y
}

// newGated describes the gated feed-forward layer of a configuration.
func newGated(s Sizes, bias bool) nn.SwiGLU {
	m := nn.NewSwiGLU(s.Hidden, s.Intermediate, bias, s.InitRange)
	m.Act = s.activation()
	return m
}

// fusedGated is a gated feed-forward layer whose gate and up projections are one.
type fusedGated struct {
	GateUp nn.Linear `hf:"gate_up_proj"`
	Down   nn.Linear `hf:"down_proj"`
}

func newFusedGated(s Sizes) fusedGated {
	return fusedGated{GateUp: nn.NewLinear(s.Hidden, 2*s.Intermediate, false, s.InitRange), Down: nn.NewLinear(s.Intermediate, s.Hidden, false, s.InitRange)}
}

// feedForward is the activation of a feed-forward layer without gate.
type feedForward struct{ act kernels.Activation }

// newFeedForward describes the two projections of such a layer.
func newFeedForward(s Sizes, bias bool) (up, down nn.Linear) {
	return nn.NewLinear(s.Hidden, s.Intermediate, bias, s.InitRange), nn.NewLinear(s.Intermediate, s.Hidden, bias, s.InitRange)
}

// drops are the dropouts of what the two branches of a block add.
func drops(layer int, attn, mlp float64) (a, m *nn.Dropout) {
	return nn.NewDropout(attn, layer, nn.DropAttention), nn.NewDropout(mlp, layer, nn.DropMLP)
}

// embedDrop is the dropout of what the first block reads.
func embedDrop(p float64) *nn.Dropout { return nn.NewDropout(p, 0, nn.DropEmbedding) }
