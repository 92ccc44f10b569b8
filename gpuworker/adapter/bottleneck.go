package adapter

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// BottleneckConfig configures adapters of two small layers around an activation, after a sublayer and before its residual sum.
type BottleneckConfig struct {
	// Feed is true for an adapter after the feed-forward sublayer, Attention for one after attention: both are Houlsby's
	// (https://arxiv.org/abs/1902.00751), Feed alone is Pfeiffer's (https://arxiv.org/abs/2005.00247).
	Feed, Attention bool
	// Size is the width between the layers.
	Size int
	// Activation is "relu", "gelu", "silu" or "tanh".
	Activation string
}

// Houlsby and Pfeiffer are the two placements.
func Houlsby(size int, activation string) BottleneckConfig {
	return BottleneckConfig{Feed: true, Attention: true, Size: size, Activation: activation}
}

// Pfeiffer places adapters after the feed-forward sublayer only.
func Pfeiffer(size int, activation string) BottleneckConfig {
	return BottleneckConfig{Feed: true, Size: size, Activation: activation}
}

func activation(name string) (kernels.Activation, bool) {
	a, ok := map[string]kernels.Activation{"relu": kernels.ReLU, "gelu": kernels.GELUErf, "silu": kernels.SiLU, "tanh": kernels.Tanh}[name]
	return a, ok
}

func (b BottleneckConfig) validate(bad func(key, format string, args ...any)) {
	if b.Size < 1 || b.Size > 1<<16 {
		bad("bottleneck.size", "%d is not between 1 and 65536", b.Size)
	}
	if _, ok := activation(b.Activation); !ok {
		bad("bottleneck.activation", "%q is unknown (relu, gelu, silu, tanh)", b.Activation)
	}
	if !b.Feed && !b.Attention {
		bad("bottleneck.kind", "neither after attention nor after the feed-forward sublayer")
	}
}

// The modules whose output is that of a sublayer, by the ends of their paths in the architectures that there are.
var (
	attentionOutputs = []string{"o_proj", "out_proj", "attn.c_proj", "attention.dense", "self_attention.dense", "self_attn.dense", "attention.wo"}
	feedOutputs      = []string{"down_proj", "mlp.c_proj", "dense_4h_to_h", "mlp.dense", "fc2", "fc_out", "feed_forward.w2", "ffn.proj"}
)

// after reports whether a module of that path is a sublayer's output that gets an adapter.
func (b BottleneckConfig) after(path string) bool {
	return b.Attention && suffixOf(path, attentionOutputs) || b.Feed && suffixOf(path, feedOutputs)
}

// bottleneck is the adapter after one module: y = h + up(act(down(h))) with h the module's output. It starts as the identity: up is zero.
type bottleneck struct {
	path                 string
	layer                *nn.Linear
	unit                 *nn.Unit
	down, downB, up, upB *nn.Param
	act                  kernels.Activation
	base                 nn.LinearAdapter
}

func (a *Adapters) newBottleneck(path string, l *nn.Linear, u *nn.Unit) *bottleneck {
	c := a.Config.Bottleneck
	act, _ := activation(c.Activation) // Validate has looked
	n, at := int64(c.Size), Prefix+path
	return &bottleneck{path: path, layer: l, unit: u, act: act,
		down: &nn.Param{Name: at + ".adapter_down.weight", Shape: []int64{n, l.Out()}, Role: autograd.RoleAdapter,
			Init: autograd.Init{Kind: autograd.InitUniform, Std: 1 / math.Sqrt(float64(l.Out()))}},
		downB: &nn.Param{Name: at + ".adapter_down.bias", Shape: []int64{n}, Role: autograd.RoleBias},
		up:    &nn.Param{Name: at + ".adapter_up.weight", Shape: []int64{l.Out(), n}, Role: autograd.RoleAdapter},
		upB:   &nn.Param{Name: at + ".adapter_up.bias", Shape: []int64{l.Out()}, Role: autograd.RoleBias}}
}

func (b *bottleneck) where() (string, *nn.Unit) { return b.path, b.unit }

func (b *bottleneck) params() []*nn.Param { return []*nn.Param{b.down, b.downB, b.up, b.upB} }

func (b *bottleneck) weight() *nn.Param { return b.layer.Weight }

func (b *bottleneck) attach(on bool) { attach(b.layer, b, b.base, on) }

// Params implements nn.LinearAdapter.
func (b *bottleneck) Params() []*nn.Param { return b.params() }

// Forward implements nn.LinearAdapter.
func (b *bottleneck) Forward(t *nn.Tape, layer *nn.Linear, x, residual nn.Value) nn.Value {
	h := ops.MatrixLinear(t, x, matrix(t, layer, b.base), t.Param(layer.Bias), nn.Value{})
	z := ops.Linear(t, h, t.Param(b.down), t.Param(b.downB), nn.Value{})
	a := ops.Activate(t, z, b.act)
	t.Release(z)
	y := ops.Linear(t, a, t.Param(b.up), t.Param(b.upB), h)
	t.Release(a, h)
	if !residual.Valid() {
		return y
	}
	sum := ops.Add(t, residual, y, 1)
	t.Release(y)
	return sum
}
