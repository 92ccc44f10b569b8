package adapter_test

import (
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// llama2 is Llama-2-7B's configuration.
const llama2 = `{"architectures":["LlamaForCausalLM"],"vocab_size":32000,"hidden_size":4096,"intermediate_size":11008,"num_hidden_layers":32,
"num_attention_heads":32,"num_key_value_heads":32,"max_position_embeddings":4096,"rms_norm_eps":1e-5}`

// The memory of packed matrices at Llama-2-7B's shapes, as a share of bfloat16: counted, without any memory.
func TestPackedMemoryOfLlama2(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		quant adapter.QuantConfig
		most  float64
	}{{adapter.QuantConfig{Type: adapter.NF4, Double: true}, 0.27}, {adapter.QuantConfig{Type: adapter.Int8}, 0.52}} {
		m, err := zoo.New([]byte(llama2))
		if err != nil {
			t.Fatal(err)
		}
		a, err := adapter.Apply(m, adapter.Config{Rank: 8, Alpha: 16, Quant: c.quant})
		if err != nil {
			t.Fatal(err)
		}
		packed, bf16 := a.PackedBytes()
		share := float64(packed) / float64(bf16)
		t.Logf("%+v: %d of %d bytes (%.4f)", c.quant, packed, bf16, share)
		if share > c.most || bf16 != 2*32*(4*4096*4096+3*4096*11008) {
			t.Errorf("%+v: %d bytes are %.4f of bfloat16's %d, at most %.2f are allowed", c.quant, packed, share, bf16, c.most)
		}
		// What the units hold is what was counted, and embedding, head, norms and adapters beside.
		var words int64
		for _, u := range m.Units() {
			for _, p := range u.Params {
				words += p.Len()
			}
		}
		rest := int64(2*32000*4096 + 65*4096)
		for _, p := range a.Params() {
			rest += p.Len()
		}
		if words*4 != packed+4*rest {
			t.Errorf("%+v: units hold %d bytes, %d are accounted for", c.quant, words*4, packed+4*rest)
		}
	}
}

// A model over a packed base computes what one computes whose weights are the values that the packed ones stand for.
func TestPackedBaseIsTheExpandedOne(t *testing.T) {
	t.Parallel()
	for _, q := range []adapter.QuantConfig{{Type: adapter.NF4, Double: true}, {Type: adapter.NF4}, {Type: adapter.Int8}} {
		for _, c := range []adapter.Config{{Rank: 3, Alpha: 5, Targets: []string{"q_proj", "down_proj"}}, {Rank: 3, Alpha: 5, DoRA: true},
			{Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 4}, Targets: []string{"v_proj"}}} {
			plain := c
			c.Quant = q
			few, full := newRig(t, tinyLlama, &c), newRig(t, tinyLlama, &plain)
			before := full.logits()
			for i, p := range few.base {
				v := make([]float32, p.Len())
				if err := few.a.Seen(few.original())(t.Context(), p, 0, v); err != nil {
					t.Fatal(err)
				}
				if err := kernels.Upload(full.q, full.base[i].Data.Reshape(p.Len()), v); err != nil {
					t.Fatal(err)
				}
			}
			for i, p := range few.a.Params() {
				v, err := nn.Read(few.q, p.Data)
				if err != nil {
					t.Fatal(err)
				}
				if err := kernels.Upload(full.q, full.a.Params()[i].Data.Reshape(p.Len()), v); err != nil {
					t.Fatal(err)
				}
			}
			got, want := few.logits(), full.logits()
			if !slices.Equal(got, want) {
				t.Errorf("%+v: logits differ from those of the expanded base", c)
			}
			if slices.Equal(got, before) {
				t.Errorf("%+v: packing changed nothing", c)
			}
			few.backward()
			full.backward()
			for i, p := range few.a.Params() {
				g, err := nn.Read(few.q, p.Grad)
				if err != nil {
					t.Fatal(err)
				}
				w, err := nn.Read(full.q, full.a.Params()[i].Grad)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(g, w) {
					t.Errorf("%+v: the gradient of %s differs from that over the expanded base", c, p.Name)
				}
			}
		}
	}
}

// Every method runs with activations in bf16, near what it computes in fp32.
func TestMethodsInBF16(t *testing.T) {
	t.Parallel()
	cases := peftCases()
	for _, q := range []adapter.QuantConfig{{Type: adapter.NF4, Double: true}, {Type: adapter.Int8}} {
		for _, c := range []adapter.Config{{Rank: 4, Alpha: 6}, {Rank: 4, Alpha: 6, DoRA: true}, {Kind: adapter.KindOFT, OFT: adapter.OFTConfig{BlockSize: 8}}} {
			c.Quant = q
			cases = append(cases, &peftCase{Name: q.Type + " " + string(c.Kind), config: c})
		}
	}
	for _, c := range cases {
		config := tinyLlama
		if c.Base == "qwen" {
			config = tinyQwen
		}
		r := newRig(t, config, &c.config)
		grads := func() map[string][]float32 {
			r.backward()
			out := map[string][]float32{}
			for _, p := range r.a.Params() {
				g, err := nn.Read(r.q, p.Grad)
				if err != nil {
					t.Fatal(err)
				}
				out[p.Name] = g
			}
			return out
		}
		want, wantGrads := r.logits(), grads()
		r.tape = autograd.New(r.tape.Memory(), autograd.Config{Compute: kernels.BF16})
		near(t, c.Name+" logits in bf16", r.logits(), want, 0.05)
		for name, g := range grads() {
			near(t, c.Name+" bf16 gradient of "+name, g, wantGrads[name], 0.1)
		}
	}
}
