package verifye2e_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
)

// ppoYAML is a LLaMA-Factory configuration of stage ppo, with the reward model that its stage rm trained.
const ppoYAML = `
model_name_or_path: ROOT/model_llama3
reward_model: REWARD
reward_model_type: TYPE
stage: ppo
do_train: true
finetuning_type: lora
dataset_dir: ROOT/data
dataset: identity
template: llama3
cutoff_len: 96
max_samples: 64
output_dir: ./out
per_device_train_batch_size: 32
gradient_accumulation_steps: 2
learning_rate: 2.0e-2
lr_scheduler_type: constant
max_steps: 16
ppo_epochs: 4
max_new_tokens: 1
top_k: 10
top_p: 1.0
seed: 3
`

// amplify makes a reward model's scores twenty times as large, so that they outweigh the divergence from the reference.
func amplify(t *testing.T, dir string) {
	t.Helper()
	f, err := safetensors.OpenPath(dir, train.HeadFile)
	if err != nil {
		t.Fatal(err)
	}
	var entries []safetensors.Entry
	for _, info := range f.Infos() {
		v, shape, err := f.Float32(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range v {
			v[i] *= 20
		}
		entries = append(entries, safetensors.Entry{Name: info.Name, Shape: shape, Float32: v})
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := errors.Join(f.Close(), root.Remove(train.HeadFile), safetensors.WriteFile(root, train.HeadFile, entries, nil)); err != nil {
		t.Fatal(err)
	}
}

// TestPPOFromYAML: such a configuration trains a model whose completions the reward model scores higher and higher, and exports it, with a reward
// model that is an adapter of the base, and with one that is a model of its own.
func TestPPOFromYAML(t *testing.T) {
	root := fixtures(t)
	for _, kind := range []string{"lora", "full"} {
		t.Run(kind, func(t *testing.T) {
			dir, o := t.TempDir(), options()
			reward := filepath.Join(dir, "reward")
			makeReward(t, root, reward)
			amplify(t, reward)
			write(t, dir, "ppo.yaml", []byte(strings.NewReplacer("ROOT", root, "REWARD", reward, "TYPE", kind).Replace(ppoYAML)))
			spec, inputs, err := o.Load(t.Context(), filepath.Join(dir, "ppo.yaml"), nil)
			if err != nil {
				t.Fatal(err)
			}
			st, err := spec.StageOf("train")
			if err != nil {
				t.Fatal(err)
			}
			if r := st.Train.RL; r == nil || r.RewardFiles == nil || (len(r.RewardFiles.Adapters) == 1) != (kind == "lora") || r.Epochs != 4 || r.MaxNewTokens != 1 || len(r.StopIDs) == 0 {
				t.Fatalf("the stage has %+v", r)
			}
			run, err := localrun.New(t.Context(), localrun.Config{Spec: spec, Inputs: inputs, Handlers: o.Handlers, Dir: dir, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range spec.Stages {
				if err := run.Stage(t.Context(), s.Name); err != nil {
					t.Fatal(err)
				}
			}
			var rewards []float64
			for _, e := range run.Events() {
				if v, ok := e.Values["reward"]; ok && e.Type == schemas.EventStep {
					rewards = append(rewards, v)
				}
			}
			if len(rewards) != 16 {
				t.Fatalf("%d steps: %v", len(rewards), rewards)
			}
			mean := func(v []float64) (s float64) {
				for _, x := range v {
					s += x / float64(len(v))
				}
				return s
			}
			if first, last := mean(rewards[:3]), mean(rewards[13:]); last < first+1 {
				t.Errorf("rewards went from %g to %g: %v", first, last, rewards)
			} else {
				t.Logf("rewards went from %g to %g", first, last)
			}
		})
	}
}
