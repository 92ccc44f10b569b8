package zoo_test

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// small makes a small model of an architecture.
func small(t *testing.T, architecture string) zoo.Model {
	t.Helper()
	keys := map[string]any{"architectures": []string{architecture}, "vocab_size": 50, "initializer_range": 0.2, "init_std": 0.2,
		"attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0, "dropout": 0, "attention_dropout": 0, "residual_dropout": 0, "head_dim": 8,
		"num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "hidden_size": 32, "n_embd": 32, "d_model": 32, "intermediate_size": 20, "ffn_dim": 20,
		"num_attention_heads": 4, "num_key_value_heads": 4, "n_head": 4, "n_heads": 4, "rotary_dim": 4, "max_position_embeddings": 128, "word_embed_proj_dim": 32,
		"kv_lora_rank": 8, "q_lora_rank": nil, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 6, "moe_intermediate_size": 10,
		"shared_expert_intermediate_size": 10, "shared_intermediate_size": 10, "num_experts": 4, "num_local_experts": 4, "moe_num_experts": 4, "n_routed_experts": 4,
		"num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1}
	if architecture == "PhimoeForCausalLM" {
		keys["router_jitter_noise"] = 0.9 // else an expert that is alone near the greatest weighs 1, whatever the router says
	}
	raw, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	m, err := zoo.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (r *rig) logits(t *testing.T, b *nn.Batch) []float32 {
	t.Helper()
	r.tape.Reset(context.Background(), false)
	z, err := r.tape.Read(r.model.Logits(r.tape, b))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func near(t *testing.T, what string, got, want []float32, most float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, expected %d", what, len(got), len(want))
	}
	for i := range want {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= most) {
			t.Fatalf("%s: value %d is %g, expected %g", what, i, got[i], want[i])
		}
	}
}

// TestEveryArchitecture holds what no architecture may break: recomputed blocks, whose inputs were the host's meanwhile, give the same bits, packed documents what they give
// alone, decoding with a cache (in a padded batch) what full passes give, a log-probability of its own the fused loss's gradients, and
// an adapter on every linear layer what its merged weights give.
func TestEveryArchitecture(t *testing.T) {
	for _, name := range zoo.Architectures() {
		t.Run(name, func(t *testing.T) {
			var cfg autograd.Config
			lora := func(r *rig) {
				var err error
				if r.lora, err = adapter.Apply(r.model, adapter.Config{Rank: 3, Alpha: 6}); err != nil {
					t.Fatal(err)
				}
			}
			plain := newModelRig(t, small(t, name), cfg, nil)
			b := leaf(4, 2, 11)
			loss, grads := plain.step(t, b)
			again := newModelRig(t, small(t, name), autograd.Config{Checkpoint: true}, func(r *rig) { r.away = true })
			loss2, grads2 := again.step(t, b)
			if loss != loss2 || len(grads) != len(grads2) {
				t.Fatalf("loss %g, recomputed %g", loss, loss2)
			}
			for k, g := range grads {
				if !slices.Equal(g, grads2[k]) {
					t.Errorf("%s differs when blocks are recomputed", k)
				}
			}
			separate(t, plain, b, grads)
			packed(t, plain)
			cached(t, plain)
			with := newModelRig(t, small(t, name), cfg, lora)
			_, grads = with.step(t, b)
			for k, g := range grads {
				if strings.Contains(k, "lora_A") && !strings.Contains(k, ".experts.") && !slices.ContainsFunc(g, func(v float32) bool { return v != 0 }) {
					t.Errorf("%s has no gradient", k)
				}
			}
			z := with.logits(t, b)
			if err := with.lora.Merge(t.Context(), with.queue); err != nil {
				t.Fatal(err)
			}
			near(t, "merged adapter", with.logits(t, b), z, 1e-3)
		})
	}
}

// separate compares gradients of seeded log-probabilities with those of the fused loss.
func separate(t *testing.T, r *rig, b *nn.Batch, want map[string][]float32) {
	t.Helper()
	r.tape.Reset(context.Background(), true)
	lp := r.model.TokenLogProbs(r.tape, b)
	if err := r.tape.Err(); err != nil {
		t.Fatal(err)
	}
	seed := make([]float32, len(b.IDs))
	for i := range seed {
		seed[i] = -1 / float32(b.LabelTokens())
	}
	r.tape.Seed(lp, r.tape.Floats(seed, int64(len(seed))))
	if err := r.tape.Backward(); err != nil {
		t.Fatal(err)
	}
	for _, u := range r.model.Units() {
		for _, p := range u.Params {
			if p.Frozen {
				continue
			}
			got, err := nn.Read(r.queue, p.Grad)
			if err != nil {
				t.Fatal(err)
			}
			near(t, "seeded gradient of "+p.Name, got, want[p.Name], 1e-5)
		}
	}
}

// packed compares documents in one row with the same documents alone.
func packed(t *testing.T, r *rig) {
	t.Helper()
	one := &nn.Batch{Rows: 1, Docs: []int32{0}}
	var want []float32
	for i, n := range []int{5, 9, 1, 7} {
		b := leaf(uint64(10+i), 1, n)
		want = append(want, r.logits(t, b)...)
		one.IDs = append(one.IDs, b.IDs...)
		one.Seq += n
		one.Docs = append(one.Docs, int32(one.Seq))
	}
	near(t, "packed documents", r.logits(t, one), want, 1e-4)
}

// cached compares greedy decoding of a padded batch with full passes.
func cached(t *testing.T, r *rig) {
	t.Helper()
	prompts := [][]int32{{3, 1, 4}, {1, 5, 9, 2, 6, 5}, {3}}
	const n = 6
	out, err := generate.Generate(context.Background(), r.tape, r.model, prompts, generate.Options{MaxNewTokens: n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range prompts {
		ids := slices.Clone(p)
		for range n {
			z := r.logits(t, &nn.Batch{Rows: 1, Seq: len(ids), IDs: ids})
			last := z[len(z)-50:]
			ids = append(ids, int32(slices.Index(last, slices.Max(last))))
		}
		if !slices.Equal(out[i], ids[len(p):]) {
			t.Errorf("row %d: %v, full passes give %v", i, out[i], ids[len(p):])
		}
	}
}

func TestCatalog(t *testing.T) {
	list, err := zoo.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(zoo.Architectures()) {
		t.Fatalf("%d of %d architectures", len(list), len(zoo.Architectures()))
	}
	for _, l := range list {
		if len(l.Parameters) < 5 || len(l.Modules) < 3 || len(l.ModelTypes) == 0 {
			t.Errorf("%+v", l)
		}
		if l.Architecture == "GPT2LMHeadModel" && (!slices.Contains(l.Parameters, "transformer.h.N.attn.c_attn.weight") || !slices.Contains(l.Modules, "c_attn")) {
			t.Errorf("%+v", l)
		}
	}
}
