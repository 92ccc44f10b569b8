package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const trainYAML = `
name: chaos
pool: cpu
seed: 7
tenant: ` + trainTenant + `
stages:
  - name: prep
    kind: prep
    prep:
      data: text.jsonl
      tokenizer: tokenizer
      columns: {text: text}
      parts: 2
      outputs:
        - {name: text, form: pt, split: train, cutoff_len: 64, packing: true}
  - name: ` + trainStage + `
    kind: train
    needs: [prep]
    train:
      objective: pt
      data: prep/text
      model: {config: config.json}
      method: full
      steps: STEPS
      micro_batch: 2
      leaves: 2
      optim: {name: adamw, lr: 3e-3, max_grad_norm: 1.0, schedule: cosine, warmup_steps: 10}
      dtype: fp32
      sharding: zero3
      commit_every: COMMIT
      step_delay_ms: DELAY
      world: {min: 2, max: 2}
`

const trainModel = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 260, "hidden_size": 64, "intermediate_size": 128,
"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 128,
"initializer_range": 0.02, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 256, "eos_token_id": 257}`

// trainProject writes data, tokenizer (bytes) and configuration of the run into dir.
func trainProject(dir string, seed uint64, steps int64, delay time.Duration) (string, error) {
	r := rand.New(rand.NewPCG(seed, 0x7e47)) //nolint:gosec // the text must be repeatable
	words := strings.Fields("the fleet trains while brokers fail workers come and go steps count once no lease is a permission truth lies in one place")
	var text strings.Builder
	for range 400 {
		var row []string
		for range 12 + r.IntN(20) {
			row = append(row, words[r.IntN(len(words))])
		}
		line, err := json.Marshal(map[string]string{"text": strings.Join(row, " ")})
		if err != nil {
			return "", fmt.Errorf("cannot encode a row: %w", err)
		}
		text.Write(append(line, '\n'))
	}
	tokenizer, err := byteTokenizer()
	if err != nil {
		return "", err
	}
	yaml := strings.NewReplacer("STEPS", fmt.Sprint(steps), "COMMIT", fmt.Sprint(trainCommit), "DELAY", fmt.Sprint(delay.Milliseconds())).Replace(trainYAML)
	if err := os.MkdirAll(filepath.Join(dir, "tokenizer"), 0o700); err != nil {
		return "", fmt.Errorf("cannot write the run: %w", err)
	}
	for name, data := range map[string]string{"text.jsonl": text.String(), "config.json": trainModel, "run.yaml": yaml,
		"tokenizer/tokenizer.json": tokenizer, "tokenizer/tokenizer_config.json": `{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			return "", fmt.Errorf("cannot write the run: %w", err)
		}
	}
	return filepath.Join(dir, "run.yaml"), nil
}

// byteTokenizer is a byte-level tokenizer without merges, in the tokenizers library's form.
func byteTokenizer() (string, error) {
	vocab := map[string]int{}
	next := 256 // bytes that are no printable characters get code points from here on, as in GPT-2
	for b := range 256 {
		c := rune(b)
		if b < '!' || b > '~' && b < 0xa1 || b == 0xad {
			c = rune(next)
			next++
		}
		vocab[string(c)] = b
	}
	special := []map[string]any{}
	for i, s := range []string{"<s>", "</s>", "<pad>", "<unk>"} {
		vocab[s] = 256 + i
		special = append(special, map[string]any{"id": 256 + i, "content": s, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
	}
	level := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	out, err := json.Marshal(map[string]any{"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": special, "normalizer": nil,
		"pre_tokenizer": level, "post_processor": level, "decoder": level,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil, "fuse_unk": false,
			"byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []string{}}})
	if err != nil {
		return "", fmt.Errorf("cannot encode the tokenizer: %w", err)
	}
	return string(out), nil
}
