package zoo_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

const moeConfig = `{"architectures":["MixtralForCausalLM"],"hidden_size":30,"intermediate_size":14,"num_hidden_layers":3,"num_attention_heads":3,
"num_key_value_heads":1,"vocab_size":50,"max_position_embeddings":128,"initializer_range":0.2,"num_local_experts":5,"num_experts_per_tok":2,
"output_router_logits":true,"router_aux_loss_coef":0.3}`

// plain is an adapter that changes nothing.
type plain struct{}

func (plain) Forward(t *nn.Tape, l *nn.Linear, x, residual nn.Value) nn.Value {
	return ops.Linear(t, x, t.Param(l.Weight), t.Param(l.Bias), residual)
}

func (plain) Params() []*nn.Param { return nil }

func moeRig(t *testing.T, cfg autograd.Config, prepare func(zoo.Model)) *rig {
	t.Helper()
	m, err := zoo.New([]byte(moeConfig))
	if err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(m)
	}
	return newModelRig(t, m, cfg, nil)
}

// TestExpertsOneByOneEqualGrouped: experts with adapters run one after another, and what comes out is that of the grouped product.
func TestExpertsOneByOneEqualGrouped(t *testing.T) {
	b := leaf(5, 2, 9)
	loss, grads := moeRig(t, autograd.Config{}, nil).step(t, b)
	adapted := moeRig(t, autograd.Config{}, func(m zoo.Model) {
		nn.WalkLinears(m.Root(), func(path string, l *nn.Linear) {
			if strings.Contains(path, "experts.2.") || strings.HasSuffix(path, "experts.1.w2") {
				l.Adapter = plain{}
			}
		})
	})
	loss2, grads2 := adapted.step(t, b)
	if loss != loss2 {
		t.Errorf("loss %v, one by one %v", loss, loss2)
	}
	// What several experts' products add to a gradient is rounded in between here.
	for name, want := range grads {
		var d, n float64
		for i, w := range want {
			d += math.Pow(float64(w-grads2[name][i]), 2)
			n += float64(w) * float64(w)
		}
		if !(math.Sqrt(d) <= 1e-5*math.Sqrt(n)) {
			t.Errorf("gradient of %s differs by %g of %g", name, math.Sqrt(d), math.Sqrt(n))
		}
	}
}

// TestFrozenExperts: gradients of experts that lie at uneven distances, since others are frozen, are those of all.
func TestFrozenExperts(t *testing.T) {
	b := leaf(5, 2, 9)
	_, all := moeRig(t, autograd.Config{}, nil).step(t, b)
	some := moeRig(t, autograd.Config{}, func(m zoo.Model) {
		nn.Walk(m.Root(), func(name string, p *nn.Param) {
			p.Frozen = !strings.Contains(name, "experts.1.") && !strings.Contains(name, "experts.4.w3") && !strings.Contains(name, "experts.3.w3")
		})
	})
	_, got := some.step(t, b)
	if len(got) != 3*(3+2) {
		t.Fatalf("%d gradients", len(got))
	}
	for name, g := range got {
		if !slices.Equal(g, all[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

// TestRouterLossInCheckpointedBlocks: blocks that are computed again are counted once.
func TestRouterLossInCheckpointedBlocks(t *testing.T) {
	b := leaf(5, 2, 9)
	loss, grads := moeRig(t, autograd.Config{}, nil).step(t, b)
	loss2, grads2 := moeRig(t, autograd.Config{Checkpoint: true}, nil).step(t, b)
	if loss != loss2 {
		t.Errorf("loss %v, checkpointed %v", loss, loss2)
	}
	sameGrads(t, "checkpointed", grads, grads2)
	r := moeRig(t, autograd.Config{}, nil)
	r.tape.Reset(context.Background(), false)
	b.Balance = &ops.RouterLoss{}
	r.model.LogProbs(r.tape, b, 1)
	// With uniform routing the loss is k; it is least there.
	if v, err := b.Balance.Value(r.tape); err != nil || v < 1.9 || v > 5 {
		t.Errorf("load-balancing loss %v of 2 of 5 experts: %v", v, err)
	}
}

// TestBF16: a pass in bf16 gives the same bits with and without checkpoints, and gradients near those in f32.
func TestBF16(t *testing.T) {
	b := leaf(5, 2, 9)
	for name, rig := range map[string]func(cfg autograd.Config) *rig{
		"experts": func(cfg autograd.Config) *rig { return moeRig(t, cfg, nil) },
		"tied":    func(cfg autograd.Config) *rig { return newRig(t, true, cfg, nil) },
		"untied":  func(cfg autograd.Config) *rig { return newRig(t, false, cfg, nil) },
	} {
		want, exact := rig(autograd.Config{}).step(t, b)
		loss, grads := rig(autograd.Config{Compute: kernels.BF16}).step(t, b)
		again, ckpt := rig(autograd.Config{Compute: kernels.BF16, Checkpoint: true}).step(t, b)
		if loss != again {
			t.Errorf("%s: loss %v, checkpointed %v", name, loss, again)
		}
		sameGrads(t, name+" checkpointed", grads, ckpt)
		if math.Abs(loss-want) > 1e-2*want {
			t.Errorf("%s: loss %v, in f32 %v", name, loss, want)
		}
		var d, n float64
		for key := range exact {
			for i, w := range exact[key] {
				d += math.Pow(float64(w-grads[key][i]), 2)
				n += float64(w) * float64(w)
			}
		}
		if !(math.Sqrt(d) < 0.1*math.Sqrt(n)) || d == 0 {
			t.Errorf("%s: gradients differ by %g of %g", name, math.Sqrt(d), math.Sqrt(n))
		}
	}
}

// TestExpertsWithoutTokensAreMarked: matrices of experts that transformers does not compute without tokens have no gradient there, so that an
// optimizer leaves them out. OLMoE and FlexOlmo compute all, over no rows if need be; Granite, gpt-oss and the like hold them in one parameter.
func TestExpertsWithoutTokensAreMarked(t *testing.T) {
	computed := []string{"FlexOlmoForCausalLM", "OlmoeForCausalLM"}
	var sparse int
	for _, name := range zoo.Architectures() {
		var marked, bare int
		for _, u := range small(t, name).Units() {
			for _, p := range u.Params {
				if !strings.Contains(p.Name, ".experts.") || strings.Contains(p.Name, "correction") {
					continue
				}
				// The number of an expert stands behind "experts"; a stack of all has none.
				if rest := strings.SplitN(p.Name, ".experts.", 2)[1]; rest[0] < '0' || rest[0] > '9' {
					continue
				}
				if p.Expert != nil {
					marked++
				} else {
					bare++
				}
			}
		}
		if marked+bare == 0 {
			continue
		}
		sparse++
		if all := slices.Contains(computed, name); all && marked > 0 || !all && bare > 0 {
			t.Errorf("%s: %d matrices of experts are left out without tokens, %d are not", name, marked, bare)
		}
	}
	if sparse < 10 {
		t.Errorf("only %d mixtures of experts were seen", sparse)
	}
}
