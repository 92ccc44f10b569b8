package verifye2e_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/gpuworker/export"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/gpuworker/verify"
	"github.com/tunefleet/tunefleet/gpuworker/verifye2e"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

func fixtures(t *testing.T) string {
	t.Helper()
	return fixturetest.Dir(t, "e2e")
}

func options() verifye2e.Options {
	return verifye2e.Options{
		Load: func(ctx context.Context, file string, overrides []string) (*schemas.RunSpec, []localrun.Input, error) {
			r, err := config.Load(ctx, file, config.Options{Overrides: overrides})
			if err != nil {
				return nil, nil, err
			}
			var in []localrun.Input
			for _, x := range r.Inputs {
				in = append(in, localrun.Input{Local: x.Local, File: x.File})
			}
			return r.Spec, in, nil
		},
		Handlers: map[schemas.StageKind]consume.Handler{schemas.KindPrep: prep.Handle, schemas.KindTrain: train.NewHandler(train.Options{Answers: evaluate.TrainAnswers}), schemas.KindEval: evaluate.Handle, schemas.KindExport: export.Handle},
	}
}

func verifyDir(t *testing.T, dir string, o verifye2e.Options) *verify.Report {
	t.Helper()
	r, err := verifye2e.Verify(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// quick are runs of every kind that take a second or two; the others are run with TUNEFLEET_E2E=all.
var quick = []string{"dpo_lora_sigmoid", "export_lora", "kto_lora", "predict_memo", "pt_full_packing", "rm_lora", "sft_dora_interleave", "sft_full_ddp2", "sft_mask_history_tools"}

func TestRunsOfLLaMAFactory(t *testing.T) {
	root := fixtures(t)
	names := quick
	if os.Getenv("TUNEFLEET_E2E") == "all" {
		names = nil
		all, err := filepath.Glob(filepath.Join(root, "*", "*.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			names = append(names, filepath.Base(filepath.Dir(f)))
		}
	}
	for _, n := range names {
		t.Run(n, func(t *testing.T) {
			r := verifyDir(t, filepath.Join(root, n), options())
			if err := r.Err(); err != nil || r.Compared < 25 {
				t.Fatalf("%d compared: %v", r.Compared, err)
			}
		})
	}
}

// TestInitialWeightsFromTheSeed: without the recorded initial adapter and value head, the seed of the configuration gives the same ones.
func TestInitialWeightsFromTheSeed(t *testing.T) {
	root := fixtures(t)
	for _, n := range []string{"kto_lora", "rm_lora", "sft_dora_interleave"} {
		t.Run(n, func(t *testing.T) {
			dir := copyRun(t, root, n, func(file string, b []byte) []byte {
				if strings.HasPrefix(file, "init_adapter/") {
					return nil
				}
				return b
			})
			if r := verifyDir(t, dir, options()); r.Err() != nil || r.Compared < 25 {
				t.Fatalf("%d compared: %v", r.Compared, r.Err())
			}
		})
	}
}

// copyRun copies a run's folder; change may rewrite a file, nil drops it.
func copyRun(t *testing.T, root, name string, change func(file string, b []byte) []byte) string {
	t.Helper()
	top := t.TempDir()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != name {
			if err := os.Symlink(filepath.Join(root, e.Name()), filepath.Join(top, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = filepath.WalkDir(filepath.Join(root, name), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if b = change(filepath.ToSlash(strings.TrimPrefix(rel, name+"/")), b); b == nil {
			return nil
		}
		to := filepath.Join(top, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(top, name)
}

// TestABrokenTwinIsNamed: one loss, one id, one word of a prediction that is changed is found and named.
func TestABrokenTwinIsNamed(t *testing.T) {
	root := fixtures(t)
	for _, c := range []struct{ run, file, old, new, want string }{
		{"kto_lora", "full_log.jsonl", `"step": 1, "epoch": 0.037037037037037035, "loss_exact": 0.5,`, `"step": 1, "epoch": 0.037037037037037035, "loss_exact": 0.5001,`, "full_log.jsonl:step 1 loss"},
		{"kto_lora", "full_log.jsonl", `"eval_loss": 0.5`, `"eval_loss": 0.6`, "eval_loss"},
		{"kto_lora", "batches.jsonl", `[2032, 2035,`, `[2032, 2036,`, "batches.jsonl"},
		{"predict_memo", "out/generated_predictions.jsonl", "How can I assist you today?\", \"label", "How can I assist you now?\", \"label", "generated_predictions.jsonl:1 predict"},
		{"predict_memo", "out/predict_results.json", `"predict_bleu-4": 8`, `"predict_bleu-4": 9`, "predict_bleu-4"},
	} {
		t.Run(c.want, func(t *testing.T) {
			dir := copyRun(t, root, c.run, func(file string, b []byte) []byte {
				if file != c.file {
					return b
				}
				out := bytes.Replace(b, []byte(c.old), []byte(c.new), 1)
				if bytes.Equal(out, b) {
					t.Fatalf("%s does not hold %s", file, c.old)
				}
				return out
			})
			r := verifyDir(t, dir, options())
			if err := r.Err(); r.Failed != 1 || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%d failed: %v", r.Failed, err)
			}
		})
	}
}

// TestInputsAlone: a folder without results is computed and written in the fixture's layout, which then verifies the original.
func TestInputsAlone(t *testing.T) {
	root := fixtures(t)
	strip := regexp.MustCompile(`\.(jsonl|json|safetensors|png|txt)$`)
	for _, c := range []struct{ run, emitted, place string }{{"kto_lora", "full_log.jsonl", "full_log.jsonl"}, {"predict_memo", "generated_predictions.jsonl", "out/generated_predictions.jsonl"}} {
		t.Run(c.run, func(t *testing.T) {
			bare := copyRun(t, root, c.run, func(file string, b []byte) []byte {
				if strip.MatchString(file) && !strings.HasPrefix(file, "init_adapter/") {
					return nil
				}
				return b
			})
			o := options()
			o.Emit = filepath.Join(t.TempDir(), "emit")
			if r := verifyDir(t, bare, o); !r.Pass || len(r.Absent) == 0 || len(r.Emitted) == 0 {
				t.Fatalf("%+v", r)
			}
			b, err := os.ReadFile(filepath.Join(o.Emit, c.emitted))
			if err != nil {
				t.Fatal(err)
			}
			// What was written stands for the reference: the run agrees with it.
			dir := copyRun(t, root, c.run, func(file string, old []byte) []byte {
				if file == c.place {
					return b
				}
				return old
			})
			if err := verifyDir(t, dir, options()).Err(); err != nil {
				t.Fatal(err)
			}
			if r := verifyDir(t, bare, options()); r.Pass {
				t.Fatal("without references and without --emit the verification passes")
			}
		})
	}
}
