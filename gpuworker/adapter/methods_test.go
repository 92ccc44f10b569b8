package adapter_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
)

// Every method that a spec can name is described, once.
func TestMethodsAreDescribed(t *testing.T) {
	t.Parallel()
	var all []string
	seen := map[string]bool{}
	for _, m := range adapter.Methods() {
		if seen[m.Name] || m.Name == "" || m.Spec == "" || m.Reference == "" || len(m.Precisions) == 0 {
			t.Errorf("%+v", m)
		}
		seen[m.Name] = true
		all = append(all, m.Spec)
	}
	for _, m := range schemas.Methods() {
		if !slices.ContainsFunc(all, func(s string) bool { return strings.HasPrefix(s, "method: "+m) }) {
			t.Errorf("method %s is not described", m)
		}
	}
}

func trained(m adapter.Model) []string {
	var out []string
	for _, u := range m.Units() {
		for _, p := range u.Params {
			if !p.Frozen {
				out = append(out, p.Name)
			}
		}
	}
	return out
}

// The cases are what LLaMA-Factory's freeze method trains of a model with three blocks.
func TestFreezeByName(t *testing.T) {
	t.Parallel()
	const attn, mlp = 4, 3
	for name, c := range map[string]struct {
		config adapter.FreezeConfig
		count  int
		has    string
	}{
		"last two":                     {adapter.FreezeConfig{Layers: 2}, 2 * (attn + mlp + 2), "model.layers.1.mlp.up_proj.weight"},
		"first one":                    {adapter.FreezeConfig{Layers: -1, Modules: []string{"all"}}, attn + mlp + 2, "model.layers.0.mlp.up_proj.weight"},
		"more than there are":          {adapter.FreezeConfig{Layers: 9}, 3 * (attn + mlp + 2), "model.layers.0.input_layernorm.weight"},
		"modules":                      {adapter.FreezeConfig{Layers: 1, Modules: []string{"mlp"}}, mlp, "model.layers.2.mlp.up_proj.weight"},
		"extra, by part of the name":   {adapter.FreezeConfig{Layers: 1, Modules: []string{"self_attn"}, Extra: []string{"norm"}}, attn + 6 + 1, "model.layers.0.input_layernorm.weight"},
		"nothing of the blocks":        {adapter.FreezeConfig{Extra: []string{"lm_head", "embed_tokens"}}, 2, "lm_head.weight"},
		"spread evenly over the model": {adapter.FreezeConfig{Layers: 3, Spread: true}, 3 * (attn + mlp + 2), "model.layers.0.mlp.up_proj.weight"},
	} {
		m, err := zoo.New([]byte(tinyLlama))
		if err != nil {
			t.Fatal(err)
		}
		if err := adapter.Freeze(m, c.config); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := trained(m); len(got) != c.count || !slices.Contains(got, c.has) {
			t.Errorf("%s: %d tensors are trained, want %d with %s: %v", name, len(got), c.count, c.has, got)
		}
	}
	for _, c := range []adapter.FreezeConfig{{Layers: 1, Modules: []string{"mpl"}}, {Layers: 1, Extra: []string{"head"}}, {}, {Layers: 2, Spread: true}} {
		m, err := zoo.New([]byte(tinyLlama))
		if err != nil {
			t.Fatal(err)
		}
		if err := adapter.Freeze(m, c); !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// Adapters of added blocks alone: the cases are what LLaMA-Factory's find_expanded_modules names, as far as PEFT can adapt it.
func TestAdaptersOfAddedBlocks(t *testing.T) {
	t.Parallel()
	const w = "base_model.model.model.layers."
	for name, c := range map[string]struct {
		model   string
		spread  int
		targets []string
		count   int
		has     []string
	}{
		"every linear module":                   {tinyLlama, 1, []string{"all"}, 7, []string{w + "2.mlp.up_proj.lora_A.weight"}},
		"one module of three blocks":            {tinyLlama, 3, []string{"q_proj"}, 3, []string{w + "0.self_attn.q_proj.lora_A.weight"}},
		"a part of a path, and nothing outside": {tinyLlama, 1, []string{"self_attn", "embed_tokens", "lm_head"}, 4, []string{w + "2.self_attn.o_proj.lora_B.weight"}},
		"experts of that number":                {tinyMixtures["mixtral"], 1, []string{"w1"}, 5 + 2, []string{w + "2.block_sparse_moe.experts.0.w1.lora_A.weight", w + "0.block_sparse_moe.experts.2.w1.lora_A.weight"}},
	} {
		m, err := zoo.New([]byte(c.model))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := adapter.Apply(m, adapter.Config{Rank: 2, Alpha: 2, Spread: c.spread, Targets: c.targets}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := trained(m)
		if len(got) != 2*c.count {
			t.Errorf("%s: %d tensors are trained, want %d: %v", name, len(got), 2*c.count, got)
		}
		for _, p := range c.has {
			if !slices.Contains(got, p) {
				t.Errorf("%s: %s is not trained: %v", name, p, got)
			}
		}
	}
	for _, c := range []adapter.Config{{Spread: 2}, {Spread: -1}, {Spread: 1, Targets: []string{"lm_head"}}} {
		m, err := zoo.New([]byte(tinyLlama))
		if err != nil {
			t.Fatal(err)
		}
		c.Rank, c.Alpha = 1, 1
		if _, err := adapter.Apply(m, c); !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A model with inserted blocks computes what it did before, and only they are trained then.
func TestExpansionPassesTheInputOn(t *testing.T) {
	t.Parallel()
	want := newRig(t, tinyLlama, nil)
	e, err := adapter.NewExpansion([]byte(tinyLlama), 3)
	if err != nil {
		t.Fatal(err)
	}
	config, err := e.Config([]byte(tinyLlama))
	if err != nil {
		t.Fatal(err)
	}
	got := newRig(t, string(config), nil)
	if got.model.Info().Layers != 6 || !slices.Equal(e.Inserted(), []int{1, 3, 5}) {
		t.Fatalf("%d blocks, inserted %v", got.model.Info().Layers, e.Inserted())
	}
	zeros := 0
	for _, p := range got.base {
		from, zero := e.Source(p.Name)
		v := make([]float32, p.Len())
		if zero {
			zeros++
		} else {
			old := *p
			old.Name = from
			if err := got.original()(t.Context(), &old, 0, v); err != nil {
				t.Fatal(err)
			}
		}
		got.set(p, v)
	}
	if zeros != 6 {
		t.Errorf("%d tensors are zero, want those of attention and feed-forward in three blocks", zeros)
	}
	if !slices.Equal(got.logits(), want.logits()) {
		t.Error("the expanded model computes something else")
	}
	if err := adapter.Freeze(got.model, adapter.FreezeConfig{Layers: 3, Spread: true}); err != nil {
		t.Fatal(err)
	}
	for _, name := range trained(got.model) {
		if !strings.Contains(name, ".1.") && !strings.Contains(name, ".3.") && !strings.Contains(name, ".5.") {
			t.Errorf("%s is trained", name)
		}
	}
	for _, bad := range []int{0, 2, 4} {
		if _, err := adapter.NewExpansion([]byte(tinyLlama), bad); !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Errorf("%d blocks more: %v", bad, err)
		}
	}
}

// An adapted head, whose product a fused loss computes from two operands, computes what the same adapter does on any other layer, with
// dropout too: the same elements are dropped.
func TestHeadIsALayer(t *testing.T) {
	t.Parallel()
	for _, c := range []adapter.Config{{}, {DoRA: true}, {Dropout: 0.3}, {DoRA: true, Dropout: 0.3}} {
		c.Rank, c.Alpha, c.Targets = 3, 7, []string{"lm_head"}
		for name, model := range map[string]string{"own": tinyLlama, "tied": tinyQwen} {
			r := newRig(t, model, &c)
			_, head := r.model.TiedHead()
			nn.WalkLinears(r.model.Root(), func(path string, l *nn.Linear) {
				if path == "lm_head" && l.Weight != nil {
					head = l
				}
			})
			const rows, width = 5, 24
			x, ids := make([]float32, rows*width), make([]int64, rows)
			for i := range x {
				x[i] = float32(math.Sin(float64(i * i)))
			}
			for i := range ids {
				ids[i] = autograd.TokenID(int64(i), i)
			}
			r.tape.SetNoise(&autograd.Noise{Seed: 3, Step: 1, IDs: ids})
			r.tape.Reset(t.Context(), true)
			in := r.tape.Const(r.tape.Floats(x, rows, width))
			a, w := head.Operands(r.tape, in)
			got, err := r.tape.Read(ops.Linear(r.tape, a, w, nn.Value{}, nn.Value{}))
			if err != nil {
				t.Fatal(err)
			}
			want, err := r.tape.Read(head.Forward(r.tape, in))
			if err != nil {
				t.Fatal(err)
			}
			near(t, fmt.Sprintf("%s head, DoRA %v, dropout %g", name, c.DoRA, c.Dropout), got, want, 1e-6)
			r.tape.SetNoise(nil)
			r.tape.Reset(t.Context(), true)
			in = r.tape.Const(r.tape.Floats(x, rows, width))
			still, err := r.tape.Read(head.Forward(r.tape, in))
			if err != nil {
				t.Fatal(err)
			}
			if slices.Equal(still, want) == (c.Dropout > 0) {
				t.Errorf("dropout of %g: the same without noise: %v", c.Dropout, c.Dropout > 0)
			}
		}
	}
}

// What does not fit is refused by name.
func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	for key, c := range map[string]adapter.Config{
		"lora.targets":         {Rank: 1, Alpha: 1, Targets: []string{"q_prj"}},
		"lora.modules_to_save": {Rank: 1, Alpha: 1, Save: []string{"embed_token"}},
		"lora.rank":            {Alpha: 1},
		"quant.type":           {Rank: 1, Alpha: 1, Quant: adapter.QuantConfig{Type: "fp4"}},
		"quant":                {Rank: 1, Alpha: 1, PiSSA: true, Quant: adapter.QuantConfig{Type: adapter.NF4}},
		"oft":                  {Kind: adapter.KindOFT, OFT: adapter.OFTConfig{Rank: 2, BlockSize: 2}},
		"bottleneck.size":      {Kind: adapter.KindBottleneck},
		"method":               {Kind: "prefix"},
	} {
		m, err := zoo.New([]byte(tinyLlama))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := adapter.Apply(m, c); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
