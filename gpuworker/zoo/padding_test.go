package zoo_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/adapter"
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
)

// withPadding is a small model whose configuration has that token for padding.
func withPadding(t *testing.T, name string, pad any, tied bool) zoo.Model {
	t.Helper()
	raw, err := zoo.Override(small(t, name).Info().Config, map[string]any{"pad_token_id": pad, "tie_word_embeddings": tied})
	if err != nil {
		t.Fatal(err)
	}
	m, err := zoo.New(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// table is the name of a model's table of tokens, and the row of padding in it, -1 for none.
func table(m zoo.Model) (name string, padding int64) {
	name, padding = "", -1
	nn.WalkEmbeddings(m.Root(), func(_ string, e *nn.Embedding) {
		if name != "" {
			return
		}
		if name = e.Weight.Name; e.Padding != nil {
			padding = int64(*e.Padding)
		}
	})
	return name, padding
}

// TestPaddingTokenLearnsNothing: where transformers gives its table of tokens a padding_idx, the padding token's row has no gradient of its
// lookups, and every other gradient has the same bits as without one.
func TestPaddingTokenLearnsNothing(t *testing.T) {
	// As modeling_*.py of transformers 4.57 make nn.Embedding.
	without := strings.Fields("BloomForCausalLM FalconForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM GPTNeoXForCausalLM MptForCausalLM")
	const pad = 7
	b := leaf(4, 2, 11)
	b.IDs[3], b.IDs[5], b.IDs[17] = pad, pad, pad
	for _, name := range zoo.Architectures() {
		t.Run(name, func(t *testing.T) {
			has := !slices.Contains(without, name)
			for _, tied := range []bool{false, true} {
				plain := newModelRig(t, withPadding(t, name, nil, tied), autograd.Config{}, nil)
				padded := newModelRig(t, withPadding(t, name, pad, tied), autograd.Config{}, nil)
				_, want := plain.step(t, b)
				_, got := padded.step(t, b)
				key, row := table(padded.model)
				if has != (row == pad) || row != pad && row != -1 {
					t.Fatalf("row of padding %d", row)
				}
				width := int64(len(got[key])) / 50
				g, w := got[key][pad*width:(pad+1)*width], want[key][pad*width:(pad+1)*width]
				isTied, zero := padded.model.Info().Tied, !slices.ContainsFunc(g, func(v float32) bool { return v != 0 })
				if slices.Equal(g, w) == has || zero != (has && !isTied) {
					t.Errorf("tied %v: gradient of the padding token %v, of a token %v", isTied, g, w)
				}
				clear(g)
				clear(w)
				sameGrads(t, name, got, want)
			}
		})
	}
}

// TestPaddingOfEmbeddingAdapters: PEFT's adapter of an embedding looks up with the same padding_idx, and a copy that is trained beside the
// model keeps it.
func TestPaddingOfEmbeddingAdapters(t *testing.T) {
	const pad = 7
	b := leaf(4, 2, 11)
	b.IDs[3] = pad
	for _, c := range []struct {
		config adapter.Config
		key    string
	}{
		{adapter.Config{Rank: 3, Alpha: 6, Targets: []string{"embed_tokens"}}, ".lora_embedding_A"},
		{adapter.Config{Rank: 3, Alpha: 6, Targets: []string{"q_proj"}, Save: []string{"embed_tokens"}}, ".embed_tokens.weight"},
	} {
		r := newModelRig(t, withPadding(t, "LlamaForCausalLM", -50+pad, false), autograd.Config{}, func(r *rig) {
			var err error
			if r.lora, err = adapter.Apply(r.model, c.config); err != nil {
				t.Fatal(err)
			}
		})
		_, grads := r.step(t, b)
		found := false
		for k, g := range grads {
			if !strings.HasSuffix(k, c.key) {
				continue
			}
			found = true
			width := len(g) / 50
			for row := range 50 {
				used := slices.Contains(b.IDs, int32(row)) && row != pad
				if some := slices.ContainsFunc(g[row*width:(row+1)*width], func(v float32) bool { return v != 0 }); some != used {
					t.Errorf("%s: row %d has a gradient: %v, expected %v", k, row, some, used)
				}
			}
		}
		if !found {
			t.Errorf("no gradient ends in %s", c.key)
		}
	}
}

// TestPaddingWhereTheFileSaysNothing: transformers' classes have tokens of their own; what lies outside of the table is none.
func TestPaddingWhereTheFileSaysNothing(t *testing.T) {
	for name, want := range map[string]int64{"GemmaForCausalLM": 0, "OPTForCausalLM": 1, "LlamaForCausalLM": -1, "Phi3ForCausalLM": -1, "SeedOssForCausalLM": 1, "BaiChuanForCausalLM": 0} {
		if _, row := table(small(t, name)); row != want {
			t.Errorf("%s: row of padding %d, expected %d", name, row, want)
		}
	}
}
