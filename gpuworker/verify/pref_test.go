package verify

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
)

// inputsAlone copies a training folder with what is an input of pref, generate and grad_accum only.
func inputsAlone(t *testing.T, dir string) string {
	t.Helper()
	out := t.TempDir()
	keep := func(name string, tensors ...string) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		f, err := safetensors.Open(root, name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var es []safetensors.Entry
		for _, n := range tensors {
			i, _ := f.Info(n)
			e := safetensors.Entry{Name: n, Shape: i.Shape}
			if i.DType == safetensors.I64 {
				e.Int64, _, err = f.Int64(n)
			} else {
				e.Float32, _, err = f.Float32(n)
			}
			if err != nil {
				t.Fatal(err)
			}
			es = append(es, e)
		}
		to, err := os.OpenRoot(out)
		if err != nil {
			t.Fatal(err)
		}
		defer to.Close()
		if err := to.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := safetensors.WriteFile(to, name, es, nil); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "summary.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "summary.json"), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(out, "full_adamw"), 0o755); err != nil {
		t.Fatal(err)
	}
	keep("batches.safetensors", "input_ids", "attention_mask", "labels")
	keep("grad_accum.safetensors", "input_ids", "attention_mask", "labels")
	keep("generate.safetensors", "prompt_ids", "sampling_context_ids")
	var pairs, kto []string
	for _, n := range []string{"input_ids", "attention_mask", "labels"} {
		pairs = append(pairs, "chosen_"+n, "rejected_"+n)
		kto = append(kto, n, "kl_"+n)
	}
	keep("pref/batch.safetensors", pairs...)
	keep("pref/kto_batch.safetensors", append(kto, "desirable")...)
	keep("pref/reward.safetensors", "v_head.weight", "v_head.bias")
	return out
}

// References whose results were taken out, and whose settings or empty lists are left, are absent: nothing is compared with what is not there.
func TestEmptiedReferencesAreAbsent(t *testing.T) {
	dir := filepath.Join(fixtures(t), "train", "llama3")
	in := inputsAlone(t, dir)
	for name, text := range map[string]string{
		"pref/losses.json":           `{"beta": 0.1, "kto": {"desirable_weight": 1.0, "undesirable_weight": 1.3}, "reward_pairwise": {}, "dpo_sigmoid": {}}`,
		"full_adamw/trajectory.json": `{"log": [{"step": 0, "lr": 0.0, "num_label_tokens": 40}]}`,
	} {
		if err := os.WriteFile(filepath.Join(in, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Emit: t.TempDir(), Base: filepath.Join(fixtures(t), "models", "llama3")}
	rep, err := VerifyTrain(context.Background(), in, o)
	mustPass(t, rep, err)
	for _, want := range []string{"full_adamw/trajectory.json", "pref/losses.json:kto.kl", "pref/losses.json:kto.kl_raw", "pref/losses.json:reward_pairwise.accuracy"} {
		if !slices.Contains(rep.Absent, want) {
			t.Errorf("%s is not named as absent: %v", want, rep.Absent)
		}
	}
	// Who does not emit wants to compare: then an empty trajectory is a failure.
	rep, err = VerifyTrain(context.Background(), in, Options{Base: o.Base, Runs: []string{"full_adamw"}})
	if err != nil || rep.Pass {
		t.Errorf("pass %t, error %v", rep.Pass, err)
	}
}

// From inputs alone (the policy is then the engine's own) the emitted files hold the fixture's keys with values near its own.
func TestPreferencesAreEmittedFromInputs(t *testing.T) {
	dir := filepath.Join(fixtures(t), "train", "llama3")
	out := t.TempDir()
	rep, err := VerifyTrain(context.Background(), inputsAlone(t, dir), Options{Emit: out, Base: filepath.Join(fixtures(t), "models", "llama3")})
	mustPass(t, rep, err)
	for _, name := range []string{"pref/logps.safetensors", "pref/dpo_sigmoid.safetensors", "pref/dpo_ipo.safetensors", "pref/orpo_trl.safetensors", "pref/simpo.safetensors",
		"pref/kto.safetensors", "pref/reward.safetensors", "generate.safetensors", "grad_accum.safetensors"} {
		want, got := openFile(t, dir, name), openFile(t, out, name)
		for _, i := range want.Infos() {
			j, ok := got.Info(i.Name)
			if !ok || i.DType != j.DType || !equal(i.Shape, j.Shape) {
				t.Errorf("%s: %s is %v %v, in the fixture %v %v", name, i.Name, j.DType, j.Shape, i.DType, i.Shape)
				continue
			}
			if i.DType != safetensors.F32 {
				continue
			}
			a, _, err := got.Float32(i.Name)
			if err != nil {
				t.Fatal(err)
			}
			b, _, err := want.Float32(i.Name)
			if err != nil {
				t.Fatal(err)
			}
			// The policies differ by what 20 steps drift apart.
			if row := l2(i.Name, a, b, func(k int) bool { return b[k] > filtered/2 }, 1e-3, 1e-4); !row.OK {
				t.Errorf("%s: %s is off by %g, limit %g", name, i.Name, row.Error, row.Limit)
			}
		}
	}
	var want, got map[string]json.RawMessage
	for file, v := range map[string]any{filepath.Join(dir, "pref", "losses.json"): &want, filepath.Join(out, "pref", "losses.json"): &got} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, v); err != nil {
			t.Fatal(err)
		}
	}
	for name, raw := range want {
		var a, b lossNorm
		if name == "checks" || json.Unmarshal(raw, &a) != nil {
			continue
		}
		if err := json.Unmarshal(got[name], &b); err != nil || b.Loss == nil || b.GradNorm == nil {
			t.Errorf("%s was not emitted: %v", name, err)
			continue
		}
		if math.Abs(*a.Loss-*b.Loss) > 1e-3**a.Loss || math.Abs(*a.GradNorm-*b.GradNorm) > 1e-3**a.GradNorm {
			t.Errorf("%s: loss %g and norm %g, in the fixture %g and %g", name, *b.Loss, *b.GradNorm, *a.Loss, *a.GradNorm)
		}
	}
}

func openFile(t *testing.T, dir, name string) *safetensors.File {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	f, err := safetensors.Open(root, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
