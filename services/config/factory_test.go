package config

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote/remotetest"
	"github.com/tunefleet/tunefleet/schemas"
)

const factoryYAML = `
model_name_or_path: ./model
stage: sft
do_train: true
finetuning_type: lora
dataset: a
dataset_dir: data
template: llama3
cutoff_len: 64
output_dir: ./out
`

// factoryProject makes a folder with models, adapters and data sets.
func factoryProject(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, m := range []string{"model", "other"} {
		write(t, dir, m+"/config.json", `{"model_type":"llama","vocab_size":`+fmt.Sprint(32+len(m))+`}`)
		write(t, dir, m+"/model.safetensors", "weights of "+m)
		write(t, dir, m+"/tokenizer.json", `{}`)
		write(t, dir, m+"/tokenizer_config.json", `{}`)
	}
	write(t, dir, "short/config.json", `{"model_type":"llama","vocab_size":3}`)
	write(t, dir, "short/model.safetensors", "weights")
	write(t, dir, "short/tokenizer.json", `{"version":"1.0","added_tokens":[{"id":4,"content":"<s>","special":true}],"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"d":3},"merges":[]}}`)
	write(t, dir, "short/tokenizer_config.json", `{"tokenizer_class":"PreTrainedTokenizerFast","added_tokens_decoder":{"4":{"content":"<s>"}},"model_max_length":9}`)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, ".cache"))
	for _, a := range []string{"adapter1", "adapter2", "folder/adapter1"} {
		write(t, dir, a+"/adapter_config.json", `{"r":1}`)
		write(t, dir, a+"/adapter_model.safetensors", "adapter "+a)
	}
	write(t, dir, "heads/value_head.safetensors", "head")
	for _, r := range []string{"reward", "reward2"} { // a reward model by itself, and an adapter of one
		write(t, dir, r+"/config.json", `{"model_type":"llama","vocab_size":3}`)
		write(t, dir, r+"/model.safetensors", "weights of "+r)
		write(t, dir, r+"/adapter_config.json", `{"r":1}`)
		write(t, dir, r+"/adapter_model.safetensors", "adapter "+r)
		write(t, dir, r+"/value_head.safetensors", "head of "+r)
	}
	write(t, dir, "data/a.json", `[{"instruction":"x","output":"y"}]`)
	write(t, dir, "data/b.jsonl", `{"instruction":"x","output":"z"}`)
	write(t, dir, "data/pairs/1.jsonl", `{"instruction":"x","chosen":"z","rejected":"y"}`)
	write(t, dir, "data/dataset_info.json", `{"a":{"file_name":"a.json"},"b":{"file_name":"b.jsonl"},"r":{"file_name":"pairs","ranking":true,"columns":{"prompt":"instruction","chosen":"chosen","rejected":"rejected"}},
		"hub":{"hf_hub_url":"acme/rows","ms_hub_url":"acme/rows"},"script":{"script_url":"rows.py"},"held":{"ms_hub_url":"acme/rows","split":"test"}}`)
	write(t, dir, "more/dataset_info.json", `{"a":{"file_name":"a.json"}}`)
	write(t, dir, "more/a.json", `[{"instruction":"other","output":"y"}]`)
	write(t, dir, "tokenized/dataset_dict.json", `{"splits": ["train"]}`)
	write(t, dir, "tokenized/train/state.json", `{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}`)
	write(t, dir, "tokenized/train/data-00000-of-00001.arrow", "rows")
	for _, top := range []string{"evaluation", "exams"} {
		write(t, dir, top+"/mmlu/mapping.json", `{"law":{"name":"law","category":"Humanities"}}`)
		write(t, dir, top+"/mmlu/test/law_test.csv", "Is it "+top+"?,yes,no,both,neither,A\nWhy?,a,b,c,d,\n")
		write(t, dir, top+"/mmlu/dev/law_dev.csv", "Is it so?,yes,no,both,neither,B\n")
	}
	write(t, dir, "evaluation/broken/mapping.json", `{"law":{"name":"law","category":"Law"}}`)
	write(t, dir, "evaluation/short/mapping.json", `{"law":{"name":"law","category":"Humanities"}}`)
	write(t, dir, "evaluation/short/test/law.csv", "Is it so?,yes,no\n")
	write(t, dir, "evaluation/short/dev/law.csv", "Is it so?,yes,no,both,neither,B\n")
	write(t, dir, "escaping/dataset_dict.json", `{"splits": ["../tokenized/train"]}`)
	write(t, dir, "train.yaml", factoryYAML)
	hubs := remotetest.New(t)
	for _, branch := range []string{"main", "master", "v2"} {
		hubs.Repo("models", "acme/m", branch, map[string]string{"config.json": `{"model_type":"llama","vocab_size":32}`, "model.safetensors": "weights of " + branch, "tokenizer.json": "{}"})
		hubs.Repo("datasets", "acme/rows", branch, map[string]string{"train.jsonl": `{"instruction":"` + branch + `","output":"y"}`, "test.jsonl": `{"instruction":"x","output":"y"}`,
			"dataset_info.json": `{"far":{"hf_hub_url":"acme/rows","split":"test"}}`})
		hubs.Repo("datasets", "acme/shards", branch, map[string]string{"data/train-00000-of-00003.jsonl": `{"instruction":"0","output":"y"}`, "data/train-00001-of-00003.jsonl": `{"instruction":"1","output":"y"}`,
			"data/train-00002-of-00003.jsonl": `{"instruction":"2","output":"y"}`})
	}
	write(t, dir, ".hub", hubs.URL)
	return dir
}

// fetcherOf fetches from the hubs of a project.
func fetcherOf(t *testing.T, dir string) *remote.Fetcher {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, ".hub"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := remote.New(remote.Config{Dir: filepath.Join(dir, ".cache"), HF: string(raw), MS: string(raw), Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func resolve(t *testing.T, dir string, overrides ...string) (*Resolved, error) {
	t.Helper()
	return Load(context.Background(), filepath.Join(dir, "train.yaml"), Options{Overrides: overrides, Remote: fetcherOf(t, dir)})
}

// effect is everything that a configuration decides.
func effect(t *testing.T, r *Resolved) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"spec": r.Spec, "output": r.Output, "logs": r.Logs, "workers": r.Workers, "report": r.ReportTo, "log": r.Factory})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// ppoKeys are what stage ppo needs beside a reward model.
const ppoKeys = "stage=ppo model_name_or_path=./short"

// choiceKeys are what multiple choice needs.
const choiceKeys = "do_train=false task=mmlu_test"

// others holds, for every key that works, another value than the default, and what else must be set for the key to matter.
var others = map[string]string{
	"template": "qwen", "dataset": "b", "eval_dataset": "b eval_strategy=steps", "dataset_dir": "more", "cutoff_len": "128", "train_on_prompt": "true", "mask_history": "true",
	"mix_strategy": "interleave_under", "interleave_probs": "0.4,0.6 dataset=a,b mix_strategy=interleave_over", "preprocessing_batch_size": "10", "preprocessing_num_workers": "4",
	"max_samples": "5", "val_size": "0.1", "eval_on_each_dataset": "true eval_dataset=a,b eval_strategy=steps", "packing": "true", "neat_packing": "true", "tool_format": "qwen",
	"default_system": "be kind", "rope_scaling": "yarn", "shift_attn": "true model_name_or_path=./short", "ignore_pad_token_for_loss": "false model_name_or_path=./short", "moe_aux_loss_coef": "0.01",
	"resize_vocab": "true model_name_or_path=./short", "add_tokens": "<a>,<b> model_name_or_path=./short", "add_special_tokens": "<a> model_name_or_path=./short", "enable_thinking": "false", "preserve_thinking": "true", "model_name_or_path": "./other", "adapter_name_or_path": "adapter1,adapter2",
	"adapter_folder": "folder adapter_name_or_path=adapter1", "quantization_bit": "4", "double_quantization": "false quantization_bit=4",
	"freeze_trainable_layers": "3 finetuning_type=freeze", "freeze_trainable_modules": "mlp finetuning_type=freeze", "freeze_extra_modules": "norm finetuning_type=freeze",
	"additional_target": "embed_tokens", "lora_alpha": "7", "lora_dropout": "0.1", "lora_rank": "4", "lora_target": "q_proj", "loraplus_lr_ratio": "16",
	"loraplus_lr_embedding": "1e-5 loraplus_lr_ratio=16", "use_rslora": "true", "use_dora": "true", "pissa_init": "true", "pissa_iter": "8 pissa_init=true",
	"create_new_adapter": "true adapter_name_or_path=adapter1", "oft_rank": "4 finetuning_type=oft", "oft_block_size": "16 finetuning_type=oft", "oft_target": "q_proj finetuning_type=oft",
	"pref_beta": "0.3 stage=dpo dataset=r", "pref_ftx": "0.3 stage=dpo dataset=r", "pref_loss": "hinge stage=dpo dataset=r", "dpo_label_smoothing": "0.2 stage=dpo dataset=r",
	"kto_chosen_weight": "2 stage=kto", "kto_rejected_weight": "2 stage=kto", "simpo_gamma": "0.7 stage=dpo dataset=r pref_loss=simpo", "ref_model": "./other stage=dpo dataset=r",
	"ld_alpha": "0.5 stage=dpo dataset=r", "use_galore": "true finetuning_type=full", "galore_target": "q_proj use_galore=true finetuning_type=full", "galore_rank": "8 use_galore=true finetuning_type=full",
	"galore_update_interval": "10 use_galore=true finetuning_type=full", "galore_scale": "1 use_galore=true finetuning_type=full", "galore_proj_type": "right use_galore=true finetuning_type=full",
	"use_apollo": "true finetuning_type=full", "apollo_target": "q_proj use_apollo=true finetuning_type=full", "apollo_rank": "8 use_apollo=true finetuning_type=full",
	"apollo_update_interval": "10 use_apollo=true finetuning_type=full", "apollo_scale": "1 use_apollo=true finetuning_type=full", "apollo_proj_type": "right use_apollo=true finetuning_type=full",
	"apollo_scale_type": "tensor use_apollo=true finetuning_type=full", "apollo_scale_front": "true use_apollo=true finetuning_type=full", "use_badam": "true finetuning_type=full",
	"badam_start_block": "1 use_badam=true finetuning_type=full", "badam_switch_mode": "random use_badam=true finetuning_type=full", "badam_switch_interval": "5 use_badam=true finetuning_type=full",
	"stage": "pt", "finetuning_type": "full", "use_llama_pro": "true", "use_adam_mini": "true", "use_muon": "true", "use_dft_loss": "true", "compute_accuracy": "true",
	"disable_shuffling": "true", "early_stopping_steps": "2 eval_strategy=steps val_size=0.1", "train_from_scratch": "true",
	"do_sample": "false do_predict=true predict_with_generate=true val_size=0.1", "temperature": "0.5 do_predict=true predict_with_generate=true val_size=0.1",
	"top_p": "0.5 do_predict=true predict_with_generate=true val_size=0.1", "top_k": "5 do_predict=true predict_with_generate=true val_size=0.1",
	"max_new_tokens": "5 do_predict=true predict_with_generate=true val_size=0.1", "repetition_penalty": "1.2 do_predict=true predict_with_generate=true val_size=0.1",
	"num_beams":           "3 do_sample=false do_predict=true predict_with_generate=true val_size=0.1",
	"length_penalty":      "0.5 num_beams=3 do_sample=false do_predict=true predict_with_generate=true val_size=0.1",
	"skip_special_tokens": "false do_predict=true predict_with_generate=true val_size=0.1", "export_dir": "merged do_train=false",
	"infer_dtype": "bfloat16 do_train=false do_predict=true predict_with_generate=true val_size=0.1",
	"output_dir":  "./elsewhere", "do_train": "false do_predict=true predict_with_generate=true val_size=0.1", "do_eval": "true val_size=0.1",
	"do_predict": "true predict_with_generate=true val_size=0.1", "per_device_train_batch_size": "2", "per_device_eval_batch_size": "2", "gradient_accumulation_steps": "2", "learning_rate": "1e-3",
	"num_train_epochs": "2", "max_steps": "7", "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": "{num_cycles: 2} lr_scheduler_type=cosine", "warmup_ratio": "0.2", "warmup_steps": "3",
	"weight_decay": "0.1", "adam_beta1": "0.8", "adam_beta2": "0.9", "adam_epsilon": "1e-6", "max_grad_norm": "2", "optim": "adafactor", "logging_steps": "10", "save_strategy": "no save_steps=10",
	"save_steps": "10", "eval_strategy": "steps val_size=0.1", "evaluation_strategy": "steps val_size=0.1", "eval_steps": "3 eval_strategy=steps val_size=0.1", "seed": "7", "data_seed": "8", "bf16": "true", "fp16": "true", "precision": "auto", "pure_bf16": "true", "by_block": "true", "offload_optimizer": "true", "offload_activations": "true",
	"galore_layerwise": "true use_galore=true finetuning_type=full", "apollo_layerwise": "true use_apollo=true finetuning_type=full",
	"report_to": "otlp", "run_name": "mine", "dataloader_drop_last": "true", "predict_with_generate": "true do_predict=true val_size=0.1", "include_num_input_tokens_seen": "true",
	"neftune_noise_alpha": "5", "label_smoothing_factor": "0.1", "load_best_model_at_end": "true eval_strategy=steps val_size=0.1",
	"metric_for_best_model": "accuracy compute_accuracy=true load_best_model_at_end=true eval_strategy=steps val_size=0.1", "group_by_length": "true", "logging_dir": "logs", "world": "{nominal: 2}", "pool": "gpu", "priority": "1",
	"tenant": "acme", "num_workers": "2 gradient_accumulation_steps=2", "on_bad_row": "skip", "compat": "llamafactory stage=dpo dataset=r pref_loss=hinge", "sharding": "zero3",
	"eval_on_start": "true do_eval=true val_size=0.1", "ref_model_adapters": "adapter1 stage=dpo dataset=r ref_model=./other",
	"streaming": "true max_steps=5", "buffer_size": "10 streaming=true max_steps=5",
	"model_revision": "v2 model_name_or_path=acme/m", "use_modelscope_hub": "true model_name_or_path=acme/m",
	"clean": "{dedup: true}", "sample": "{max_rows: 3}", "augment": "{methods: [typo]}",
	"tokenized_path": "tokenized",
	"task":           "mmlu_test do_train=false", "task_dir": "exams " + choiceKeys, "batch_size": "2 " + choiceKeys, "lang": "zh " + choiceKeys, "n_shot": "1 " + choiceKeys,
	"save_dir":   "scores " + choiceKeys,
	"value_head": "heads stage=rm dataset=r",
	"ppo_epochs": "2 reward_model=reward " + ppoKeys, "ppo_whiten_rewards": "true reward_model=reward " + ppoKeys, "reward_model": "reward2 " + ppoKeys,
	"reward_model_type": "full reward_model=reward " + ppoKeys, "reward_model_adapters": "reward2 reward_model_type=full reward_model=reward " + ppoKeys,
}

// TestEveryWorkingKeyHasAnEffect changes each key that the table says works and looks at what is resolved.
func TestEveryWorkingKeyHasAnEffect(t *testing.T) {
	dir := factoryProject(t)
	for _, k := range factoryKeys() {
		if k.status != works {
			if _, ok := others[k.name]; ok {
				t.Errorf("%s does not work but has a value here", k.name)
			}
			continue
		}
		t.Run(k.name, func(t *testing.T) {
			spec, ok := others[k.name]
			if !ok {
				t.Fatal("no other value is known")
			}
			// The first override may hold spaces within braces or words; the ones after it are key=value.
			value, rest, _ := strings.Cut(spec, " ")
			for strings.Contains(value, "{") != strings.Contains(value, "}") || rest != "" && !strings.Contains(strings.SplitN(rest, " ", 2)[0], "=") {
				more, tail, _ := strings.Cut(rest, " ")
				value, rest = value+" "+more, tail
			}
			with := strings.Fields(rest)
			key := k.name + "=" + value
			changed, err := resolve(t, dir, append(with, key)...)
			if err != nil {
				t.Fatal(err)
			}
			base, err := resolve(t, dir, with...)
			if err != nil {
				// Without the key the rest is not complete: that is an effect.
				return
			}
			if effect(t, base) == effect(t, changed) {
				t.Fatalf("%s changes nothing", key)
			}
		})
	}
}

func TestKeysAreKnownOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range factoryKeys() {
		if seen[k.name] {
			t.Errorf("%s appears twice", k.name)
		}
		seen[k.name] = true
		if k.status != works && k.note == "" {
			t.Errorf("%s: no reason is given", k.name)
		}
	}
	for name := range others {
		if !seen[name] {
			t.Errorf("%s is no key", name)
		}
	}
}

// TestFactoryTable keeps LLAMAFACTORY.md up to date: UPDATE_TABLE=1 go test writes it.
func TestFactoryTable(t *testing.T) {
	const file = "LLAMAFACTORY.md"
	want := FactoryTable()
	if os.Getenv("UPDATE_TABLE") != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Fatalf("%s is not what the table of keys gives (%v): go generate ./services/config", file, err)
	}
}

func TestFactoryRefusals(t *testing.T) {
	dir := factoryProject(t)
	for _, c := range []struct {
		overrides string
		code      schemas.Code
		want      string
	}{
		{"lora_rnk=4", schemas.CodeInvalid, `unknown key "lora_rnk"; did you mean "lora_rank"?`},
		{"lora_rank=many", schemas.CodeInvalid, "lora_rank is \"many\", expected a whole number"},
		{"fp16=true", "", ""}, {"fp16=true bf16=true", schemas.CodeInvalid, "fp16 cannot be combined"}, {"precision=fp8", schemas.CodeInvalid, "precision"}, {"bf16=true", "", ""},
		{"bf16=false", "", ""}, {"trust_remote_code=true", "", ""}, {"deepspeed=ds.json", "", ""}, {"plot_loss=true", "", ""},
		{"dataset=aa", schemas.CodeNotFound, `there is no data set "aa"`},
		{"dataset=script", schemas.CodeUnsupported, "never run"},
		{"dataset=r", schemas.CodeInvalid, "which stage sft cannot train on"},
		{"stage=dpo", schemas.CodeInvalid, "which stage dpo cannot train on"},
		{"stage=sfd", schemas.CodeInvalid, `did you mean "sft"?`},
		{"stage=ppo", schemas.CodeInvalid, "reward_model is missing"},
		{"reward_model=reward " + ppoKeys, "", ""}, {"reward_model=adapter1 " + ppoKeys, schemas.CodeModel, "is no reward model"}, {"reward_model=other reward_model_type=full " + ppoKeys, schemas.CodeModel, "is no reward model"},
		{"reward_model=http://r reward_model_type=api " + ppoKeys, schemas.CodeInvalid, "ask no server"}, {"reward_model=reward finetuning_type=full " + ppoKeys, schemas.CodeInvalid, "needs finetuning_type lora"},
		{"reward_model=reward reward_model_adapters=reward2 " + ppoKeys, schemas.CodeInvalid, "belongs to reward_model_type full"}, {"reward_model=reward val_size=0.1 " + ppoKeys, schemas.CodeInvalid, "only trains"},
		{"reward_model=reward packing=true " + ppoKeys, schemas.CodeInvalid, "packing cannot be combined"}, {"reward_model=reward ref_model=./other " + ppoKeys, schemas.CodeInvalid, "not built for stage ppo"},
		{"reward_model=reward do_sample=false num_beams=2 " + ppoKeys, schemas.CodeInvalid, "without num_beams"}, {"reward_model=reward ppo_buffer_size=2 " + ppoKeys, schemas.CodeInvalid, "ppo_buffer_size"},
		{"reward_model=reward ppo_score_norm=true " + ppoKeys, schemas.CodeInvalid, "ppo_score_norm"}, {"reward_model=reward ppo_target=2 " + ppoKeys, schemas.CodeInvalid, "0.2 throughout"},
		{"val_size=0.1 eval_dataset=b", schemas.CodeInvalid, "val_size cannot be given together with eval_dataset"},
		{"eval_strategy=steps", schemas.CodeInvalid, "needs eval_dataset or val_size"},
		{"do_predict=true", schemas.CodeInvalid, "do_predict needs eval_dataset or val_size"},
		{"interleave_probs=0.5,0.5", schemas.CodeInvalid, "interleave_probs is only for"},
		{"streaming=true", schemas.CodeInvalid, "max_steps must be given with streaming"},
		{"streaming=true max_steps=3 val_size=0.1", schemas.CodeInvalid, "val_size must be a number of rows with streaming"},
		{"streaming=true max_steps=3 max_samples=5", schemas.CodeInvalid, "max_samples cannot be combined with streaming"},
		{"streaming=true max_steps=3 dataset=a,b mix_strategy=interleave_once", schemas.CodeInvalid, "with streaming is not built"},
		{"eval_on_start=true", schemas.CodeInvalid, "eval_on_start needs eval_strategy or do_eval"},
		{"stage=dpo dataset=r ref_model_adapters=adapter1", schemas.CodeInvalid, "needs ref_model"},
		{"streaming=true max_steps=3 dataloader_num_workers=4", schemas.CodeInvalid, "above 1 with streaming is not built"},
		{"do_predict=true predict_with_generate=true val_size=0.1 do_eval=true", "", ""}, {"do_predict=true predict_with_generate=true val_size=0.1 eval_strategy=steps model_name_or_path=./short", "", ""},
		{"predict_with_generate=true val_size=0.1 eval_strategy=steps load_best_model_at_end=true", schemas.CodeInvalid, "measures no loss"},
		{"predict_with_generate=true val_size=0.1 do_eval=true eval_on_each_dataset=true", schemas.CodeInvalid, "upstream predicts one set"},
		{"ignore_pad_token_for_loss=false neat_packing=true cutoff_len=99", schemas.CodeInvalid, "see every token"}, {"ignore_pad_token_for_loss=false neat_packing=true cutoff_len=96", "", ""}, {"shift_attn=true packing=true", schemas.CodeInvalid, "not built for packed"},
		{"ignore_pad_token_for_loss=false stage=pt", "", ""},
		{"ignore_pad_token_for_loss=false do_train=false do_predict=true predict_with_generate=true val_size=0.1", "", ""},
		{choiceKeys, "", ""}, {"task=mmlu_test", schemas.CodeInvalid, "do_train cannot be combined with task"}, {"n_shot=3", schemas.CodeInvalid, "name its task"},
		{"do_train=false task=mmlu_tset", schemas.CodeInvalid, `did you mean "test"?`}, {"do_train=false task=mmlu", schemas.CodeInvalid, "expected a task and a split"},
		{"do_train=false task=cmmlu_test", schemas.CodeNotFound, "no mapping.json"}, {"do_train=false task=mmlu_validation", schemas.CodeNotFound, "has no validation split"},
		{"do_train=false task=broken_test", schemas.CodeData, `has the category "Law"`}, {"do_train=false task=short_test", schemas.CodeData, "has 3 columns"},
		{"lang=de " + choiceKeys, schemas.CodeInvalid, "expected one of en, zh"}, {"batch_size=0 " + choiceKeys, schemas.CodeInvalid, "batch_size is 0"},
		{"seed=4294967296 " + choiceKeys, schemas.CodeInvalid, "at most 4294967295"},
		{"quantization_bit=4 " + choiceKeys, schemas.CodeInvalid, "quantization_bit with task is not built"}, {"download_mode=force_redownload " + choiceKeys, "", ""},
		{"tokenized_path=none", "", ""}, {"tokenized_path=none packing=true", "", ""}, {"tokenized_path=none stage=pt", "", ""}, {"tokenized_path=data", schemas.CodeData, "no saved data set"}, {"tokenized_path=escaping", schemas.CodeData, "outside of it"},
		{"tokenized_path=tokenized do_eval=true", schemas.CodeData, "no split to evaluate on"}, {"tokenized_path=tokenized clean={dedup:true}", schemas.CodeInvalid, "tokenized already"},
		{"train_on_prompt=true mask_history=true", schemas.CodeInvalid, "mask_history cannot be combined"},
		{"stage=pt neat_packing=true", schemas.CodeInvalid, "neat_packing is only for stage sft"},
		{"finetuning_type=full adapter_name_or_path=adapter1", schemas.CodeInvalid, "adapter_name_or_path is only for"},
		{"finetuning_type=full use_dora=true", schemas.CodeInvalid, "use_dora is only for finetuning_type lora"},
		{"offload_activations=true disable_gradient_checkpointing=true", schemas.CodeInvalid, "cannot be combined with disable_gradient_checkpointing: true: what is offloaded are the inputs"},
		{"offload_activations=true gradient_checkpointing=false", schemas.CodeInvalid, "cannot be combined with gradient_checkpointing: false"},
		{"use_galore=true", schemas.CodeInvalid, "use_galore cannot be combined with finetuning_type lora"},
		{"use_galore=true use_badam=true finetuning_type=full", schemas.CodeInvalid, "cannot be combined with use_galore"},
		{"quantization_bit=4 quantization_type=fp4", schemas.CodeInvalid, "only nf4"}, {"average_tokens_across_devices=false", schemas.CodeInvalid, "global batch"},
		{"metric_for_best_model=accuracy", schemas.CodeInvalid, "compute_accuracy"}, {"metric_for_best_model=rouge", schemas.CodeInvalid, "only loss and accuracy"}, {"max_length=7", "", ""},
		{"learning_rate=-1", schemas.CodeInvalid, "learning_rate is -1"},
		{"do_train=false", schemas.CodeInvalid, "there is nothing to do"},
		{"model_name_or_path=./mmodel", schemas.CodeNotFound, "model_name_or_path"},
		{"optim=adamw_troch", schemas.CodeInvalid, "adamw_torch"},
		{"world.nominal=0", schemas.CodeInvalid, "world nominal"},
		{"lora_rank=0 cutoff_len=1", schemas.CodeInvalid, "cutoff_len is 1"},
		{"adapter_name_or_path=data", schemas.CodeNotFound, "holds no file"},
	} {
		r, err := resolve(t, dir, strings.Fields(c.overrides)...)
		if c.code == "" {
			if err != nil {
				t.Errorf("%s: %v", c.overrides, err)
			}
			continue
		}
		if err == nil || schemas.AsErrorInfo(err).Code != c.code || !strings.Contains(err.Error()+schemas.AsErrorInfo(err).Hint, c.want) {
			t.Errorf("%s: %v (%v), want %s %q", c.overrides, err, r, c.code, c.want)
		}
	}
}

// TestGlobalBatch: the batch is per device x accumulation x nominal devices, whatever the number of workers.
func TestGlobalBatch(t *testing.T) {
	dir := factoryProject(t)
	for _, workers := range []string{"1", "4"} {
		r, err := resolve(t, dir, "per_device_train_batch_size=2", "gradient_accumulation_steps=3", "world.nominal=2", "num_workers="+workers)
		if err != nil {
			t.Fatal(err)
		}
		st, err := r.Spec.StageOf("train")
		if err != nil {
			t.Fatal(err)
		}
		if tr := st.Train; tr.MicroBatch != 2 || tr.Leaves != 6 || tr.Order.Deal != 2 || tr.World.Nominal != 2 {
			t.Errorf("%d x %d, %+v", tr.MicroBatch, tr.Leaves, tr.World)
		}
		if !strings.Contains(strings.Join(r.Notes, "\n"), "12 sequences a step = 2 a device x 3 accumulated x 2 nominal") {
			t.Errorf("notes: %q", r.Notes)
		}
	}
}

// TestHubsShards: the files of a hub's data set are shards of a stream, in the order of their names; of a set that is read whole, and of local
// files, they are not.
func TestHubsShards(t *testing.T) {
	dir := factoryProject(t)
	for _, c := range []struct {
		overrides string
		files     int
		sharded   bool
	}{{"dataset=hf://acme/shards streaming=true max_steps=5", 3, true}, {"dataset=hf://acme/shards", 3, false},
		{"dataset=hub streaming=true max_steps=5", 1, false}, {"stage=dpo dataset=r streaming=true max_steps=5", 1, false}} {
		r, err := resolve(t, dir, strings.Fields(c.overrides)...)
		if err != nil {
			t.Errorf("%s: %v", c.overrides, err)
			continue
		}
		p := r.Spec.Stages[0].Prep
		set := p.Factory.Train[0]
		if len(set.Data.Files) != c.files || set.Sharded != c.sharded || p.Parts != 1 {
			t.Errorf("%s: %d files, shards: %t, %d parts", c.overrides, len(set.Data.Files), set.Sharded, p.Parts)
		}
		if !slices.IsSortedFunc(set.Data.Files, func(a, b schemas.File) int { return strings.Compare(a.Path, b.Path) }) {
			t.Errorf("%s: files are %v", c.overrides, set.Data.Files)
		}
	}
}

// TestInlineDataSets: dataset_dir may describe the data itself.
func TestInlineDataSets(t *testing.T) {
	dir := factoryProject(t)
	write(t, dir, "train.yaml", strings.Replace(factoryYAML, "dataset_dir: data", `dataset_dir: {a: {file_name: "data/*.jsonl", num_samples: 3}}`, 1))
	r, err := resolve(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	f := r.Spec.Stages[0].Prep.Factory
	if len(f.Train) != 1 || f.Train[0].NumSamples != 3 || len(f.Train[0].Data.Files) != 1 || f.Train[0].Data.Files[0].Path != "data/b.jsonl" {
		t.Fatalf("%+v", f.Train)
	}
}

// TestDataOfConfigurations: parts of a split, a set that is named twice, no system text at all, the length of prompts beside packed rows.
func TestDataOfConfigurations(t *testing.T) {
	dir := factoryProject(t)
	write(t, dir, "data/dataset_info.json", `{"a":{"file_name":"a.json","split":"train[:50%]+train[-1:]"},"b":{"file_name":"b.jsonl","split":"test"},"c":{"file_name":"b.jsonl","num_samples":2},
		"far":{"hf_hub_url":"acme/rows","split":"test[:1]"},"two":{"hf_hub_url":"acme/rows","split":"train+test"}}`)
	prep := func(overrides ...string) (*schemas.PrepStage, error) {
		r, err := resolve(t, dir, overrides...)
		if err != nil {
			return nil, err
		}
		return r.Spec.Stages[0].Prep, nil
	}
	if p, err := prep("dataset=a,a", `default_system=""`); err != nil || len(p.Factory.Train) != 1 || p.Factory.Train[0].Split != "train[:50%]+train[-1:]" || p.Factory.DefaultSystem == nil || *p.Factory.DefaultSystem != "" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := prep("dataset=a,c,a,c", "eval_dataset=c,c"); err != nil || len(p.Factory.Train) != 2 || len(p.Factory.Eval) != 1 || !slices.Equal(p.Factory.Draws, []int{0, 1, 0, 1, 2, 2}) {
		t.Errorf("a set that draws twice: %+v, %v", p, err)
	}
	if p, err := prep("dataset=far"); err != nil || p.Factory.Train[0].Split != "test[:1]" || p.Factory.Train[0].Data.Files[0].Path != "test.jsonl" {
		t.Errorf("a split of a hub: %+v, %v", p, err)
	}
	if p, err := prep("streaming=true", "max_steps=2", "val_size=1", "do_eval=true", "packing=true", "predict_with_generate=true"); err != nil || p.Factory.ValSize != 1 || p.Outputs[1].Form != "predict" || p.Outputs[1].CutoffLen != 63 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, c := range []struct {
		overrides string
		code      schemas.Code
		want      string
	}{
		{"dataset=b", schemas.CodeInvalid, "of the split train"}, {"dataset=two", schemas.CodeUnsupported, "several splits"},
		{"dataset=far streaming=true max_steps=2", schemas.CodeUnsupported, "takes no parts"}, {"val_size=1", schemas.CodeInvalid, "is 1"},
		{"dataset=a,c eval_dataset=a mix_strategy=interleave_under interleave_probs=0.5,0.5", schemas.CodeInvalid, "eval_dataset"},
	} {
		if _, err := prep(strings.Fields(c.overrides)...); err == nil || schemas.AsErrorInfo(err).Code != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s %q", c.overrides, err, c.code, c.want)
		}
	}
}

func FuzzFactory(f *testing.F) {
	f.Add(factoryYAML)
	f.Add("stage: dpo\ndataset: [a, b]\nworld: {nominal: 2}\nlora_rank: 1e9")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := Parse(context.Background(), filepath.Join(t.TempDir(), "x.yaml"), []byte("do_train: true\n"+text), Options{})
		if err != nil && schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
			t.Fatalf("error without a code: %v", err)
		}
	})
}

// TestHubs resolves models and data sets of hubs: what is fetched is in the spec by its content, with the commit that the branch was.
func TestHubs(t *testing.T) {
	dir := factoryProject(t)
	for _, c := range []struct {
		overrides, model, data, row string
	}{
		{"model_name_or_path=acme/m dataset=hub", "hf://acme/m@", "hf://acme/rows@", "main"},
		{"model_name_or_path=acme/m dataset=hub use_modelscope_hub=true", "ms://acme/m@", "ms://acme/rows@", "master"},
		{"model_name_or_path=ms://acme/m@v2 dataset=held", "ms://acme/m@", "ms://acme/rows@", "x"},
		{"model_name_or_path=hf://acme/m dataset=hf://acme/rows/t*st.jsonl", "hf://acme/m@", "hf://acme/rows/t*st.jsonl@", "x"},
		{"dataset=acme/rows dataset_dir=ONLINE", "", "hf://acme/rows@", "main"},
		{"dataset=far dataset_dir=REMOTE:acme/rows", "", "hf://acme/rows@", "x"},
	} {
		r, err := resolve(t, dir, strings.Fields(c.overrides)...)
		if err != nil {
			t.Errorf("%s: %v", c.overrides, err)
			continue
		}
		model, set := r.Spec.Stages[1].Train.Model.Base, r.Spec.Stages[0].Prep.Factory.Train[0]
		if !strings.HasPrefix(model.Origin, c.model) || c.model == "" && model.Origin != "" || strings.HasSuffix(model.Origin, "@main") || !strings.HasPrefix(set.Data.Origin, c.data) {
			t.Errorf("%s: the model is from %q, the data from %q", c.overrides, model.Origin, set.Data.Origin)
		}
		if len(set.Data.Files) != 1 {
			t.Fatalf("%s: files %v", c.overrides, set.Data.Files)
		}
		i := slices.IndexFunc(r.Inputs, func(in Input) bool { return in.File.SHA256 == set.Data.Files[0].SHA256 })
		if i < 0 {
			t.Fatalf("%s: the data are not among the files to upload", c.overrides)
		}
		if raw, err := os.ReadFile(r.Inputs[i].Local); err != nil || !strings.Contains(string(raw), `"instruction":"`+c.row+`"`) {
			t.Errorf("%s: %v; the data are %s", c.overrides, err, raw)
		}
	}
	for overrides, code := range map[string]schemas.Code{"model_name_or_path=acme/none": schemas.CodeNotFound, "model_name_or_path=acme/m model_revision=v3": schemas.CodeNotFound,
		"dataset=https://example.org/rows.jsonl": schemas.CodeInvalid, "dataset=gs://bucket/rows.jsonl": schemas.CodeUnsupported} {
		if _, err := resolve(t, dir, strings.Fields(overrides)...); !schemas.IsCode(err, code) {
			t.Errorf("%s: %v, expected %s", overrides, err, code)
		}
	}
	// The other two forms take addresses, too.
	write(t, dir, "guide.yaml", "model: {base_model: acme/m}\ntraining: {learning_rate: 1e-4}\ndata: {train_path: \"hf://acme/rows/train.jsonl@v2\"}\n")
	r, err := Load(context.Background(), filepath.Join(dir, "guide.yaml"), Options{Remote: fetcherOf(t, dir)})
	if err != nil || !strings.HasPrefix(r.Spec.Stages[0].Prep.Data.Origin, "hf://acme/rows/train.jsonl@") {
		t.Fatalf("%v; %+v", err, r)
	}
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := json.Unmarshal(spec, &tree); err != nil {
		t.Fatal(err)
	}
	stages, ok := tree["stages"].([]any)
	if !ok {
		t.Fatal("no stages")
	}
	prep, ok := stages[0].(map[string]any)["prep"].(map[string]any)
	if !ok {
		t.Fatal("no prep stage")
	}
	prep["data"], prep["tokenizer"] = "ms://acme/rows/test.jsonl", "hf://acme/m"
	if spec, err = json.Marshal(tree); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "spec.json", string(spec))
	if r, err = Load(context.Background(), filepath.Join(dir, "spec.json"), Options{Remote: fetcherOf(t, dir)}); err != nil {
		t.Fatal(err)
	}
	if p := r.Spec.Stages[0].Prep; !strings.HasPrefix(p.Data.Origin, "ms://acme/rows/test.jsonl@") || len(p.Tokenizer.Files) != 1 || !strings.HasPrefix(p.Tokenizer.Origin, "hf://acme/m@") {
		t.Errorf("data from %q, tokenizer %+v", p.Data.Origin, p.Tokenizer)
	}
}

// TestCompatLosses: what upstream makes of the losses that trl no longer computes.
func TestCompatLosses(t *testing.T) {
	dir := factoryProject(t)
	for loss, want := range map[string]schemas.Preference{"hinge": {Loss: "sigmoid"}, "kto_pair": {Loss: "sigmoid"}, "ipo": {Loss: "sigmoid", Average: true}, "orpo": {Loss: "orpo"}} {
		r, err := resolve(t, dir, "stage=dpo", "dataset=r", "compat=llamafactory", "pref_loss="+loss)
		if err != nil {
			t.Fatal(err)
		}
		st, err := r.Spec.StageOf("train")
		if err != nil {
			t.Fatal(err)
		}
		if p := st.Train.Pref; p.Loss != want.Loss || p.Average != want.Average {
			t.Errorf("%s: %+v", loss, p)
		}
	}
}

// TestCuratedExample: both forms of the example ask for the same.
func TestCuratedExample(t *testing.T) {
	dir := factoryProject(t)
	model := "./model"
	for _, f := range []string{"train.yaml", "guide.yaml"} {
		top := t.TempDir()
		if err := os.CopyFS(top, os.DirFS("../../producer/examples/curated-tickets")); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(top, "model"), os.DirFS(filepath.Join(dir, model))); err != nil {
			t.Fatal(err)
		}
		r, err := Load(t.Context(), filepath.Join(top, f), Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := r.Spec.Stages[0].Prep
		if !p.Clean.Normalize || p.Clean.PII != "mask" || p.Clean.NearDup != 1 || p.Sample.Balance != "oversample" || p.Augment.Rate != 0.15 || len(p.Augment.Methods) != 2 ||
			len(p.Augment.SynonymDict.Files) != 1 || p.Augment.SynonymDict.Files[0].Bytes == 0 {
			t.Errorf("%s: %+v %+v %+v", f, p.Clean, p.Sample, p.Augment)
		}
		if len(p.Outputs) != 2 || !slices.ContainsFunc(r.Inputs, func(i Input) bool { return filepath.Base(i.Local) == "synonyms.txt" }) {
			t.Errorf("%s: %d outputs", f, len(p.Outputs))
		}
	}
	for key, want := range map[string]string{"clean={dedupe: true}": "dedup", "augment={methods: [typos]}": "typos", "sample={balance: more}": "oversample", "augment={methods: [synonym_replacement]}": "synonym_dict",
		"augment={methods: [typo], synonym_dict: none.txt}": "none.txt"} {
		if _, err := resolve(t, dir, key); err == nil || !strings.Contains(err.Error()+schemas.AsErrorInfo(err).Hint, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestEvaluationsThatGenerate: with predict_with_generate an evaluation answers and scores, in place of a loss; without do_predict its answers
// are not kept.
func TestEvaluationsThatGenerate(t *testing.T) {
	dir := factoryProject(t)
	for overrides, want := range map[string]FactoryOutput{
		"do_eval=true do_predict=true": {Predicts: true, Generates: true},
		"do_eval=true":                 {Generates: true},
		"do_eval=true do_train=false":  {Generates: true},
		"do_predict=true":              {Predicts: true},
		"eval_strategy=steps do_train=false do_eval=false do_predict=true": {Predicts: true, Generates: true},
	} {
		r, err := resolve(t, dir, append(strings.Fields(overrides), "predict_with_generate=true", "val_size=0.1")...)
		if err != nil {
			t.Fatal(err)
		}
		if f := r.Factory; f.Predicts != want.Predicts || f.Generates != want.Generates {
			t.Errorf("%s: %+v", overrides, f)
		}
		st, err := r.Spec.StageOf("predict")
		if err != nil {
			t.Fatalf("%s: %v", overrides, err)
		}
		if train, err := r.Spec.StageOf("train"); (err == nil) == strings.Contains(overrides, "do_train=false") || err == nil && (train.Train.Eval != "" || st.Eval.Predict.Model.From != "stage:train") {
			t.Errorf("%s: %v %+v", overrides, err, train)
		}
	}
}

// TestReferenceOfAnEvaluation: a preference loss that is only measured is compared with the same model, its adapters merged.
func TestReferenceOfAnEvaluation(t *testing.T) {
	dir := factoryProject(t)
	r, err := resolve(t, dir, "stage=dpo", "dataset=r", "do_train=false", "do_eval=true", "val_size=0.5", "adapter_name_or_path=adapter1")
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.Spec.StageOf("evaluate")
	if err != nil {
		t.Fatal(err)
	}
	if p := st.Train.Pref; p.Reference == nil || p.Reference.Base.Files[0].SHA256 != st.Train.Model.Base.Files[0].SHA256 || len(p.ReferenceAdapters) != 1 {
		t.Errorf("%+v", p)
	}
}

// TestLossOfItsOwnLeavesSmoothingOut: a loss function replaces the one that smooths labels upstream.
func TestLossOfItsOwnLeavesSmoothingOut(t *testing.T) {
	dir := factoryProject(t)
	for overrides, want := range map[string]schemas.TrainFeatures{
		"label_smoothing_factor=0.1":                   {LabelSmoothing: 0.1, LeafMeans: true},
		"label_smoothing_factor=0.1 use_dft_loss=true": {DFT: true},
	} {
		r, err := resolve(t, dir, strings.Fields(overrides)...)
		if err != nil {
			t.Fatal(err)
		}
		f := r.Spec.Stages[1].Train.Features
		if f == nil || f.LabelSmoothing != want.LabelSmoothing || f.LeafMeans != want.LeafMeans || f.DFT != want.DFT {
			t.Errorf("%s: %+v", overrides, f)
		}
	}
}

// TestChoiceStage: what a configuration of the evaluator becomes, and which keys are told to do nothing there.
func TestChoiceStage(t *testing.T) {
	dir := factoryProject(t)
	r, err := resolve(t, dir, append(strings.Fields(choiceKeys), "learning_rate=1e-3", "n_shot=0", "infer_dtype=bfloat16", "adapter_name_or_path=adapter1", "num_workers=3")...)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Spec.Stages) != 1 || r.Spec.Name != "mmlu_test" || r.Output != "" || r.Workers != 3 {
		t.Fatalf("%+v, output %q", r.Spec, r.Output)
	}
	e := r.Spec.Stages[0].Eval
	if c := e.Choice; e.Slices != 3 || e.DType != "bf16" || c.Task != "mmlu" || c.Split != "test" || c.Lang != "en" || c.Shots != 0 || c.Batch != 4 || len(c.Adapters) != 1 || c.Model.Base == nil || c.Date == "" || len(c.Files.Files) != 3 {
		t.Errorf("%+v of %+v", c, e)
	}
	notes := strings.Join(r.Notes, "\n")
	if !strings.Contains(notes, "2 questions of 1 subjects") || !strings.Contains(notes, "1 of the questions have no answer") || !strings.Contains(notes, "beside task: cutoff_len, dataset") || !strings.Contains(notes, "learning_rate") {
		t.Errorf("notes: %s", notes)
	}
}
