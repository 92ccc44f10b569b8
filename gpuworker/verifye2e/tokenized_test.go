package verifye2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/localrun"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestTokenizedByLLaMAFactory trains on what the real LLaMA-Factory tokenized and saved (testdata, by record.py), without the rows that it was
// made of, and compares with its losses and predictions, in every stage.
func TestTokenizedByLLaMAFactory(t *testing.T) {
	for _, name := range []string{"tokenized", "tokenized_neat", "tokenized_packing", "tokenized_dpo", "tokenized_kto", "tokenized_rm", "tokenized_pt", "tokenized_predict"} {
		t.Run(name, func(t *testing.T) { recorded(t, name, `"../data"`, `"./none"`) })
	}
}

// sameSaved compares two saved data sets, ours and LLaMA-Factory's, as datasets loads them.
const sameSaved = `
import sys, datasets
ours, theirs = (datasets.load_from_disk(p) for p in sys.argv[1:3])
assert list(ours) == list(theirs), (ours, theirs)
for split, want in theirs.items():
    got = ours[split]
    assert got.features == want.features, (split, got.features, want.features)
    assert got.column_names == want.column_names, (split, got.column_names, want.column_names)
    assert len(got) == len(want), (split, len(got), len(want))
    for i, (a, b) in enumerate(zip(got, want)):
        assert a == b, (split, i, {k: (a[k], b[k]) for k in a if a[k] != b[k]})
print(sum(map(len, theirs.values())), "rows")
`

// TestSavedAsLLaMAFactorySaves: what a run saves is, for the datasets library, what the real LLaMA-Factory saved from the same configuration.
func TestSavedAsLLaMAFactorySaves(t *testing.T) {
	root, python := fixtures(t), fixturetest.LLaMAFactory(t)
	for _, name := range []string{"tokenized", "tokenized_neat", "tokenized_packing", "tokenized_dpo", "tokenized_rm", "tokenized_predict"} {
		t.Run(name, func(t *testing.T) {
			from, err := filepath.Abs(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			file := "train.yaml"
			if name == "tokenized_predict" {
				file = "predict.yaml"
			}
			yaml, err := os.ReadFile(filepath.Join(from, file))
			if err != nil {
				t.Fatal(err)
			}
			dir, o := t.TempDir(), options()
			write(t, dir, file, []byte(strings.NewReplacer(`"../`, `"`+root+"/").Replace(string(yaml))))
			spec, inputs, err := o.Load(t.Context(), filepath.Join(dir, file), nil)
			if err != nil {
				t.Fatal(err)
			}
			run, err := localrun.New(t.Context(), localrun.Config{Spec: spec, Inputs: inputs, Handlers: o.Handlers, Dir: dir, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := run.Stage(t.Context(), "prep"); err != nil {
				t.Fatal(err)
			}
			saved, n := t.TempDir(), 0
			prefix := schemas.RunPrefix(spec.Tenant, spec.ID) + "output/" + prep.SavedFolder + "/"
			for x, err := range run.Objects().List(t.Context(), prefix) {
				if err != nil {
					t.Fatal(err)
				}
				b, _, err := run.Objects().Get(t.Context(), x.Key, 64<<20)
				if err != nil {
					t.Fatal(err)
				}
				to := filepath.Join(saved, strings.TrimPrefix(x.Key, prefix))
				if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
					t.Fatal(err)
				}
				write(t, filepath.Dir(to), filepath.Base(to), b)
				n++
			}
			out, err := exec.CommandContext(t.Context(), python, "-c", sameSaved, saved, filepath.Join(from, "tokenized")).CombinedOutput()
			if err != nil || n == 0 || !strings.Contains(string(out), "rows") {
				t.Fatalf("%d files: %v\n%s", n, err, out)
			}
		})
	}
}

// TestSpecialTokensOfPredictions compares texts that keep special tokens, padding among them, with those of the real LLaMA-Factory.
func TestSpecialTokensOfPredictions(t *testing.T) { recorded(t, "predict_special") }

// recorded repeats a run of testdata; replace are pairs that its configuration changes by.
func recorded(t *testing.T, name string, replace ...string) {
	t.Helper()
	root, dir := fixtures(t), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	file := "train.yaml"
	if _, err := os.Stat(filepath.Join(dir, file)); os.IsNotExist(err) {
		file = "predict.yaml"
	}
	yaml, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, file, []byte(strings.NewReplacer(append(replace, `"../`, `"`+root+"/")...).Replace(string(yaml))))
	if r := verifyDir(t, dir, options()); r.Err() != nil || r.Compared < 5 {
		t.Fatalf("%d compared: %v", r.Compared, r.Err())
	}
}
