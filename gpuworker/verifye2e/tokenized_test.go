package verifye2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTokenizedByLLaMAFactory trains on what the real LLaMA-Factory tokenized and saved (testdata, by record.py), without the rows that it was
// made of, and compares with its losses and predictions, in every stage.
func TestTokenizedByLLaMAFactory(t *testing.T) {
	for _, name := range []string{"tokenized", "tokenized_neat", "tokenized_dpo", "tokenized_kto", "tokenized_rm", "tokenized_pt", "tokenized_predict"} {
		t.Run(name, func(t *testing.T) { recorded(t, name, `"../data"`, `"./none"`) })
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
