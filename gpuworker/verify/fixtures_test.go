package verify

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

func fixtures(t *testing.T) string { return fixturetest.Dir(t) }

func mustPass(t *testing.T, rep *Report, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Rows {
		if !r.OK {
			t.Errorf("%s: error %g, limit %g (%s)", r.Place, r.Error, r.Limit, r.Note)
		}
	}
	if !rep.Pass || rep.Compared == 0 || rep.Err() != nil {
		t.Fatalf("pass %v, %d compared, %v", rep.Pass, rep.Compared, rep.Err())
	}
	if rep.Worst != nil {
		t.Logf("%d compared, worst %s: %.3g of %.3g", rep.Compared, rep.Worst.Place, rep.Worst.Error, rep.Worst.Limit)
	}
}

// TestModelFixtures verifies every folder of the reference set but those that read images.
func TestModelFixtures(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(fixtures(t), "models", "*"))
	if err != nil || len(dirs) < 60 {
		t.Fatalf("%d folders: %v", len(dirs), err)
	}
	vision := map[string]bool{"llava": true, "qwen2_vl": true, "qwen2_5_vl": true}
	for _, dir := range dirs {
		if vision[filepath.Base(dir)] {
			continue
		}
		t.Run(filepath.Base(dir), func(t *testing.T) {
			rep, err := VerifyModel(context.Background(), dir, Options{})
			mustPass(t, rep, err)
		})
	}
}

// TestModelFixturesOnCUDAHost: models of several kinds through the CUDA kernels on their emulation, in f32 and on the tensor cores' path.
func TestModelFixturesOnCUDAHost(t *testing.T) {
	dir := filepath.Join(fixtures(t), "models")
	so, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"llama3", "gemma2", "bloom", "gpt_oss", "deepseek_v3"} {
		for _, dtype := range []string{"fp32", "bf16"} {
			t.Run(name+"/"+dtype, func(t *testing.T) {
				rep, err := VerifyModel(t.Context(), filepath.Join(dir, name), Options{Backend: so, DType: dtype})
				mustPass(t, rep, err)
			})
		}
	}
}

func TestTrainFixtures(t *testing.T) {
	dir := filepath.Join(fixtures(t), "train", "llama3")
	rep, err := VerifyTrain(context.Background(), dir, Options{})
	mustPass(t, rep, err)
	if len(rep.Unsupported) > 0 {
		t.Errorf("unsupported: %v", rep.Unsupported)
	}
	twin := copyTree(t, dir)
	if err := os.Mkdir(filepath.Join(twin, "sorcery"), 0o755); err != nil {
		t.Fatal(err)
	}
	rep, err = VerifyTrain(context.Background(), twin, Options{Runs: []string{"sorcery"}, Base: filepath.Join(dir, "..", "..", "models", "llama3")})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Pass || rep.Worst == nil || rep.Worst.Place != "sorcery" {
		t.Errorf("an unsupported run named explicitly passed: %+v", rep)
	}
}

// copyTree copies a folder of small files so that a test may break it.
func copyTree(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.Walk(to, func(p string, i os.FileInfo, err error) error {
		if err == nil {
			err = os.Chmod(p, 0o755)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// rewrite changes the tensors of a file: change returns false to drop one.
func rewrite(t *testing.T, dir, name string, change func(e *safetensors.Entry) bool) {
	t.Helper()
	f, err := safetensors.OpenPath(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	var es []safetensors.Entry
	for _, i := range f.Infos() {
		e := safetensors.Entry{Name: i.Name, Shape: i.Shape, DType: i.DType}
		if i.DType == safetensors.I64 {
			e.Int64, _, err = f.Int64(i.Name)
		} else {
			e.Float32, _, err = f.Float32(i.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if change(&e) {
			es = append(es, e)
		}
	}
	f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := safetensors.WriteFile(root, name, es, nil); err != nil {
		t.Fatal(err)
	}
}

// mustFail demands a failed report that names the place.
func mustFail(t *testing.T, rep *Report, err error, place string) {
	t.Helper()
	if err != nil {
		if !strings.Contains(err.Error(), place) {
			t.Fatalf("error %v does not name %s", err, place)
		}
		return
	}
	if rep.Pass || rep.Err() == nil {
		t.Fatal("a broken twin passed")
	}
	for _, r := range rep.Rows {
		if !r.OK && strings.Contains(r.Place, place) {
			return
		}
	}
	t.Fatalf("no failed row names %s; the report says %v", place, rep.Err())
}

func modelTwins(t *testing.T, dir string) {
	const grad = "grad.model.layers.1.mlp.up_proj.weight"
	twins := map[string]struct {
		place  string
		change func(e *safetensors.Entry) bool
	}{
		"scaled gradient": {grad, func(e *safetensors.Entry) bool {
			if e.Name == grad {
				for i := range e.Float32 {
					e.Float32[i] *= 1.001
				}
			}
			return true
		}},
		"missing gradient": {grad, func(e *safetensors.Entry) bool { return e.Name != grad }},
		"missing logits":   {"logits", func(e *safetensors.Entry) bool { return e.Name != "logits" }},
		"missing loss":     {"loss", func(e *safetensors.Entry) bool { return e.Name != "loss" }},
		"missing ids":      {"gen.ids", func(e *safetensors.Entry) bool { return e.Name != "gen.ids" }},
		"foreign gradient": {"grad.none", func(e *safetensors.Entry) bool {
			if e.Name == grad {
				e.Name = "grad.none"
			}
			return true
		}},
		"changed label": {"loss", func(e *safetensors.Entry) bool {
			if e.Name == "labels" {
				i := slices.IndexFunc(e.Int64, func(v int64) bool { return v > 0 })
				e.Int64[i]--
			}
			return true
		}},
		"wrong id": {"gen.ids", func(e *safetensors.Entry) bool {
			if e.Name == "gen.ids" {
				e.Int64[5] ^= 1
			}
			return true
		}},
	}
	for name, twin := range twins {
		t.Run(name, func(t *testing.T) {
			broken := copyTree(t, dir)
			rewrite(t, broken, goldenName, twin.change)
			rep, err := VerifyModel(context.Background(), broken, Options{})
			mustFail(t, rep, err, twin.place)
		})
	}
	t.Run("missing weight", func(t *testing.T) {
		broken := copyTree(t, dir)
		const w = "model.layers.0.self_attn.k_proj.weight"
		rewrite(t, broken, "model.safetensors", func(e *safetensors.Entry) bool { return e.Name != w })
		rep, err := VerifyModel(context.Background(), broken, Options{})
		mustFail(t, rep, err, w)
	})
	t.Run("nothing to compare", func(t *testing.T) {
		broken := copyTree(t, dir)
		rewrite(t, broken, goldenName, inputsOnly)
		rep, err := VerifyModel(context.Background(), broken, Options{})
		mustFail(t, rep, err, "logits")
	})
}

func inputsOnly(e *safetensors.Entry) bool {
	return slices.Contains([]string{"input_ids", "attention_mask", "labels", "gen.prompt_ids"}, e.Name)
}

func TestBrokenModelTwinsFail(t *testing.T) {
	modelTwins(t, filepath.Join(fixtures(t), "models", "llama_mha"))
}

// emitsFromInputs checks that what is emitted does not depend on the references.
func emitsFromInputs(t *testing.T, dir string) {
	t.Helper()
	bare := copyTree(t, dir)
	rewrite(t, bare, goldenName, inputsOnly)
	out1, out2 := t.TempDir(), t.TempDir()
	if rep, err := VerifyModel(context.Background(), dir, Options{Emit: out1, Threads: 1}); err != nil || !rep.Pass {
		t.Fatal(err, rep.Err())
	}
	rep, err := VerifyModel(context.Background(), bare, Options{Emit: out2, Threads: 2, Checkpoint: true})
	if err != nil || !rep.Pass || rep.Compared != 0 || !slices.Contains(rep.Absent, "logits") {
		t.Fatalf("inputs alone: %+v, %v", rep, err)
	}
	sameFile(t, out1, out2, goldenName)
	f, err := safetensors.OpenPath(out1, goldenName)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []string{"logits", "loss", "grad_norm", "gen.ids", "grad.model.norm.weight"} {
		if _, ok := f.Info(n); !ok {
			t.Errorf("%s is not emitted", n)
		}
	}
}

func sameFile(t *testing.T, a, b, name string) {
	t.Helper()
	x, err1 := os.ReadFile(filepath.Join(a, name))
	y, err2 := os.ReadFile(filepath.Join(b, name))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if string(x) != string(y) {
		t.Errorf("%s differs", name)
	}
}

func TestEmitDoesNotDependOnReferences(t *testing.T) {
	emitsFromInputs(t, filepath.Join(fixtures(t), "models", "llama32_tied"))
}

// trainTwin copies a training folder and its base model side by side.
func trainTwin(t *testing.T, dir string) (train, base string) {
	t.Helper()
	return copyTree(t, dir), filepath.Join(dir, "..", "..", "models", filepath.Base(dir))
}

func edit(t *testing.T, file string, change func(doc map[string]any)) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	change(doc)
	if raw, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func trainTwins(t *testing.T, from string) {
	runs := []string{"full_adamw", "lora"}
	verify := func(dir, base string) (*Report, error) {
		return VerifyTrain(context.Background(), dir, Options{Base: base, Runs: runs})
	}
	t.Run("truncated trajectory", func(t *testing.T) {
		dir, base := trainTwin(t, from)
		edit(t, filepath.Join(dir, "lora", "trajectory.json"), func(d map[string]any) {
			log := d["log"].([]any)
			d["log"] = log[:len(log)-1]
		})
		rep, err := verify(dir, base)
		mustFail(t, rep, err, "lora/trajectory.json:step")
	})
	t.Run("missing trajectory", func(t *testing.T) {
		dir, base := trainTwin(t, from)
		if err := os.Remove(filepath.Join(dir, "full_adamw", "trajectory.json")); err != nil {
			t.Fatal(err)
		}
		rep, err := verify(dir, base)
		mustFail(t, rep, err, "full_adamw/trajectory.json")
	})
	t.Run("changed label", func(t *testing.T) {
		dir, base := trainTwin(t, from)
		rewrite(t, dir, "batches.safetensors", func(e *safetensors.Entry) bool {
			if e.Name == "labels" {
				i := slices.IndexFunc(e.Int64, func(v int64) bool { return v > 0 })
				e.Int64[i]--
			}
			return true
		})
		rep, err := verify(dir, base)
		mustFail(t, rep, err, "trajectory.json:step 0 loss")
	})
	t.Run("missing final tensor", func(t *testing.T) {
		dir, base := trainTwin(t, from)
		rewrite(t, filepath.Join(dir, "full_adamw"), "final.safetensors", func(e *safetensors.Entry) bool { return e.Name != "model.norm.weight" })
		rep, err := verify(dir, base)
		mustFail(t, rep, err, "full_adamw/final.safetensors:model.norm.weight")
	})
	t.Run("scaled final tensor", func(t *testing.T) {
		dir, base := trainTwin(t, from)
		rewrite(t, filepath.Join(dir, "full_adamw"), "final.safetensors", func(e *safetensors.Entry) bool {
			if e.Name == "model.norm.weight" {
				for i := range e.Float32 {
					e.Float32[i] *= 1.001
				}
			}
			return true
		})
		rep, err := verify(dir, base)
		mustFail(t, rep, err, "full_adamw/final.safetensors:model.norm.weight")
	})
	t.Run("inputs alone", func(t *testing.T) {
		dir, base := trainTwin(t, from)
		for _, f := range []string{"full_adamw/trajectory.json", "full_adamw/final.safetensors", "lora/trajectory.json", "lora/final", "lora/golden.safetensors"} {
			if err := os.RemoveAll(filepath.Join(dir, filepath.FromSlash(f))); err != nil {
				t.Fatal(err)
			}
		}
		out1, out2 := t.TempDir(), t.TempDir()
		if rep, err := VerifyTrain(context.Background(), from, Options{Base: base, Runs: runs, Emit: out1, Threads: 1}); err != nil || !rep.Pass {
			t.Fatal(err, rep.Err())
		}
		if rep, err := VerifyTrain(context.Background(), dir, Options{Base: base, Runs: runs, Emit: out2, Threads: 2, Checkpoint: true}); err != nil || !rep.Pass {
			t.Fatal(err, rep.Err())
		}
		for _, f := range []string{"full_adamw/trajectory.json", "full_adamw/final.safetensors", "lora/trajectory.json",
			"lora/final/adapter_config.json", "lora/final/adapter_model.safetensors"} {
			sameFile(t, out1, out2, filepath.FromSlash(f))
		}
	})
}

func TestBrokenTrainTwinsFail(t *testing.T) {
	trainTwins(t, filepath.Join(fixtures(t), "train", "llama3"))
}
