package verifye2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// effectsBase is what keys are changed of: two steps of an adapter over twelve rows.
const effectsBase = `
model_name_or_path: ROOT/model_llama3
dataset_dir: ROOT/data
dataset: identity
template: llama3
stage: sft
do_train: true
finetuning_type: lora
cutoff_len: 96
max_samples: 12
max_steps: 2
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1.0e-2
seed: 7
output_dir: ./out
`

const (
	onFull    = "finetuning_type=full"
	onPairs   = "stage=dpo dataset=dpo_en_demo"
	onTurns   = "dataset=multiturn_en"
	onTools   = "dataset=glaive_toolcall_en_demo cutoff_len=1024 max_samples=4"
	onQwen    = "model_name_or_path=ROOT/model_qwen2 template=qwen3"
	onPPO     = "stage=ppo reward_model=ROOT/rm_lora/out max_new_tokens=5"
	onReward  = "stage=ppo reward_model=./reward max_new_tokens=5"
	onEval    = "val_size=4 do_eval=true"
	onPredict = "model_name_or_path=ROOT/model_llama3_memo val_size=2 do_train=false do_predict=true predict_with_generate=true do_sample=false max_new_tokens=12"
	onDraws   = "model_name_or_path=ROOT/model_llama3_memo val_size=2 do_train=false do_predict=true predict_with_generate=true do_sample=true max_new_tokens=12"
)

// effects are, for each key that changes what is computed, another value, what else is set in both runs, and, where the key has no
// default to compare with, what the other run has in its place.
var effects = map[string]struct{ value, with, instead string }{
	// Data
	"template": {value: "vicuna"}, "dataset": {value: "alpaca_en_demo"}, "eval_dataset": {value: "alpaca_en_demo", with: "do_eval=true", instead: "eval_dataset=identity"},
	"cutoff_len": {value: "24"}, "train_on_prompt": {value: "true"}, "mask_history": {value: "true", with: onTurns},
	"streaming": {value: "true", with: "max_samples=null"}, "buffer_size": {value: "3", with: "streaming=true max_samples=null"},
	"mix_strategy":             {value: "interleave_under", with: "dataset=identity,alpaca_en_demo disable_shuffling=true"},
	"interleave_probs":         {value: "0.2,0.8", with: "dataset=identity,alpaca_en_demo mix_strategy=interleave_under disable_shuffling=true"},
	"preprocessing_batch_size": {value: "3", with: "packing=true"}, "preprocessing_num_workers": {value: "3", with: "packing=true"},
	"max_samples": {value: "5"}, "val_size": {value: "6", with: "do_eval=true", instead: "val_size=3"},
	"eval_on_each_dataset": {value: "true", with: "eval_dataset=identity,alpaca_en_demo do_eval=true"}, "packing": {value: "true"}, "neat_packing": {value: "true", with: "packing=true"},
	"tool_format": {value: "qwen", with: onTools}, "default_system": {value: "kind", with: "template=vicuna"},
	"enable_thinking": {value: "false", with: onQwen}, "preserve_thinking": {value: "true", with: onQwen + " mask_history=true " + onThoughts},
	// Model
	"model_name_or_path": {value: "ROOT/model_llama3_memo"}, "adapter_name_or_path": {value: "ROOT/sft_lora/out"}, "rope_scaling": {value: "linear", with: "cutoff_len=4096"},
	"adapter_folder": {value: "ROOT/sft_lora", with: "adapter_name_or_path=out", instead: "adapter_folder=ROOT/sft_lora_on_memo"},
	"shift_attn":     {value: "true"}, "ignore_pad_token_for_loss": {value: "false"}, "add_tokens": {value: "name,Hello", with: onFull}, "resize_vocab": {value: "true", with: "template=glm4 stage=pt packing=false " + onFull},
	"add_special_tokens": {value: "name,Hello", with: onFull}, "train_from_scratch": {value: "true", with: onFull},
	"quantization_bit": {value: "4"}, "double_quantization": {value: "false", with: "quantization_bit=4"},
	// Methods
	"finetuning_type": {value: "full"}, "freeze_trainable_layers": {value: "1", with: "finetuning_type=freeze"}, "freeze_trainable_modules": {value: "mlp", with: "finetuning_type=freeze"},
	"freeze_extra_modules": {value: "embed_tokens", with: "finetuning_type=freeze"}, "use_llama_pro": {value: "true", with: "model_name_or_path=./deep"},
	"additional_target": {value: "embed_tokens"}, "lora_alpha": {value: "7"}, "lora_dropout": {value: "0.3"}, "lora_rank": {value: "4"}, "lora_target": {value: "q_proj"},
	"loraplus_lr_ratio": {value: "16"}, "loraplus_lr_embedding": {value: "1e-2", with: "loraplus_lr_ratio=16 lora_target=embed_tokens,q_proj max_steps=3"},
	"use_rslora": {value: "true"}, "use_dora": {value: "true"}, "pissa_init": {value: "true", with: "pissa_iter=-1"}, "pissa_iter": {value: "1", with: "pissa_init=true"},
	"create_new_adapter": {value: "true", with: "adapter_name_or_path=ROOT/sft_lora/out"},
	"oft_rank":           {value: "4", with: "finetuning_type=oft"}, "oft_block_size": {value: "16", with: "finetuning_type=oft"}, "oft_target": {value: "q_proj", with: "finetuning_type=oft"},
	// Preferences
	"stage": {value: "pt", with: "packing=false"}, "pref_beta": {value: "0.5", with: onPairs}, "pref_ftx": {value: "0.5", with: onPairs}, "pref_loss": {value: "orpo", with: onPairs},
	"dpo_label_smoothing": {value: "0.2", with: onPairs}, "simpo_gamma": {value: "0.9", with: "pref_loss=simpo " + onPairs}, "ref_model": {value: "ROOT/model_llama3_memo", with: onPairs},
	"ref_model_adapters": {value: "ROOT/sft_lora/out", with: "ref_model=ROOT/model_llama3 " + onPairs}, "ld_alpha": {value: "0.3", with: onPairs},
	"kto_chosen_weight": {value: "2", with: "stage=kto dataset=kto_en_demo"}, "kto_rejected_weight": {value: "2", with: "stage=kto dataset=kto_en_demo"},
	"compat":       {value: "llamafactory", with: "pref_loss=hinge learning_rate=1 " + onPairs},
	"reward_model": {value: "ROOT/rm_lora/init_adapter", with: strings.Replace(onPPO, "reward_model=ROOT/rm_lora/out ", "", 1), instead: "reward_model=ROOT/rm_lora/out"},
	"ppo_epochs":   {value: "2", with: onPPO}, "ppo_whiten_rewards": {value: "true", with: onPPO}, "reward_model_type": {value: "full", with: onReward},
	"reward_model_adapters": {value: "ROOT/rm_lora/out", with: onReward + " reward_model_type=full"},
	// Optimizers
	"use_galore": {value: "true", with: onFull}, "galore_target": {value: "q_proj", with: "use_galore=true " + onFull}, "galore_rank": {value: "4", with: "use_galore=true " + onFull},
	"galore_update_interval": {value: "1", with: "max_steps=4 use_galore=true " + onFull}, "galore_scale": {value: "1", with: "use_galore=true " + onFull},
	"galore_proj_type": {value: "left", with: "use_galore=true " + onFull}, "use_apollo": {value: "true", with: onFull}, "apollo_target": {value: "q_proj", with: "use_apollo=true " + onFull},
	"apollo_rank": {value: "4", with: "use_apollo=true " + onFull}, "apollo_update_interval": {value: "1", with: "max_steps=4 use_apollo=true " + onFull},
	"apollo_scale": {value: "2", with: "use_apollo=true " + onFull}, "apollo_proj_type": {value: "left", with: "use_apollo=true " + onFull},
	"apollo_scale_type": {value: "tensor", with: "use_apollo=true " + onFull}, "apollo_scale_front": {value: "true", with: "use_apollo=true max_steps=3 " + onFull},
	"use_badam": {value: "true", with: onFull}, "badam_start_block": {value: "1", with: "use_badam=true " + onFull},
	"badam_switch_mode": {value: "descending", with: "use_badam=true badam_switch_interval=1 max_steps=4 " + onFull}, "badam_switch_interval": {value: "1", with: "use_badam=true " + onFull},
	"use_adam_mini": {value: "true"}, "use_muon": {value: "true"}, "optim": {value: "adafactor"},
	// Training
	"use_dft_loss": {value: "true"}, "compute_accuracy": {value: "true", with: onEval}, "disable_shuffling": {value: "true"}, "pure_bf16": {value: "true"}, "bf16": {value: "true"}, "fp16": {value: "true"},
	"precision": {value: "bf16"}, "do_eval": {value: "true", with: "val_size=4"}, "do_train": {value: "false", with: onEval},
	"per_device_train_batch_size": {value: "1"}, "per_device_eval_batch_size": {value: "1", with: onEval}, "gradient_accumulation_steps": {value: "1"}, "learning_rate": {value: "1e-3"},
	"num_train_epochs": {value: "1", with: "max_steps=-1"}, "max_steps": {value: "1"}, "lr_scheduler_type": {value: "constant"},
	"lr_scheduler_kwargs": {value: "{num_cycles: 2}", with: "lr_scheduler_type=cosine_with_restarts"}, "warmup_ratio": {value: "0.6"}, "warmup_steps": {value: "2"}, "weight_decay": {value: "5"},
	"adam_beta1": {value: "0.1"}, "adam_beta2": {value: "0.5", with: "max_steps=3"}, "adam_epsilon": {value: "1e-3"}, "max_grad_norm": {value: "0.01", with: "optim=sgd learning_rate=10"},
	"eval_strategy": {value: "epoch", with: "val_size=4 max_steps=-1 num_train_epochs=2"}, "evaluation_strategy": {value: "epoch", with: "val_size=4 max_steps=-1 num_train_epochs=2"},
	"eval_steps": {value: "1", with: "val_size=4 eval_strategy=steps", instead: "eval_steps=2"}, "eval_on_start": {value: "true", with: onEval}, "seed": {value: "8"}, "data_seed": {value: "9"},
	"dataloader_drop_last": {value: "true", with: "max_samples=7 max_steps=-1 num_train_epochs=1"}, "neftune_noise_alpha": {value: "5"}, "label_smoothing_factor": {value: "0.2"},
	"group_by_length": {value: "true"}, "world": {value: "{nominal: 2}"}, "value_head": {value: "ROOT/rm_lora/init_adapter", with: "stage=rm dataset=dpo_en_demo"},
	"early_stopping_steps":   {value: "1", with: "max_steps=6 val_size=4 eval_strategy=steps eval_steps=1 learning_rate=100 load_best_model_at_end=true", instead: "seed=7"},
	"load_best_model_at_end": {value: "true", with: "max_steps=6 val_size=4 eval_strategy=steps eval_steps=1 learning_rate=100"},
	"metric_for_best_model":  {value: "accuracy", with: "compute_accuracy=true load_best_model_at_end=true max_steps=8 val_size=6 eval_strategy=steps eval_steps=1"},
	"on_bad_row":             {value: "quarantine", with: "dataset_dir={b: {file_name: broken.jsonl}} dataset=b max_samples=null", instead: "on_bad_row=skip"},
	"dataset_dir":            {value: "{identity: {file_name: thoughts.json, formatting: sharegpt}}", with: "max_samples=null"},
	"moe_aux_loss_coef":      {value: "0.5", with: "model_name_or_path=./moe resize_vocab=true"},
	"clean":                  {value: "{max_chars: 5}"}, "sample": {value: "{max_rows: 3}"}, "augment": {value: "{methods: [typo]}"},
	// Generation
	"do_predict": {value: "true", with: "val_size=2 predict_with_generate=true max_new_tokens=8"}, "predict_with_generate": {value: "true", with: "val_size=2 do_eval=true max_new_tokens=8"},
	"do_sample":   {value: "true", with: strings.Replace(onPredict, " do_sample=false", "", 1) + " temperature=3", instead: "do_sample=false"},
	"temperature": {value: "5", with: onDraws}, "top_p": {value: "0.01", with: onDraws + " temperature=3"}, "top_k": {value: "1", with: onDraws + " temperature=3 top_p=1"},
	"num_beams": {value: "3", with: strings.Replace(onPredict, "_memo", "", 1)}, "length_penalty": {value: "-9", with: "num_beams=3 " + onPredict}, "max_new_tokens": {value: "3", with: strings.Replace(onPredict, " max_new_tokens=12", "", 1), instead: "max_new_tokens=12"},
	"repetition_penalty": {value: "3", with: onPredict}, "skip_special_tokens": {value: "false", with: strings.Replace(onPredict, "=12", "=64", 1)},
}

// onThoughts has answers with thoughts in turns that are not the last.
const onThoughts = `dataset_dir={t: {file_name: thoughts.json, formatting: sharegpt}} dataset=t`

// exported are keys that act on what is exported, or on which weights are: the stage is run, too.
var exported = []string{"load_best_model_at_end", "metric_for_best_model"}

// effectsElsewhere names the tests of keys that change nothing of what is computed, or cannot be changed alone.
var effectsElsewhere = map[string]string{
	"task": "gpuworker/evaluate:TestChoicesAreLLaMAFactorys", "task_dir": "gpuworker/evaluate:TestChoicesAreLLaMAFactorys", "lang": "gpuworker/evaluate:TestChoicesAreLLaMAFactorys",
	"n_shot": "gpuworker/evaluate:TestChoicesAreLLaMAFactorys", "batch_size": "gpuworker/evaluate:TestChoicesAreLLaMAFactorys", "save_dir": "services/cmd/tunefleet:TestEval",
	"tokenized_path": "gpuworker/verifye2e:TestTokenizedByLLaMAFactory", "model_revision": "services/config:TestHubs", "use_modelscope_hub": "services/config:TestHubs",
	"galore_layerwise": "gpuworker/verifye2e:TestKeysChangeMemory", "apollo_layerwise": "gpuworker/verifye2e:TestKeysChangeMemory", "by_block": "gpuworker/verifye2e:TestKeysChangeMemory",
	"sharding": "gpuworker/verifye2e:TestKeysChangeMemory", "offload_optimizer": "gpuworker/verifye2e:TestKeysChangeMemory", "offload_activations": "gpuworker/verifye2e:TestKeysChangeMemory", "num_workers": "gpuworker/verifye2e:TestKeysChangeMemory",
	"export_dir": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten", "output_dir": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten",
	"logging_dir": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten", "logging_steps": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten",
	"save_strategy": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten", "save_steps": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten",
	"run_name": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten", "include_num_input_tokens_seen": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten",
	"pool": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten", "priority": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten", "tenant": "services/cmd/tunefleet:TestKeysChangeWhatIsWritten",
	"report_to":   "services/cmd/tunefleet:TestKeysChangeWhatIsWritten",
	"infer_dtype": "gpuworker/export:TestElementTypesOfTheBaseAreKept",
}

// TestKeysChangeMemory: keys that never change a bit of the result change what a rank holds, by the same count that tunefleet plan prints.
func TestKeysChangeMemory(t *testing.T) {
	root := fixtures(t)
	for key, c := range map[string]struct {
		value, with string
		world       int
	}{
		"by_block":            {"true", onFull + " gradient_accumulation_steps=1", 1},
		"galore_layerwise":    {"true", "use_galore=true gradient_accumulation_steps=1 " + onFull, 1},
		"apollo_layerwise":    {"true", "use_apollo=true gradient_accumulation_steps=1 " + onFull, 1},
		"sharding":            {"zero3", onFull, 2},
		"offload_optimizer":   {"true", onFull, 1},
		"offload_activations": {"true", onFull, 1},
		"num_workers":         {"2", onFull + " sharding=zero3", 0},
	} {
		t.Run(key, func(t *testing.T) {
			peak := func(more string) (int64, string) {
				dir := t.TempDir()
				write(t, dir, "train.yaml", []byte(strings.ReplaceAll(effectsBase, "ROOT", root)))
				spec, _, err := options().Load(t.Context(), filepath.Join(dir, "train.yaml"), splitOverrides(c.with+" "+more))
				if err != nil {
					t.Fatal(err)
				}
				st, err := spec.StageOf("train")
				if err != nil {
					t.Fatal(err)
				}
				model, err := os.ReadFile(filepath.Join(root, "model_llama3", "config.json"))
				if err != nil {
					t.Fatal(err)
				}
				world := c.world
				if world == 0 {
					world = st.Train.World.Max
				}
				f, err := train.Measure(t.Context(), train.MeasureConfig{Stage: st.Train, Model: model, World: world, Seq: 96})
				if err != nil {
					t.Fatal(err)
				}
				return f.Weights + f.Gradients + f.Optimizer + f.Window + f.Activations, fmt.Sprintf("%+v", f)
			}
			before, a := peak("")
			after, b := peak(key + "=" + c.value)
			if after >= before {
				t.Errorf("%s=%s: %d bytes at most, %d without\n%s\n%s", key, c.value, after, before, b, a)
			}
		})
	}
}

// TestEveryWorkingKeyIsTested: a key of the table that works has a case in effects, or the name of a test that exists.
func TestEveryWorkingKeyIsTested(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|[^|]*\\| works \\|").FindAllStringSubmatch(config.FactoryTable(), -1) {
		key := m[1]
		seen[key] = true
		_, here := effects[key]
		where, there := effectsElsewhere[key]
		if here == there {
			t.Errorf("%s works: it has a case here: %t, another test: %t", key, here, there)
		}
		if !there {
			continue
		}
		folder, name, _ := strings.Cut(where, ":")
		files, err := filepath.Glob(filepath.Join("..", "..", folder, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(f string) bool {
			b, err := os.ReadFile(f)
			return err == nil && bytes.Contains(b, []byte("func "+name+"("))
		}) {
			t.Errorf("%s: there is no test %s", key, where)
		}
	}
	for key := range effects {
		if !seen[key] {
			t.Errorf("%s does not work but has a case", key)
		}
	}
	if len(seen) < 150 {
		t.Errorf("only %d keys are known to work", len(seen))
	}
}

// TestKeysChangeWhatIsComputed runs two configurations that differ in one key, and wants other data, losses, weights or answers.
func TestKeysChangeWhatIsComputed(t *testing.T) {
	if testing.Short() {
		t.Skip("runs every key")
	}
	root := fixtures(t)
	before := map[string]string{}
	for key, c := range effects {
		t.Run(key, func(t *testing.T) {
			all := slices.Contains(exported, key)
			base := fmt.Sprint(c.instead, "\x00", c.with, "\x00", all)
			if _, ok := before[base]; !ok {
				before[base] = computedBy(t, root, c.with, c.instead, all)
			}
			if got := computedBy(t, root, c.with, key+"="+c.value, all); got == before[base] {
				t.Errorf("%s=%s changes nothing of %.400s", key, c.value, got)
			}
		})
	}
}

// computedBy runs a configuration: the content of what was prepared, the numbers of steps and evaluations, the texts of predictions, and with
// export the content of what is exported.
func computedBy(t *testing.T, root, with, more string, export bool) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "train.yaml", []byte(strings.ReplaceAll(effectsBase, "ROOT", root)))
	write(t, dir, "thoughts.json", []byte(`[{"conversations":[{"from":"human","value":"a"},{"from":"gpt","value":"<think>\nwhy\n</think>\n\nb"},{"from":"human","value":"c"},{"from":"gpt","value":"<think>\nso\n</think>\n\nd"}]}]`))
	write(t, dir, "broken.jsonl", []byte("{\"instruction\": \"a\", \"output\": \"b\"}\n[1]\n{\"instruction\": \"c\", \"output\": \"d\"}\n"))
	if strings.Contains(with, "./moe") {
		makeMixture(t, root, filepath.Join(dir, "moe"))
	}
	if strings.Contains(with, "./reward") {
		makeReward(t, root, filepath.Join(dir, "reward"))
	}
	if strings.Contains(with, "./deep") {
		makeDeep(t, root, filepath.Join(dir, "deep"))
	}
	o := options()
	spec, inputs, err := o.Load(t.Context(), filepath.Join(dir, "train.yaml"), splitOverrides(strings.ReplaceAll(with+" "+more, "ROOT", root)))
	if err != nil {
		t.Fatal(err)
	}
	run, err := localrun.New(t.Context(), localrun.Config{Spec: spec, Inputs: inputs, Handlers: o.Handlers, Dir: dir, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	var out []any
	for _, st := range spec.Stages {
		if st.Kind == schemas.KindExport && !export {
			continue
		}
		if err := run.Stage(t.Context(), st.Name); err != nil {
			t.Fatal(err)
		}
		raw, _, err := run.Objects().Get(t.Context(), schemas.ResultKey(spec.Tenant, spec.ID, st.Name, 0), 16<<20)
		if st.Kind == schemas.KindTrain {
			continue
		}
		var r schemas.StageResult
		if err != nil || json.Unmarshal(raw, &r) != nil {
			t.Fatalf("no result of %s: %v", st.Name, err)
		}
		for _, x := range r.Objects {
			if st.Kind == schemas.KindPrep || st.Kind == schemas.KindExport {
				out = append(out, x.Name, x.SHA256)
				continue
			}
			b, _, err := run.Objects().Get(t.Context(), x.Key, 16<<20)
			if err != nil {
				t.Fatal(err)
			}
			var s struct{ Rows []json.RawMessage }
			if json.Unmarshal(b, &s) == nil {
				out = append(out, s.Rows)
			}
		}
	}
	for _, e := range run.Events() {
		for k := range e.Values {
			if strings.HasSuffix(k, "_runtime") || strings.Contains(k, "per_second") {
				delete(e.Values, k)
			}
		}
		if e.Type == schemas.EventStep || e.Values["eval_tokens"] > 0 || len(e.Values) > 0 && e.Type == schemas.EventProgress {
			out = append(out, e.Step, e.Values)
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// makeMixture makes a model of experts with the tokenizer of the fixtures.
func makeMixture(t *testing.T, root, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]string{"config.json": "../models/mixtral", "model.safetensors": "../models/mixtral", "tokenizer.json": "model_llama3", "tokenizer_config.json": "model_llama3"} {
		b, err := os.ReadFile(filepath.Join(root, from, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, b)
	}
}

// makeReward makes a folder that is a reward model by itself, and the adapter of another one.
func makeReward(t *testing.T, root, dir string) {
	t.Helper()
	for from, names := range map[string][]string{"model_llama3": {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"},
		"rm_lora/out": {"adapter_config.json", "adapter_model.safetensors", "value_head.safetensors"}} {
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(root, from, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, dir, name, b)
		}
	}
}

// makeDeep makes a model of six layers of the fixtures' of three: each twice, as variants.py does.
func makeDeep(t *testing.T, root, dir string) {
	t.Helper()
	from := filepath.Join(root, "model_llama3")
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.OpenPath(from, "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entries []safetensors.Entry
	for _, info := range f.Infos() {
		values, shape, err := f.Float32(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{info.Name}
		for i := range 3 {
			if layer := fmt.Sprintf(".layers.%d.", i); strings.Contains(info.Name, layer) {
				names = append(names, strings.Replace(info.Name, layer, fmt.Sprintf(".layers.%d.", i+3), 1))
			}
		}
		for _, n := range names {
			entries = append(entries, safetensors.Entry{Name: n, Shape: shape, Float32: values})
		}
	}
	out, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := errors.Join(out.Remove("model.safetensors"), safetensors.WriteFile(out, "model.safetensors", entries, f.Metadata())); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, "config.json", bytes.Replace(raw, []byte(`"num_hidden_layers": 3`), []byte(`"num_hidden_layers": 6`), 1))
}

// splitOverrides cuts key=value words; a value in braces may hold spaces. max_samples=null leaves it out.
func splitOverrides(s string) (out []string) {
	depth := 0
	var word strings.Builder
	for _, r := range s + " " {
		switch r {
		case '{':
			depth++
		case '}':
			depth--
		}
		if r != ' ' || depth > 0 {
			word.WriteRune(r)
			continue
		}
		if word.Len() > 0 {
			out = append(out, word.String())
		}
		word.Reset()
	}
	return out
}
