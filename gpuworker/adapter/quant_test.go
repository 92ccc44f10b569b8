package adapter_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
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
