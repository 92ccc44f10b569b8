package zoo

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// RouterAux are the keys of the load-balancing loss.
type RouterAux struct {
	// AuxCoef is the loss's weight; it is added in training when OutputRouterLogits is set, as transformers does.
	AuxCoef            float64 `json:"router_aux_loss_coef"`
	OutputRouterLogits bool    `json:"output_router_logits"`
}

// balance tells the skeleton that the routers' load-balancing loss can be had.
func (r RouterAux) balance(d *description, experts int) {
	d.experts = experts
	d.info.Experts, d.info.RouterAuxCoef, d.info.RouterAux = experts, r.AuxCoef, r.OutputRouterLogits
}

// experts checks a number of experts and the choice of k of them.
func (p *problems) experts(key string, n int, kKey string, k int) {
	const most = 1024 // of the kernels
	if n < 1 || n > most {
		p.bad(key, "%d is not between 1 and %d", n, most)
		return
	}
	if k < 1 || k > n {
		p.bad(kKey, "%d of %d experts", k, n)
	}
}

// newExperts describes n gated layers.
func newExperts(n, hidden, inner int, bias bool, act kernels.Activation, std float64) []nn.SwiGLU {
	out := make([]nn.SwiGLU, n)
	for i := range out {
		out[i] = nn.NewSwiGLU(hidden, inner, bias, std)
		out[i].Act = act
	}
	return out
}

// skipped marks experts that transformers computes only where tokens were sent to them. Where it computes all of them, over no rows if need
// be (OLMoE, FlexOlmo), or has their matrices in one parameter (Granite, gpt-oss), those without tokens have gradients of zero.
func skipped(experts []nn.SwiGLU) []nn.SwiGLU {
	for i := range experts {
		skipExpert(&experts[i])
	}
	return experts
}

// skipExpert marks one, a pointer to its module.
func skipExpert(expert any) {
	e := &autograd.Expert{}
	for _, p := range nn.Params(expert) {
		p.Expert = e
	}
}

// sparseLayer is Qwen's rule for which layers have experts.
func sparseLayer(i, step int, dense []int) bool {
	for _, d := range dense {
		if d == i {
			return false
		}
	}
	return (i+1)%step == 0
}

// linearMoE is a layer of experts whose router is a Linear, optionally with a shared expert behind a gate of its own.
type linearMoE struct {
	Gate       nn.Linear   `hf:"gate"`
	Experts    []nn.SwiGLU `hf:"experts"`
	Shared     *nn.SwiGLU  `hf:"shared_expert"`
	SharedGate *nn.Linear  `hf:"shared_expert_gate"`
	route      ops.RouteConfig
}

// add computes residual + the experts' output and releases x.
func (m *linearMoE) add(t *nn.Tape, x, residual nn.Value, p *pass) nn.Value {
	r := nn.RouteLinear(t, &m.Gate, x, m.route, p.aux)
	y := nn.SwiGLUExperts(t, x, residual, r, m.Experts)
	if m.Shared == nil {
		t.Release(x)
		return y
	}
	// Add releases its input, which the gate reads too.
	t.Keep(x)
	s := m.Shared.Add(t, x, nn.Value{})
	z := nn.GateRows(t, s, m.SharedGate, x, y)
	t.Release(x, y)
	return z
}

// experts is a mixture of experts as a block's second half: it adds what the experts make of x [rows, hidden] to residual.
type experts interface {
	add(t *nn.Tape, x, residual nn.Value, p *pass) nn.Value
}

// denseOrSparse adds a block's second half to residual, where some layers hold a dense one and the others a mixture of experts.
func denseOrSparse(t *nn.Tape, x, residual nn.Value, dense *nn.SwiGLU, sparse experts, p *pass) nn.Value {
	if dense != nil {
		return dense.Add(t, x, residual)
	}
	return sparse.add(t, x, residual, p)
}
