package verifye2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTokenizedByLLaMAFactory trains on what the real LLaMA-Factory tokenized and saved (testdata, by record.py), without the rows that it was
// made of, and compares with its losses.
func TestTokenizedByLLaMAFactory(t *testing.T) {
	root := fixtures(t)
	for _, name := range []string{"tokenized", "tokenized_neat"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
				t.Fatal(err)
			}
			yaml, err := os.ReadFile(filepath.Join(dir, "train.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.NewReplacer(`"../data"`, `"./none"`, `"../`, `"`+root+"/").Replace(string(yaml))
			write(t, dir, "train.yaml", []byte(text))
			if r := verifyDir(t, dir, options()); r.Err() != nil || r.Compared < 5 {
				t.Fatalf("%d compared: %v", r.Compared, r.Err())
			}
		})
	}
}
